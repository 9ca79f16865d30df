"""Bulk import: a stream of NDJSON lines becomes a few large log entries per shard.

    chunks --> lines --> one open group per shard --full, or too much is held--> queue of the shard --> entry --> answer
      ^                                                                                                   |
      +------------------- the client is held back while more than ``held_bytes_max`` wait ---------------+

A line is ``{"user", "key", "value" or "value_b64", "content_type"}``; other fields are ignored, so an export is an import.
``value`` may be any JSON value. If the content type is JSON the document is that JSON, exactly as written; if there is
no content type, or another one, a string is stored as its text and everything else as its JSON. Without a content type
strings and ``value_b64`` become application/octet-stream and other values application/json.

One entry of a shard is on its way at a time, so of two lines with the same key the later one wins; nothing is said about the
order between other lines. Every entry has the deadline of the request for itself: an import may take as long as it likes.

Source: interface.md, "Paths and limits" and "Shapes".
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable

import msgspec
from msgspec import Struct

from ringkeep_core.errors import BadRequest, Overloaded, RingkeepError, TooLarge
from ringkeep_core.hashing import shard_of
from ringkeep_core.ids import (
    IMPORT_LINE_BYTES_MAX,
    VALUE_BYTES_MAX,
    check_content_type,
    check_key,
    check_value,
)
from ringkeep_node.machines.documents import Write
from ringkeep_node.machines.shard.effects import NotApplied, Stored, WriteRequest
from ringkeep_node.runtime.service import REQUEST_BYTES, Service, checked_user, error_of

JSON_TYPE = "application/json"
BYTES_TYPE = "application/octet-stream"
ERRORS_MAX = 100
USERS_KNOWN_MAX = 10_000
ROW_BYTES = 64
"""What a line weighs in an entry beside its strings."""
PAUSE_S = 0.05


class ImportSettings(Struct, frozen=True):
    """Bounds of imports. ``imports_max``: imports at once; the others hold for each of them."""

    imports_max: int = 16
    entries_in_flight_max: int = 32
    entry_lines_max: int = 512
    entry_bytes_max: int = VALUE_BYTES_MAX
    held_bytes_max: int = 8 << 20


class ImportProblem(Struct, frozen=True):
    """A line that was not stored; ``line`` counts from 1."""

    line: int
    code: str
    detail: str


class ImportResult(Struct, frozen=True):
    """What became of an import: its counts, and its first problems in the order of lines."""

    lines: int
    stored: int
    failed: int
    errors: tuple[ImportProblem, ...]


class Line(Struct, gc=False):
    """A line as it is sent."""

    user: str
    key: str
    value: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    value_b64: bytes | msgspec.UnsetType = msgspec.UNSET
    content_type: str | None = None


class _Group(Struct):
    """Lines that become one entry. ``writes`` is keyed by (user, key), so an entry names a key once."""

    writes: dict[tuple[str, str], Write] = {}
    numbers: list[int] = []
    size: int = 0


_decoder = msgspec.json.Decoder(Line)
_text_decoder = msgspec.json.Decoder(str)


def content_of(line: Line) -> tuple[bytes, str]:
    """Return the bytes and the content type that a line stores. Raises ``BadRequest``, ``TooLarge``."""
    content_type = line.content_type
    if line.value_b64 is not msgspec.UNSET:
        if line.value is not msgspec.UNSET:
            raise BadRequest("a line has value or value_b64, not both")
        value, default = line.value_b64, BYTES_TYPE
    elif line.value is msgspec.UNSET:
        raise BadRequest("a line has neither value nor value_b64")
    else:
        value, default = bytes(line.value), JSON_TYPE
        if value[:1] == b'"' and not _is_json(content_type):
            value, default = _text_decoder.decode(value).encode(), BYTES_TYPE
    if content_type is None:
        content_type = default
    elif content_type != JSON_TYPE:
        check_content_type(content_type)
    return check_value(value), content_type


def _is_json(content_type: str | None) -> bool:
    if content_type is None:
        return False
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == JSON_TYPE or media_type.endswith("+json")


class Importer:
    """All imports of a node."""

    def __init__(self, service: Service, settings: ImportSettings) -> None:
        self._service = service
        self._settings = settings
        self._running = 0
        self.lines = {"stored": 0, "failed": 0}
        """What became of the lines of all imports that have ended."""

    async def run(self, chunks: AsyncIterable[bytes], *, timeout_s: float, cause: str = "") -> ImportResult:
        """Store the lines of a body; ``timeout_s`` bounds each entry, not the whole. ``cause`` goes with each entry.

        Raises ``Overloaded`` (nothing was read), ``NoPrimary`` (this node has no map), and what reading the body raises:
        then some lines may have been stored.
        """
        shards = len(self._service.held_map().shards)
        if self._running >= self._settings.imports_max:
            raise Overloaded(f"this node runs {self._running} imports, which is as many as it may")
        self._running += 1
        imported = Import(self._service, self._settings, shards, timeout_s, cause)
        try:
            return await imported.run(chunks)
        finally:
            self._running -= 1
            self.lines["stored"] += imported.stored
            self.lines["failed"] += imported.failed


class Import:
    """One import on its way."""

    def __init__(
        self, service: Service, settings: ImportSettings, shards: int, timeout_s: float, cause: str = ""
    ) -> None:
        self._service = service
        self._settings = settings
        self._shards = shards
        self._timeout_s = timeout_s
        self._cause = cause
        self._shard_of_user: dict[str, int] = {}
        self._open: dict[int, _Group] = {}
        self._closed: dict[int, deque[_Group]] = {}
        self._ready: deque[int] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._held_bytes = 0
        self._open_bytes = 0
        self._changed = asyncio.Event()
        self._number = 0
        self._lines = 0
        self.stored = 0
        self.failed = 0
        self._errors: list[ImportProblem] = []
        self._crashed: BaseException | None = None

    async def run(self, chunks: AsyncIterable[bytes]) -> ImportResult:
        """Read everything, send everything, wait for everything."""
        try:
            await self._read(chunks)
            self._close_all()
        finally:
            await self._settle()
        errors = sorted(self._errors, key=lambda problem: problem.line)[:ERRORS_MAX]
        return ImportResult(self._lines, self.stored, self.failed, tuple(errors))

    async def _settle(self) -> None:
        # Also after the body broke off: what was sent has an outcome, and no task may outlive the request.
        while self._tasks:
            self._changed.clear()
            await self._changed.wait()
        if self._crashed is not None:
            raise self._crashed

    # --- reading -------------------------------------------------------------------------------------------------

    async def _read(self, chunks: AsyncIterable[bytes]) -> None:
        rest = bytearray()
        skipping = False
        async for chunk in chunks:
            end = chunk.rfind(b"\n") + 1
            if not end:
                if not skipping:
                    rest += chunk
                    if len(rest) > IMPORT_LINE_BYTES_MAX:
                        skipping = True
                        rest.clear()
                continue
            if skipping:
                skipping = False
                self._too_long()
                self._take(chunk[chunk.index(b"\n") + 1 : end])
            else:
                self._take(bytes(rest) + chunk[:end])
            rest[:] = chunk[end:]
            await self._hold_back()
        if skipping:
            self._too_long()
        elif rest:
            self._take(bytes(rest))

    async def _hold_back(self) -> None:
        if self._open_bytes > self._settings.held_bytes_max // 2:
            self._close_all()
        while self._held_bytes > self._settings.held_bytes_max and self._tasks:
            self._changed.clear()
            await self._changed.wait()
        if self._crashed is not None:
            raise self._crashed

    def _take(self, block: bytes) -> None:
        """Take whole lines. In the usual case all of them are decoded by one call."""
        if not block:
            return
        if len(block) <= IMPORT_LINE_BYTES_MAX:
            try:
                lines = _decoder.decode_lines(block)
            except (msgspec.DecodeError, UnicodeError, RecursionError):
                lines = []
            # Blank lines are left out by the decoder, but they count for the numbers of the others.
            if lines and len(lines) == block.count(b"\n") + (block[-1:] != b"\n"):
                for line in lines:
                    self._number += 1
                    self._add(line)
                return
        for raw in block.removesuffix(b"\n").split(b"\n"):
            self._take_raw(raw)

    def _take_raw(self, raw: bytes) -> None:
        if len(raw) > IMPORT_LINE_BYTES_MAX:
            self._too_long()
            return
        self._number += 1
        if not raw.strip():
            return
        try:
            line = _decoder.decode(raw)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            self._lines += 1
            self._fail(self._number, "bad_request", f"not an import line: {error}")
            return
        self._add(line)

    def _too_long(self) -> None:
        self._number += 1
        self._lines += 1
        self._fail(self._number, TooLarge.code, f"a line may have {IMPORT_LINE_BYTES_MAX} bytes")

    def _add(self, line: Line) -> None:
        self._lines += 1
        user, key = line.user, line.key
        try:
            shard = self._shard_of_user.get(user)
            if shard is None:
                shard = self._known(user)
            check_key(key)
            value, content_type = content_of(line)
        except RingkeepError as error:
            self._fail(self._number, error.code, error.detail)
            return
        size = len(value) + len(user) + len(key) + ROW_BYTES
        group = self._open.get(shard)
        if group is None:
            group = self._open[shard] = _Group({}, [])
        elif group.size + size > self._settings.entry_bytes_max:
            self._close(shard)
            group = self._open[shard] = _Group({}, [])
        # Taken out first, so that the later line also has the later place.
        group.writes.pop((user, key), None)
        group.writes[user, key] = Write(user, key, value, content_type)
        group.numbers.append(self._number)
        group.size += size
        self._held_bytes += size
        self._open_bytes += size
        if len(group.numbers) >= self._settings.entry_lines_max:
            self._close(shard)

    def _known(self, user: str) -> int:
        checked_user(user)
        if len(self._shard_of_user) >= USERS_KNOWN_MAX:
            self._shard_of_user.clear()
        shard = self._shard_of_user[user] = shard_of(user, self._shards)
        return shard

    # --- sending -------------------------------------------------------------------------------------------------

    def _close_all(self) -> None:
        for shard in list(self._open):
            self._close(shard)

    def _close(self, shard: int) -> None:
        group = self._open.pop(shard)
        self._open_bytes -= group.size
        waiting = self._closed.get(shard)
        if waiting is None:
            self._closed[shard] = deque((group,))
            self._ready.append(shard)
            self._start_some()
        else:
            waiting.append(group)

    def _start_some(self) -> None:
        # A shard stays in ``_closed`` while one of its entries is on its way, and is in ``_ready`` only while none is.
        while self._ready and len(self._tasks) < self._settings.entries_in_flight_max:
            shard = self._ready.popleft()
            task = asyncio.create_task(self._send(shard, self._closed[shard].popleft()))
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            self._crashed = self._crashed or asyncio.CancelledError()
        elif (error := task.exception()) is not None:
            self._crashed = self._crashed or error
        self._start_some()
        self._changed.set()

    async def _send(self, shard: int, group: _Group) -> None:
        error = await self._stored_or_error(shard, group)
        self._held_bytes -= group.size
        if error is None:
            self.stored += len(group.numbers)
        else:
            for number in group.numbers:
                self._fail(number, error.code, error.detail)
        if self._closed[shard]:
            self._ready.append(shard)
        else:
            del self._closed[shard]

    async def _stored_or_error(self, shard: int, group: _Group) -> RingkeepError | None:
        service = self._service
        deadline = service.clock() + self._timeout_s
        request = WriteRequest(
            writes=tuple(group.writes.values()),
            deadline=deadline,
            wall_ms=int(service.wall() * 1000),
            imported=True,
            cause=self._cause,
        )
        remaining_s = self._timeout_s
        while True:
            result = await service.driver.submit(shard, request, timeout_s=remaining_s, size=group.size + REQUEST_BYTES)
            if type(result) is Stored:
                return None
            remaining_s = deadline - service.clock() - PAUSE_S
            if type(result) is not NotApplied or result.code != Overloaded.code or remaining_s <= 0:
                return error_of(result)
            # The node is full of requests, ours among them: come back when some are answered.
            await asyncio.sleep(PAUSE_S)

    def _fail(self, number: int, code: str, detail: str) -> None:
        self.failed += 1
        self._errors.append(ImportProblem(number, code, detail))
        if len(self._errors) > 10 * ERRORS_MAX:
            self._errors.sort(key=lambda problem: problem.line)
            del self._errors[ERRORS_MAX:]
