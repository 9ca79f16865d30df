"""The only way to a file of the log: a folder of flat files, with a real and (in the tests) a simulated form.

Everything that can go wrong on a disk goes wrong behind this interface, so the simulated twin can lose, tear, reorder
and flip what was not synced, and the code above it is the same.

Source: replication.md, Storage (one small disk interface); reliability.md, section 4.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

_F_FULLFSYNC = getattr(fcntl, "F_FULLFSYNC", None)
_NOT_SUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)

WriteThrough = Callable[[int, bytes, int], int]
"""Writes data to a descriptor at an offset in one call; returns how much of it was written, and is on the medium."""


class File(Protocol):
    """An open file. Errors are ``OSError``."""

    def size(self) -> int:
        """Return the length in bytes."""

    def pread(self, size: int, offset: int) -> bytes:
        """Return up to ``size`` bytes from ``offset``; fewer only at the end of the file."""

    def pwrite(self, data: bytes, offset: int) -> None:
        """Write all of ``data`` at ``offset``. It is durable only after sync()."""

    def pwrite_durably(self, data: bytes, offset: int) -> None:
        """Write all of ``data`` at ``offset`` and return when it is on the medium. An error is final, as of sync()."""

    def sync(self) -> None:
        """Return when everything written is on the medium. An error is final: a second try would lie."""

    def close(self) -> None:
        """Close the file; nothing is synced by it."""


class Disk(Protocol):
    """A folder of files. Making, removing and renaming are durable only after sync_names()."""

    def names(self) -> list[str]:
        """Return the files' names, sorted."""

    def create(self, name: str) -> File:
        """Make an empty file. Raises ``FileExistsError``."""

    def open(self, name: str) -> File:
        """Open a file for reading and writing. Raises ``FileNotFoundError``."""

    def remove(self, name: str) -> None:
        """Remove a file."""

    def sync_names(self) -> None:
        """Return when made and removed names are on the medium."""

    def volume_bytes(self) -> int:
        """Return the size of the volume."""

    def free_bytes(self) -> int:
        """Return how much of the volume is free."""


def full_sync(descriptor: int) -> None:
    """Sync a file or folder for good: on macOS only F_FULLFSYNC reaches the medium."""
    if _F_FULLFSYNC is not None:
        fcntl.fcntl(descriptor, _F_FULLFSYNC)
    elif sys.platform == "linux":
        os.fdatasync(descriptor)
    else:
        os.fsync(descriptor)


def sync_folder(path: Path) -> None:
    """Sync the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _pwrite_through(descriptor: int, data: bytes, offset: int) -> int:
    """Write and sync in one call of the system (Linux; as if the file were open with O_DSYNC, see pwritev2(2)).

    After each call a thread waits for the interpreter, which a busy event loop gives up only twice a millisecond.
    """
    return os.pwritev(descriptor, (data,), offset, os.RWF_DSYNC)


WRITE_THROUGH: WriteThrough | None = _pwrite_through if hasattr(os, "RWF_DSYNC") else None
"""How to write and sync in one call here, if that is possible."""


class RealFile:
    """A file of the operating system."""

    def __init__(self, descriptor: int, write_through: WriteThrough | None = WRITE_THROUGH) -> None:
        self._descriptor = descriptor
        self._write_through = write_through

    def size(self) -> int:
        """Return the length in bytes."""
        return os.fstat(self._descriptor).st_size

    def pread(self, size: int, offset: int) -> bytes:
        """Return up to ``size`` bytes from ``offset``."""
        data = os.pread(self._descriptor, size, offset)
        if len(data) == size or not data:
            return data
        parts = [data]
        read = len(data)
        while read < size and (data := os.pread(self._descriptor, size - read, offset + read)):
            parts.append(data)
            read += len(data)
        return b"".join(parts)

    def pwrite(self, data: bytes, offset: int) -> None:
        """Write all of ``data`` at ``offset``."""
        written = os.pwrite(self._descriptor, data, offset)
        while written < len(data):
            written += os.pwrite(self._descriptor, memoryview(data)[written:], offset + written)

    def pwrite_durably(self, data: bytes, offset: int) -> None:
        """Write all of ``data`` and return when it is on the medium."""
        written = 0
        if self._write_through is not None:
            try:
                written = self._write_through(self._descriptor, data, offset)
            except OSError as error:
                if error.errno not in _NOT_SUPPORTED:
                    raise
                self._write_through = None
        if written < len(data):
            self.pwrite(data[written:], offset + written)
            self.sync()

    def sync(self) -> None:
        """Return when everything written is on the medium."""
        full_sync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


class RealDisk:
    """A folder of the operating system; it is made when missing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if not folder.is_dir():
            folder.mkdir(parents=True)
            sync_folder(folder.parent)

    def names(self) -> list[str]:
        """Return the files' names, sorted."""
        return sorted(entry.name for entry in os.scandir(self._folder) if entry.is_file())

    def create(self, name: str) -> RealFile:
        """Make an empty file."""
        return RealFile(os.open(self._folder / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    def open(self, name: str) -> RealFile:
        """Open a file for reading and writing."""
        return RealFile(os.open(self._folder / name, os.O_RDWR | os.O_CLOEXEC))

    def remove(self, name: str) -> None:
        """Remove a file."""
        os.unlink(self._folder / name)

    def sync_names(self) -> None:
        """Return when made and removed names are on the medium."""
        sync_folder(self._folder)

    def volume_bytes(self) -> int:
        """Return the size of the volume."""
        return shutil.disk_usage(self._folder).total

    def free_bytes(self) -> int:
        """Return how much of the volume is free."""
        return shutil.disk_usage(self._folder).free
