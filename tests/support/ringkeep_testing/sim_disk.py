"""A simulated folder of files that loses, tears, reorders and flips what was not synced.

It keeps, for each file, what is durable and the writes since the last sync, and for the folder the names that are
durable. A power cut builds a new disk: of the unsynced writes any subset of 512-byte sectors reached the medium, in any
order; unsynced names are there or not. Every choice comes from the random source that is passed in.
"""

from __future__ import annotations

from random import Random

SECTOR_BYTES = 512


class PowerCut(Exception):
    """The simulated machine lost its power inside this call."""


class _Content:
    def __init__(self, durable: bytes = b"") -> None:
        self.durable = bytearray(durable)
        self.live = bytearray(durable)
        self.unsynced: list[tuple[int, bytes]] = []
        self.cut_to: int | None = None


class SimFile:
    """An open file of a SimDisk."""

    def __init__(self, disk: SimDisk, content: _Content) -> None:
        self._disk = disk
        self._content = content

    def size(self) -> int:
        """Return the length in bytes."""
        return len(self._content.live)

    def pread(self, size: int, offset: int) -> bytes:
        """Return up to ``size`` bytes from ``offset``."""
        return bytes(self._content.live[offset : offset + size])

    def pwrite(self, data: bytes, offset: int) -> None:
        """Write; a power cut here leaves the write among the unsynced ones."""
        content = self._content
        end = offset + len(data)
        if len(content.live) < end:
            content.live.extend(bytes(end - len(content.live)))
        content.live[offset:end] = data
        content.unsynced.append((offset, bytes(data)))
        self._disk.step()

    def pwrite_durably(self, data: bytes, offset: int) -> None:
        """Write and sync; a power cut may come between the two, as it may within the one call of a real disk."""
        self.pwrite(data, offset)
        self.sync()

    def truncate(self, size: int) -> None:
        """Cut the file (SQLite does); like a write it may be lost until the next sync."""
        content = self._content
        del content.live[size:]
        content.unsynced = [(at, data[: size - at]) for at, data in content.unsynced if at < size]
        content.cut_to = size if content.cut_to is None else min(size, content.cut_to)
        self._disk.step()

    def sync(self) -> None:
        """Make everything written durable; a power cut here comes before that."""
        self._disk.step()
        self._disk.sync_calls += 1
        if self._disk.sync_error is not None:
            raise self._disk.sync_error
        _settle(self._content)

    def close(self) -> None:
        """Do nothing: nothing is synced by closing."""


def _settle(content: _Content) -> None:
    if content.cut_to is not None:
        del content.durable[content.cut_to :]
        content.cut_to = None
    for offset, data in content.unsynced:
        _put(content.durable, offset, data)
    content.unsynced.clear()


def _put(target: bytearray, offset: int, data: bytes) -> None:
    if len(target) < offset + len(data):
        target.extend(bytes(offset + len(data) - len(target)))
    target[offset : offset + len(data)] = data


class SimDisk:
    """A folder in memory. ``cut_at_step``: the step (write, sync, change of names) at which the power fails."""

    def __init__(self, volume_bytes: int = 1 << 40) -> None:
        self._files: dict[str, _Content] = {}
        self._durable_names: dict[str, _Content] = {}
        self._volume_bytes = volume_bytes
        self.steps = 0
        self.sync_calls = 0
        self.cut_at_step: int | None = None
        self.at_cut: SimDisk | None = None
        self.sync_error: OSError | None = None

    def step(self) -> None:
        """Count a step; raise PowerCut when it is the chosen one, and keep what the disk was in ``at_cut``."""
        self.steps += 1
        if self.steps == self.cut_at_step:
            self.at_cut = self.after_kill()
            raise PowerCut

    def names(self) -> list[str]:
        """Return the files' names, sorted."""
        return sorted(self._files)

    def create(self, name: str) -> SimFile:
        """Make an empty file."""
        if name in self._files:
            raise FileExistsError(name)
        self._files[name] = _Content()
        self.step()
        return SimFile(self, self._files[name])

    def open(self, name: str) -> SimFile:
        """Open a file."""
        if name not in self._files:
            raise FileNotFoundError(name)
        return SimFile(self, self._files[name])

    def remove(self, name: str) -> None:
        """Remove a file."""
        del self._files[name]
        self.step()

    def sync_names(self) -> None:
        """Make names durable."""
        self.step()
        self._durable_names = dict(self._files)

    def volume_bytes(self) -> int:
        """Return the size of the volume."""
        return self._volume_bytes

    def free_bytes(self) -> int:
        """Return how much is free."""
        return self._volume_bytes - sum(len(content.live) for content in self._files.values())

    def after_kill(self) -> SimDisk:
        """Return what a killed process leaves: everything written is there, what was unsynced stays unsynced."""
        disk = SimDisk(self._volume_bytes)
        copies: dict[int, _Content] = {}
        for content in [*self._files.values(), *self._durable_names.values()]:
            if id(content) not in copies:
                copied = _Content(bytes(content.durable))
                copied.live = bytearray(content.live)
                copied.unsynced = list(content.unsynced)
                copied.cut_to = content.cut_to
                copies[id(content)] = copied
        disk._files = {name: copies[id(content)] for name, content in self._files.items()}
        disk._durable_names = {name: copies[id(content)] for name, content in self._durable_names.items()}
        return disk

    def after_power_cut(self, random: Random) -> SimDisk:
        """Return one of the disks that a power cut at this moment may leave."""
        disk = SimDisk(self._volume_bytes)
        for name in sorted({*self._files, *self._durable_names}):
            durable, live = self._durable_names.get(name), self._files.get(name)
            content = live if live is not None and (durable is live or random.random() < 0.5) else durable
            if content is not None:
                disk._files[name] = _Content(_survived(content, random))
        disk._durable_names = dict(disk._files)
        return disk

    def flip(self, random: Random) -> tuple[str, int] | None:
        """Flip one durable bit anywhere; return the file and the byte, or None when there is none."""
        sizes = [(name, len(content.durable)) for name, content in sorted(self._files.items()) if content.durable]
        if not sizes:
            return None
        at = random.randrange(sum(size for _name, size in sizes))
        for name, size in sizes:
            if at < size:
                self.flip_at(name, at, 1 << random.randrange(8))
                return name, at
            at -= size
        raise AssertionError("the byte lies in one of the files")

    def flip_at(self, name: str, offset: int, mask: int = 1) -> None:
        """Flip bits of one byte, as rot does: durable and visible at once."""
        content = self._files[name]
        content.durable[offset] ^= mask
        content.live[offset] ^= mask

    def content(self, name: str) -> bytes:
        """Return what a reader sees of a file."""
        return bytes(self._files[name].live)


def _survived(content: _Content, random: Random) -> bytes:
    result = bytearray(content.durable)
    if content.cut_to is not None and random.random() < 0.5:
        del result[content.cut_to :]
    writes = list(content.unsynced)
    random.shuffle(writes)
    for offset, data in writes:
        fate = random.random()
        if fate < 0.3:
            continue
        if fate < 0.5:
            _put(result, offset, data)
            continue
        share = random.choice((0.1, 0.5, 0.9))
        for start in range(0, len(data), SECTOR_BYTES):
            if random.random() < share:
                _put(result, offset + start, data[start : start + SECTOR_BYTES])
    return bytes(result)
