"""Bulk import: lines become entries of shards, bad lines are named, memory and order are bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import msgspec
import pytest

from ringkeep_core.errors import BadRequest, Overloaded, RingkeepError
from ringkeep_core.hashing import shard_of
from ringkeep_node.machines.shard.effects import NotApplied, Unknown, WriteRequest
from ringkeep_node.runtime.importing import Importer, ImportProblem, ImportResult, ImportSettings
from ringkeep_node.runtime.service import Service
from ringkeep_testing.fake_driver import FakeDriver
from ringkeep_testing.http_edge import EdgeUnderTest, serve


def line(user: str, key: str, **fields: Any) -> bytes:
    return msgspec.json.encode({"user": user, "key": key, **fields}) + b"\n"


def imported(
    chunks: Iterable[bytes | RingkeepError], driver: FakeDriver, settings: ImportSettings | None = None
) -> ImportResult:
    async def body() -> AsyncIterator[bytes]:
        for chunk in chunks:
            if isinstance(chunk, RingkeepError):
                raise chunk
            yield chunk

    async def whole() -> ImportResult:
        service = Service(driver, clock=asyncio.get_running_loop().time, wall=lambda: 0.0)
        return await Importer(service, settings or ImportSettings()).run(body(), timeout_s=5.0)

    return asyncio.run(whole())


def entries(driver: FakeDriver) -> list[WriteRequest]:
    return [request for _, request, _ in driver.seen if isinstance(request, WriteRequest)]


@pytest.mark.parametrize(
    ("fields", "value", "content_type"),
    [
        ({"value": "ü text"}, "ü text".encode(), "application/octet-stream"),
        ({"value": "text", "content_type": "text/plain"}, b"text", "text/plain"),
        ({"value": "text", "content_type": "application/json"}, b'"text"', "application/json"),
        ({"value": "text", "content_type": "application/ld+json; x=y"}, b'"text"', "application/ld+json; x=y"),
        ({"value": {"a": [1, None]}}, b'{"a":[1,null]}', "application/json"),
        ({"value": None}, b"null", "application/json"),
        ({"value": 7, "content_type": "text/plain"}, b"7", "text/plain"),
        ({"value_b64": "/wA="}, b"\xff\x00", "application/octet-stream"),
        ({"value_b64": "", "content_type": "image/png"}, b"", "image/png"),
        ({"value": 1, "version": 9, "other": "ignored"}, b"1", "application/json"),
    ],
)
def test_a_line_says_what_is_stored(fields: dict[str, Any], value: bytes, content_type: str) -> None:
    driver = FakeDriver()
    result = imported([line("ada", "k", **fields)], driver)
    row = driver.document("ada", "k")

    assert result == ImportResult(1, 1, 0, ())
    assert row is not None and (row.value, row.content_type) == (value, content_type)


def test_json_is_stored_exactly_as_it_is_written() -> None:
    driver = FakeDriver()
    imported([b'{"user":"ada","key":"k","value":{"n": 1.0, "big":123456789012345678901234567890}}'], driver)

    assert driver.documents == {("ada", "k"): b'{"n": 1.0, "big":123456789012345678901234567890}'}


def test_lines_are_found_wherever_the_chunks_end() -> None:
    whole = b"".join(line(f"u{i}", "k", value=i) for i in range(30)) + b"\n  \n" + line("last", "k", value="x").strip()
    for size in (1, 2, 3, 7, 64, 1000):
        driver = FakeDriver()
        result = imported([whole[at : at + size] for at in range(0, len(whole), size)], driver)

        assert result == ImportResult(31, 31, 0, ())
        assert len(driver.documents) == 31


def test_bad_lines_are_named_by_their_number_and_the_others_stored() -> None:
    driver = FakeDriver()
    body = b"".join(
        [
            line("ada", "a", value=1),
            b"\n",
            b"{broken\n",
            line("", "b", value=1),
            line("ada", "c"),
            line("ada", "d", value=1, value_b64=""),
            line("ada", "../e", value=1),
            line("..", "f", value=1),
            b'{"user":"ada","key":7,"value":1}\n',
            line("ada", "g", value_b64="%%"),
            line("ada", "h", value=1, content_type="ü"),
            line("ada", "i", value_b64="A" * 1_398_104),
            b'{"user":"\xff","key":"j","value":1}\n',
            line("ada", "k", value=2),
        ]
    )
    result = imported([body], driver)

    assert (result.lines, result.stored, result.failed) == (13, 2, 11)
    assert [(problem.line, problem.code) for problem in result.errors] == [
        (number, "too_large" if number == 12 else "bad_request") for number in range(3, 14)
    ]
    assert driver.documents == {("ada", "a"): b"1", ("ada", "k"): b"2"}


def test_a_line_that_is_too_long_is_skipped_in_bounded_memory() -> None:
    driver = FakeDriver()
    long = b'{"user":"ada","key":"k","junk":"' + b"x" * (2 << 20) + b'","value":1}\n'
    body = line("ada", "a", value=1) + long + line("ada", "b", value=1) + long.strip()
    for size in (1 << 16, 1 << 23):
        driver = FakeDriver()
        result = imported([body[at : at + size] for at in range(0, len(body), size)], driver)

        assert (result.lines, result.stored, result.failed) == (4, 2, 2)
        assert [(problem.line, problem.code) for problem in result.errors] == [(2, "too_large"), (4, "too_large")]


def test_of_two_lines_with_the_same_key_the_later_one_wins() -> None:
    driver = FakeDriver()
    settings = ImportSettings(entry_lines_max=2, entries_in_flight_max=8)
    body = [line("ada", "k", value=number) for number in range(9)]
    result = imported(body, driver, settings)

    assert result == ImportResult(9, 9, 0, ())
    assert driver.documents == {("ada", "k"): b"8"}
    assert all(
        len({(write.user, write.key) for write in entry.writes}) == len(entry.writes) for entry in entries(driver)
    )


def test_lines_are_grouped_into_few_bounded_entries_of_one_shard_each() -> None:
    driver = FakeDriver()
    settings = ImportSettings(entry_lines_max=100, entry_bytes_max=10_000)
    body = b"".join(line(f"u{i % 50}", f"k{i}", value="x" * 100) for i in range(3000))
    result = imported([body], driver, settings)
    shards = [{shard_of(write.user, 16) for write in entry.writes} for entry in entries(driver)]

    assert (result.stored, len(driver.documents)) == (3000, 3000)
    assert all(found == {shard} for found, (shard, _, _) in zip(shards, driver.seen, strict=True))
    assert max(len(entry.writes) for entry in entries(driver)) <= 100
    assert max(sum(len(write.value or b"") for write in entry.writes) for entry in entries(driver)) <= 10_000
    assert len(driver.seen) < 80 and all(entry.imported for entry in entries(driver))


def test_entries_that_fail_name_each_of_their_lines() -> None:
    driver = FakeDriver()
    driver.failures.extend([NotApplied("no_primary", "nobody leads"), Unknown()])
    users = sorted((f"u{i}" for i in range(40)), key=lambda user: shard_of(user, 16))
    result = imported([line(user, "k", value=1) for user in users], driver, ImportSettings(entries_in_flight_max=1))
    counts = {
        code: sum(problem.code == code for problem in result.errors) for code in ("no_primary", "outcome_unknown")
    }

    assert result.stored == len(driver.documents) == 40 - result.failed
    assert counts["no_primary"] > 0 and counts["outcome_unknown"] > 0 and sum(counts.values()) == result.failed
    assert [problem.line for problem in result.errors] == sorted(problem.line for problem in result.errors)


def test_only_the_first_hundred_problems_are_named_and_all_are_counted() -> None:
    result = imported([b"x\n" * 5000], FakeDriver())

    assert (result.lines, result.failed, len(result.errors)) == (5000, 5000, 100)
    assert [problem.line for problem in result.errors] == list(range(1, 101))
    assert isinstance(result.errors[0], ImportProblem)


def test_an_entry_that_a_full_node_refuses_is_sent_again() -> None:
    driver = FakeDriver()
    driver.failures.extend([NotApplied("overloaded", "full")] * 2)
    result = imported([line("ada", "k", value=1)], driver)

    assert (result, len(driver.seen)) == (ImportResult(1, 1, 0, ()), 3)


def test_the_body_is_read_no_faster_than_it_is_stored() -> None:
    async def whole() -> None:
        driver = FakeDriver()
        driver.held_back = asyncio.Event()
        read = 0

        async def body() -> AsyncIterator[bytes]:
            nonlocal read
            for i in range(200):
                read += 1
                yield line(f"u{i}", "k", value="x" * 1000)

        service = Service(driver, clock=asyncio.get_running_loop().time, wall=lambda: 0.0)
        importer = Importer(service, ImportSettings(held_bytes_max=50_000, entries_in_flight_max=4))
        task = asyncio.create_task(importer.run(body(), timeout_s=5.0))
        for _ in range(500):
            await asyncio.sleep(0)
        read_while_held, open_most = read, driver.open_writes_most
        driver.held_back.set()
        result = await task

        assert read_while_held < 60 and open_most <= 4
        assert result == ImportResult(200, 200, 0, ())

    asyncio.run(whole())


def test_one_entry_of_a_shard_is_on_its_way_at_a_time() -> None:
    async def whole() -> None:
        driver = FakeDriver()
        driver.held_back = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            yield b"".join(line("ada", f"k{i}", value=i) for i in range(10))

        service = Service(driver, clock=asyncio.get_running_loop().time, wall=lambda: 0.0)
        task = asyncio.create_task(Importer(service, ImportSettings(entry_lines_max=1)).run(body(), timeout_s=5.0))
        for _ in range(100):
            await asyncio.sleep(0)
        sent = len(driver.seen)
        driver.held_back.set()

        assert (sent, (await task).stored) == (1, 10)

    asyncio.run(whole())


def test_when_the_body_breaks_off_what_was_sent_is_waited_for() -> None:
    driver = FakeDriver()
    with pytest.raises(BadRequest, match="broke"):
        imported([line("ada", "k", value=1), BadRequest("broke")], driver, ImportSettings(entry_lines_max=1))

    assert driver.documents == {("ada", "k"): b"1"}


def test_an_unexpected_failure_of_the_node_fails_the_import_and_nothing_else() -> None:
    driver = FakeDriver()
    driver.failures.append(RuntimeError("broken"))
    with pytest.raises(RuntimeError, match="broken"):
        imported([line("ada", "k", value=1)], driver)


def test_more_imports_than_allowed_are_refused_at_the_door() -> None:
    with pytest.raises(Overloaded):
        imported([line("ada", "k", value=1)], FakeDriver(), ImportSettings(imports_max=0))


def test_an_import_over_http_is_streamed_and_counted() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        wire = await edge.connect()
        await wire.send(b"POST /v1/import HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(20):
            part = b"".join(line(f"u{i}", f"{number}", value=i) for i in range(100)) + b"nonsense\n"
            await wire.send(b"%x\r\n%b\r\n" % (len(part), part))
        await wire.send(b"0\r\n\r\n")
        answer = await wire.answer()

        assert answer.status == 200
        assert {name: answer.json[name] for name in ("lines", "stored", "failed")} == {
            "lines": 2020,
            "stored": 2000,
            "failed": 20,
        }
        assert [row["line"] for row in answer.json["errors"]] == [101 * number for number in range(1, 21)]
        assert len(edge.driver.documents) == 2000

    serve(test)
