"""Send a stream of import lines to a cluster, in bounded memory, so that a broken connection costs one chunk.

One reader splits the stream into lanes, one for each primary of the cached map; a lane sends its lines in order, chunk
by chunk, straight to that primary. The lane of a shard never changes during an import, so the lines of one user are
stored in the order of the stream. A chunk that broke, and lines that failed for a passing reason, are sent again: a
line is the put of a whole document, so storing it twice gives the same document (with a later version).

Memory: at most two chunks a lane are held.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable

import msgspec

from ringkeep.answers import ImportProblem, ImportResult
from ringkeep.errors import CLASS_OF_CODE
from ringkeep_core.hashing import shard_of

CHUNK_LINES = 8000
CHUNK_BYTES = 4 << 20
PROBLEMS_MAX = 100
# A cluster of many nodes needs no more streams than this to be busy.
LANES_MAX = 16

Lines = Iterable[bytes] | AsyncIterable[bytes]
"""NDJSON lines, with or without their line ends."""


class Chunk(msgspec.Struct, frozen=True):
    """Lines that travel together, with the number (from 1) that each has in the stream."""

    numbers: tuple[int, ...]
    lines: tuple[bytes, ...]

    def body(self) -> bytes:
        """Return the lines as one NDJSON body."""
        return b"\n".join(self.lines) + b"\n"

    def only(self, places: Iterable[int]) -> Chunk:
        """Return the lines at these places (from 0) as a smaller chunk."""
        chosen = tuple(places)
        return Chunk(tuple(self.numbers[i] for i in chosen), tuple(self.lines[i] for i in chosen))


class Settled(msgspec.Struct, frozen=True):
    """What one answer settled of a chunk: the counts that are final, and the lines to send again."""

    result: ImportResult
    again: Chunk | None


def settle(chunk: Chunk, answer: ImportResult) -> Settled:
    """Split an answer into what is final and what is to be sent again.

    Lines that failed for a passing reason are sent again. The node lists 100 problems at most: if there were more, it
    is not known which other lines failed, so the whole chunk goes again.
    """
    passing = [problem for problem in answer.errors if _is_passing(problem)]
    if passing and answer.failed > len(answer.errors):
        return Settled(ImportResult(), chunk)
    lasting = tuple(
        msgspec.structs.replace(problem, line=chunk.numbers[problem.line - 1])
        for problem in answer.errors
        if not _is_passing(problem)
    )
    failed = answer.failed - len(passing)
    final = ImportResult(lines=answer.stored + failed, stored=answer.stored, failed=failed, errors=lasting)
    return Settled(final, chunk.only(problem.line - 1 for problem in passing) if passing else None)


def added(total: ImportResult, more: ImportResult) -> ImportResult:
    """Return the sum of two results; the problems with the smallest line numbers are kept."""
    errors = sorted((*total.errors, *more.errors), key=lambda problem: problem.line)
    return ImportResult(
        lines=total.lines + more.lines,
        stored=total.stored + more.stored,
        failed=total.failed + more.failed,
        errors=tuple(errors[:PROBLEMS_MAX]),
    )


def lanes_of(primary_urls: tuple[str | None, ...]) -> tuple[tuple[str | None, ...], tuple[int, ...]]:
    """Return the address of each lane, and the lane of each shard. Without a map there is one lane to any node."""
    urls = tuple(dict.fromkeys(primary_urls))[:LANES_MAX] or (None,)
    lane_of_url = {url: lane for lane, url in enumerate(urls)}
    return urls, tuple(lane_of_url.get(url, shard % len(urls)) for shard, url in enumerate(primary_urls))


class _UserOfLine(msgspec.Struct):
    user: str


_user_decoder = msgspec.json.Decoder(_UserOfLine)


class LaneSplitter:
    """Collects lines into chunks, lane by lane."""

    def __init__(self, lane_of_shard: tuple[int, ...], *, chunk_lines: int = CHUNK_LINES) -> None:
        self._lane_of_shard = lane_of_shard
        self._chunk_lines = chunk_lines
        self._open: dict[int, tuple[list[int], list[bytes]]] = {}
        self._open_bytes: dict[int, int] = {}
        self._number = 0

    def add(self, line: bytes) -> tuple[int, Chunk] | None:
        """Take the next line of the stream; return a lane and its chunk when that is full."""
        self._number += 1
        line = line.rstrip(b"\r\n")
        if not line:
            return None
        lane = self._lane(line)
        numbers, lines = self._open.setdefault(lane, ([], []))
        numbers.append(self._number)
        lines.append(line)
        self._open_bytes[lane] = self._open_bytes.get(lane, 0) + len(line) + 1
        if len(lines) < self._chunk_lines and self._open_bytes[lane] < CHUNK_BYTES:
            return None
        return lane, self._close(lane)

    def rest(self) -> list[tuple[int, Chunk]]:
        """Return the chunks that are not full, at the end of the stream."""
        return [(lane, self._close(lane)) for lane in list(self._open)]

    def _close(self, lane: int) -> Chunk:
        numbers, lines = self._open.pop(lane)
        self._open_bytes[lane] = 0
        return Chunk(tuple(numbers), tuple(lines))

    def _lane(self, line: bytes) -> int:
        if not self._lane_of_shard:
            return 0
        try:
            return self._lane_of_shard[shard_of(_user_decoder.decode(line).user, len(self._lane_of_shard))]
        except (msgspec.DecodeError, UnicodeError):
            return 0  # the node says what is wrong with it


async def run_lanes(
    lines: Lines,
    *,
    lanes: int,
    splitter: LaneSplitter,
    send: Callable[[int, Chunk], Awaitable[ImportResult]],
    on_progress: Callable[[ImportResult], None] | None,
) -> ImportResult:
    """Read ``lines``, give each chunk to ``send`` (one at a time for each lane) and return the summed result."""
    queues: list[asyncio.Queue[Chunk | None]] = [asyncio.Queue(maxsize=1) for _ in range(lanes)]
    total = ImportResult()

    async def work(lane: int) -> None:
        nonlocal total
        while (chunk := await queues[lane].get()) is not None:
            result = await send(lane, chunk)  # awaited first: the other lanes add to the total meanwhile
            total = added(total, result)
            if on_progress is not None:
                on_progress(total)

    async with asyncio.TaskGroup() as group:
        for lane in range(lanes):
            group.create_task(work(lane))
        async for line in _each(lines):
            if (full := splitter.add(line)) is not None:
                await queues[full[0]].put(full[1])
        for lane, chunk in splitter.rest():
            await queues[lane].put(chunk)
        for queue in queues:
            await queue.put(None)
    return total


async def _each(lines: Lines) -> AsyncIterator[bytes]:
    if isinstance(lines, AsyncIterable):
        async for line in lines:
            yield line
    else:
        for line in lines:
            yield line


def _is_passing(problem: ImportProblem) -> bool:
    kind = CLASS_OF_CODE.get(problem.code)
    return kind is not None and kind.retryable
