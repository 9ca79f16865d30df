"""The data directory: whose it is, and that one process uses it.

    <directory>/identity.json   name, storage id, salt of the log's checksums, cluster id or none; replaced whole, synced
    <directory>/lock            flock while a process uses the directory; its death frees it
    <directory>/log/            the segments
    <directory>/store/          the SQLite file
    <directory>/left.json       once the cluster has said that this storage id has left for good: which one, and whose

A storage id is made with the directory and names what it holds for ever; a directory without a readable identity but
with data is refused, because a new identity on old data would be a copy that nobody can judge. What has left may be
emptied at the next start, if people want that, and gets a new storage id:

    left.json --data deleted--> identity.json with a new storage id --> left.json deleted; a crash repeats the step

Source: replication.md, rules 0 and 8, and "Bootstrap"; counterexamples.md S9 and S11.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from ringkeep_core.errors import DirectoryInUse, ForeignDirectory, StartRefused
from ringkeep_core.ids import is_identity
from ringkeep_node.runtime.disk import sync_folder

IDENTITY_NAME = "identity.json"
LOCK_NAME = "lock"
LEFT_NAME = "left.json"
LOG_FOLDER = "log"
STORE_FOLDER = "store"
NOT_OURS = frozenset({LOCK_NAME, f"{IDENTITY_NAME}.new", "lost+found"})
"""What an empty directory may hold: the file system of a whole volume has a folder of its own at the top."""
FORMAT = 1


class Identity(Struct, frozen=True):
    """What a data directory says about itself. ``cluster_id`` is empty while it belongs to none."""

    format: int
    name: str
    storage_id: str
    salt: str
    cluster_id: str = ""


class LeftMark(Struct, frozen=True):
    """That a storage id has left its cluster for good, as the cluster itself said."""

    storage_id: str
    cluster_id: str


_decoder = msgspec.json.Decoder(Identity)
_mark_decoder = msgspec.json.Decoder(LeftMark)


class Directory:
    """A data directory that this process holds the lock of."""

    def __init__(self, path: Path, identity: Identity, lock: int, emptied: str = "") -> None:
        self.path = path
        self.identity = identity
        self.emptied = emptied
        """The storage id whose data were deleted at this start, because it had left; "" if there was none."""
        self._lock = lock

    @classmethod
    def open(cls, path: Path, name: str, draw_id: Callable[[], str], *, empties_left: bool = False) -> Directory:
        """Lock a directory for the node ``name``, making it when missing.

        ``draw_id`` returns a new random id (16 lower-case hexadecimal digits). A directory that is marked as left is
        emptied with ``empties_left``, else refused. Raises DirectoryInUse, ForeignDirectory or StartRefused, each with one
        sentence; nothing was changed then.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = _lock(path)
        except OSError as error:
            raise StartRefused(f"the data directory {path} cannot be used: {error.strerror}") from error
        try:
            identity = _identity(path, name, draw_id)
            stays = _after_leave(path, identity, draw_id, empties_left=empties_left)
            return cls(path, stays, lock, "" if stays is identity else identity.storage_id)
        except OSError as error:
            os.close(lock)
            raise StartRefused(f"the data directory {path} cannot be used: {error.strerror}") from error
        except BaseException:
            os.close(lock)
            raise

    @property
    def log_folder(self) -> Path:
        """Where the segments are."""
        return self.path / LOG_FOLDER

    @property
    def store_folder(self) -> Path:
        """Where the SQLite file is; made when missing."""
        folder = self.path / STORE_FOLDER
        if not folder.is_dir():
            folder.mkdir()
            sync_folder(self.path)
        return folder

    @property
    def salt(self) -> int:
        """The seed of the log's checksums: random, and known to nobody who stores documents."""
        return int(self.identity.salt, 16)

    def join_cluster(self, cluster_id: str) -> None:
        """Note for good which cluster this directory belongs to; it never changes again. Blocks on the disk."""
        if self.identity.cluster_id == cluster_id:
            return
        assert not self.identity.cluster_id, "a data directory belongs to one cluster for ever"
        identity = msgspec.structs.replace(self.identity, cluster_id=cluster_id)
        _write(self.path, IDENTITY_NAME, identity)
        self.identity = identity

    def mark_left(self) -> None:
        """Note for good that this storage id has left, as the cluster itself has said. Blocks on the disk."""
        _write(self.path, LEFT_NAME, LeftMark(self.identity.storage_id, self.identity.cluster_id))

    def close(self) -> None:
        """Let go of the lock."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def _lock(path: Path) -> int:
    descriptor = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise DirectoryInUse(f"the data directory {path} is in use by another process") from error
        raise
    return descriptor


def _identity(path: Path, name: str, draw_id: Callable[[], str]) -> Identity:
    file = path / IDENTITY_NAME
    if not file.exists():
        held = sorted(entry.name for entry in path.iterdir() if entry.name not in NOT_OURS)
        if held:
            raise StartRefused(
                f"the data directory {path} has no {IDENTITY_NAME} but holds {held[0]!r}: it is not ours"
            )
        identity = Identity(FORMAT, name, draw_id(), draw_id())
        _write(path, IDENTITY_NAME, identity)
        return identity
    try:
        identity = _decoder.decode(file.read_bytes())
    except msgspec.DecodeError as error:
        raise StartRefused(f"{file} is damaged: {error}") from error
    if identity.format != FORMAT:
        raise StartRefused(f"{file} has format {identity.format}, this version reads {FORMAT}")
    ids = (identity.storage_id, identity.salt, identity.cluster_id or identity.storage_id)
    if not all(is_identity(one) for one in ids):
        raise StartRefused(f"{file} is damaged: it holds an id that is none")
    if identity.name != name:
        raise ForeignDirectory(f"the data directory {path} belongs to the node {identity.name!r}, not to {name!r}")
    return identity


def _after_leave(path: Path, identity: Identity, draw_id: Callable[[], str], *, empties_left: bool) -> Identity:
    """Return the identity to go on with: the same one, or a new one in a directory that was emptied."""
    file = path / LEFT_NAME
    if not file.exists():
        return identity
    try:
        mark = _mark_decoder.decode(file.read_bytes())
    except msgspec.DecodeError as error:
        raise StartRefused(f"{file} is damaged: {error}") from error
    if mark.storage_id == identity.storage_id:
        if not empties_left:
            raise StartRefused(
                f"{identity.name} has left cluster {mark.cluster_id} for good; empty its directory to use it again"
            )
        for folder in (LOG_FOLDER, STORE_FOLDER):
            if (path / folder).exists():
                shutil.rmtree(path / folder)
        # Nothing of the old copies may be found under the new identity, whatever the machine does now.
        sync_folder(path)
        identity = Identity(FORMAT, identity.name, draw_id(), draw_id())
        _write(path, IDENTITY_NAME, identity)
    # Otherwise the mark names an identity that is gone: a crash came before the mark could follow it.
    file.unlink()
    sync_folder(path)
    return identity


def _write(path: Path, name: str, content: Identity | LeftMark) -> None:
    new = path / f"{name}.new"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, msgspec.json.encode(content) + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    new.rename(path / name)
    sync_folder(path)
    sync_folder(path.parent)
