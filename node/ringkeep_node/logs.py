"""Logs: one JSON object a line on standard output, written by a thread that nobody waits for.

    code --structlog--> line --bounded queue--> [ log thread ] --> standard output
                                  |
                                  +-- full: dropped and counted; the next line that fits says how many

A reader that stops reading (a full pipe) would otherwise stop the event loop, and a stopped loop looks like a dead node.
Lines have a stable ``event`` in snake_case, ``level``, ``time`` and ``node``; never a document's bytes. Levels: error = a
person must act, warning = redundancy was used up, info = a state changed, debug = a message moved.

Source: reliability.md, section 6, item 11; style.md, item 10.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, MutableMapping
from typing import Any, Final

import msgspec
import structlog

BATCH_LINES: Final = 256
STOP_S: Final = 1.0
LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class LineWriter:
    """Writes lines to a file descriptor from a thread of its own; ``write`` never waits."""

    def __init__(self, descriptor: int, lines_max: int) -> None:
        self.descriptor = descriptor
        self._queue: queue.Queue[bytes | None] = queue.Queue(lines_max)
        self._thread = threading.Thread(target=self._run, name="logs", daemon=True)
        # Each is counted by one side only, so no lock is needed.
        self._did_not_fit = 0
        self._not_written = 0
        self._told = 0

    @property
    def dropped(self) -> int:
        """Lines lost since the start."""
        return self._did_not_fit + self._not_written

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def write(self, line: bytes) -> None:
        """Queue a line without its end, or drop it."""
        try:
            if self.dropped > self._told:
                self._queue.put_nowait(_dropped_line(self.dropped))
                self._told = self.dropped
            self._queue.put_nowait(line)
        except queue.Full:
            self._did_not_fit += 1

    def stop(self) -> None:
        """Write what is queued, for at most a second: a reader that is stuck must not keep the process."""
        try:
            self._queue.put(None, timeout=STOP_S)
        except queue.Full:
            return
        self._thread.join(STOP_S)

    def pump(self) -> bool:
        """Write the next batch, waiting for its first line; return False after the last one. The thread's work."""
        lines = [self._queue.get()]
        while len(lines) < BATCH_LINES and not self._queue.empty():
            lines.append(self._queue.get())
        ends = None in lines
        if not self._write_all(b"".join(line + b"\n" for line in lines if line is not None)):
            self._not_written += len(lines) - ends
        return not ends

    def _run(self) -> None:
        while self.pump():
            pass

    def _write_all(self, data: bytes) -> bool:
        try:
            while data:
                data = data[os.write(self.descriptor, data) :]
        except OSError:
            return False  # Nobody reads any more; the counter is in /metrics.
        return True


class Sink:
    """What structlog calls with a finished line."""

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer

    def msg(self, line: bytes) -> None:
        """Write a line."""
        self._writer.write(line)

    debug = info = warning = error = critical = exception = msg


def configure(writer: LineWriter, *, level: str, **fields: str) -> None:
    """Let structlog and the standard library's logging write JSON lines; ``fields`` are in every line."""
    structlog.configure(
        processors=[_stamp(fields), structlog.processors.format_exc_info, _render],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_: Sink(writer),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_LibraryHandler(structlog.get_logger())]
    root.setLevel(max(LEVELS[level], logging.WARNING))


class _LibraryHandler(logging.Handler):
    """Takes what libraries log into our lines."""

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record of a library."""
        level = "error" if record.levelno >= logging.ERROR else "warning"
        fields: dict[str, Any] = {"logger": record.name, "text": record.getMessage()}
        if record.exc_info:
            fields["exc_info"] = record.exc_info
        getattr(self._logger, level)("library_message", **fields)


def _stamp(fields: dict[str, str]) -> Callable[[Any, str, MutableMapping[str, Any]], MutableMapping[str, Any]]:
    def stamp(_: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        return {
            "time": _now(),
            "level": "error" if method == "exception" else method,
            "event": event.pop("event"),
            **fields,
            **event,
        }

    return stamp


def _render(_: Any, __: str, event: MutableMapping[str, Any]) -> bytes:
    return msgspec.json.encode(dict(event), enc_hook=repr)


def _now() -> str:
    seconds = time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds * 1000) % 1000:03}Z"


def _dropped_line(count: int) -> bytes:
    return msgspec.json.encode(
        {"time": _now(), "level": "warning", "event": "log_lines_dropped", "dropped_total": count}
    )
