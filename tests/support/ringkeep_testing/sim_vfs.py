"""SQLite on a simulated disk: every write, sync and cut of its files goes through a SimDisk.

A Python file layer has no shared memory, so WAL mode needs exclusive locking here: one connection, as in this process
nothing else opens the simulated files.
"""

from __future__ import annotations

import apsw

from ringkeep_testing.sim_disk import SimDisk


class SimVfs(apsw.VFS):
    """A file layer of SQLite, registered under ``name`` until unregister()."""

    def __init__(self, name: str, disk: SimDisk) -> None:
        self.disk = disk
        super().__init__(name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> SimVfsFile:
        """Open or make a file. Like SQLite's own layer on Unix it makes a new name durable."""
        assert name is not None
        path = _short(name if isinstance(name, str) else name.filename())
        flags[1] = flags[0]
        if path not in self.disk.names():
            self.disk.create(path)
            self.disk.sync_names()
        return SimVfsFile(self.disk, path)

    def xAccess(self, pathname: str, flags: int) -> bool:
        """Return whether a file exists."""
        return _short(pathname) in self.disk.names()

    def xDelete(self, filename: str, syncdir: bool) -> None:
        """Remove a file."""
        self.disk.remove(_short(filename))
        if syncdir:
            self.disk.sync_names()

    def xFullPathname(self, name: str) -> str:
        """Return the name: there are no folders."""
        return name


class SimVfsFile(apsw.VFSFile):
    """An open file of SQLite on a SimDisk."""

    def __init__(self, disk: SimDisk, name: str) -> None:
        self._file = disk.open(name)

    def xRead(self, amount: int, offset: int) -> bytes:
        """Read."""
        return self._file.pread(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:
        """Write."""
        self._file.pwrite(bytes(data), offset)

    def xTruncate(self, newsize: int) -> None:
        """Cut."""
        self._file.truncate(newsize)

    def xSync(self, flags: int) -> None:
        """Sync."""
        self._file.sync()

    def xFileSize(self) -> int:
        """Return the size."""
        return self._file.size()

    def xLock(self, level: int) -> None:
        """Do nothing: one connection."""

    def xUnlock(self, level: int) -> None:
        """Do nothing: one connection."""

    def xCheckReservedLock(self) -> bool:
        """Return False: one connection."""
        return False

    def xFileControl(self, op: int, ptr: int) -> bool:
        """Know no control."""
        return False

    def xSectorSize(self) -> int:
        """Return the simulated disk's sector."""
        return 512

    def xDeviceCharacteristics(self) -> int:
        """Promise SQLite nothing."""
        return 0

    def xClose(self) -> None:
        """Do nothing."""


def _short(path: str) -> str:
    return path.rsplit("/", 1)[-1]
