"""The data directory: whose it is, and that one process uses it.

    <directory>/identity.json   name, storage id, salt of the log's checksums, cluster id or none; replaced whole, synced
    <directory>/lock            flock while a process uses the directory; its death frees it
    <directory>/log/            the segments
    <directory>/store/          the SQLite file

A storage id is made with the directory and names what it holds for ever; a directory without a readable identity but
with data is refused, because a new identity on old data would be a copy that nobody can judge.

Source: replication.md, rules 0 and 8, and "Bootstrap"; counterexamples.md S9 and S11.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from ringkeep_core.errors import DirectoryInUse, ForeignDirectory, StartRefused
from ringkeep_core.ids import is_identity
from ringkeep_node.runtime.disk import sync_folder

IDENTITY_NAME = "identity.json"
LOCK_NAME = "lock"
FORMAT = 1


class Identity(Struct, frozen=True):
    """What a data directory says about itself. ``cluster_id`` is empty while it belongs to none."""

    format: int
    name: str
    storage_id: str
    salt: str
    cluster_id: str = ""


_decoder = msgspec.json.Decoder(Identity)


class Directory:
    """A data directory that this process holds the lock of."""

    def __init__(self, path: Path, identity: Identity, lock: int) -> None:
        self.path = path
        self.identity = identity
        self._lock = lock

    @classmethod
    def open(cls, path: Path, name: str, draw_id: Callable[[], str]) -> Directory:
        """Lock a directory for the node ``name``, making it when missing.

        ``draw_id`` returns a new random id (16 lower-case hexadecimal digits). Raises DirectoryInUse, ForeignDirectory or
        StartRefused, each with one sentence; nothing was changed then.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = _lock(path)
        except OSError as error:
            raise StartRefused(f"the data directory {path} cannot be used: {error.strerror}") from error
        try:
            return cls(path, _identity(path, name, draw_id), lock)
        except OSError as error:
            os.close(lock)
            raise StartRefused(f"the data directory {path} cannot be used: {error.strerror}") from error
        except BaseException:
            os.close(lock)
            raise

    @property
    def log_folder(self) -> Path:
        """Where the segments are."""
        return self.path / "log"

    @property
    def store_folder(self) -> Path:
        """Where the SQLite file is; made when missing."""
        folder = self.path / "store"
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
        _write(self.path, identity)
        self.identity = identity

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
        held = sorted(entry.name for entry in path.iterdir() if entry.name not in (LOCK_NAME, f"{IDENTITY_NAME}.new"))
        if held:
            raise StartRefused(
                f"the data directory {path} has no {IDENTITY_NAME} but holds {held[0]!r}: it is not ours"
            )
        identity = Identity(FORMAT, name, draw_id(), draw_id())
        _write(path, identity)
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


def _write(path: Path, identity: Identity) -> None:
    new = path / f"{IDENTITY_NAME}.new"
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, msgspec.json.encode(identity) + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    new.rename(path / IDENTITY_NAME)
    sync_folder(path)
    sync_folder(path.parent)
