"""Logs: JSON lines that nobody waits for, and a counter of those that were lost."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import structlog

from ringkeep_node.logs import LineWriter, configure


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def written(lines_max: int = 1000, *, level: str = "info") -> tuple[LineWriter, int]:
    reading, writing = os.pipe()
    writer = LineWriter(writing, lines_max)
    configure(writer, level=level, node="n1")
    return writer, reading


def lines_of(reading: int) -> list[dict[str, Any]]:
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        return [msgspec.json.decode(line) for line in pipe.read(1 << 20).splitlines()]


def test_a_line_is_an_object_with_time_level_event_and_node() -> None:
    writer, reading = written()
    writer.start()
    logger = structlog.get_logger()
    logger.debug("message_moved")
    logger.info("map_changed", map_version=7, peer=b"\xff")
    logger.warning("member_dead", member="n2", address=("h", 1))
    try:
        raise ValueError("broken")
    except ValueError as error:
        logger.error("request_failed", exc_info=error)
    writer.stop()
    lines = lines_of(reading)

    assert [(line["level"], line["event"], line["node"]) for line in lines] == [
        ("info", "map_changed", "n1"),
        ("warning", "member_dead", "n1"),
        ("error", "request_failed", "n1"),
    ]
    assert (lines[0]["map_version"], lines[1]["address"]) == (7, ["h", 1])
    assert "ValueError: broken" in lines[2]["exception"]
    assert lines[0]["time"].endswith("Z") and len(lines[0]["time"]) == len("2026-01-01T00:00:00.000Z")


def test_what_libraries_log_comes_as_a_line_too() -> None:
    writer, reading = written()
    writer.start()
    logging.getLogger("asyncio").warning("slow %s", "callback")
    logging.getLogger("some.library").info("chatter")
    writer.stop()

    assert [(line["event"], line["logger"], line["text"]) for line in lines_of(reading)] == [
        ("library_message", "asyncio", "slow callback")
    ]


def test_a_reader_that_stopped_reading_costs_lines_and_never_time() -> None:
    writer, reading = written(100)
    logger = structlog.get_logger()
    for number in range(250):
        logger.info("tick", number=number)
    lost = writer.dropped
    reader: list[list[dict[str, Any]]] = []
    thread = threading.Thread(target=lambda: reader.append(lines_of(reading)))
    writer.start()
    writer.stop()
    thread.start()
    thread.join()

    assert lost == 150
    assert [line["number"] for line in reader[0]] == list(range(100))


def test_the_next_line_that_fits_says_how_many_were_lost() -> None:
    writer, reading = written(2)
    logger = structlog.get_logger()
    for number in range(5):
        logger.info("tick", number=number)
    writer.pump()
    logger.info("later")
    writer.pump()
    os.close(writer.descriptor)
    lines = lines_of(reading)

    assert [(line["event"], line.get("dropped_total")) for line in lines] == [
        ("tick", None),
        ("tick", None),
        ("log_lines_dropped", 3),
        ("later", None),
    ]


def test_a_reader_that_is_gone_does_not_end_the_node() -> None:
    writer, reading = written()
    os.close(reading)
    writer.start()
    structlog.get_logger().info("into_the_void")
    writer.stop()

    assert writer.dropped == 1
