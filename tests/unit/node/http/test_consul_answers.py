"""Answers that are encoded once: what is kept is bounded, whatever names and filters clients think of."""

from __future__ import annotations

import pytest

from ringkeep_node.http.consul_answers import ENTRY_BYTES, KEPT_BYTES_MAX, KEPT_MAX, Encoded
from ringkeep_testing.consul_edge import ConsulEdge, serve

WEB = {"Name": "web", "ID": "web-1", "Port": 80, "Tags": ["a"]}


def test_an_answer_is_made_once_for_an_index() -> None:
    encoded, made = Encoded(), list[int]()

    def rows() -> list[int]:
        made.append(len(made))
        return made

    answers = [encoded.of(("web",), index, rows) for index in (1, 1, 2, 2)]

    assert answers == [b"[0]", b"[0]", b"[0,1]", b"[0,1]"]
    assert (made, len(encoded)) == ([0, 1], 1)


def test_no_more_answers_are_kept_than_may_however_short_they_are() -> None:
    encoded = Encoded()
    for number in range(3 * KEPT_MAX):
        encoded.of(("web", number), 1, lambda: [1])

    assert len(encoded) == KEPT_MAX
    assert encoded.kept_bytes >= KEPT_MAX * ENTRY_BYTES


@pytest.mark.parametrize("letter", ["a", "\u00e9", "\u4e2d", "\U0001f600"])
def test_names_and_filters_count_as_what_is_kept(letter: str) -> None:
    encoded, tag = Encoded(), letter * (1 << 16)
    for number in range(KEPT_MAX):
        encoded.of(("web", number, (tag,)), 1, lambda: [1])

    assert 0 < len(encoded) <= KEPT_BYTES_MAX // len(tag)
    assert len(tag) * len(encoded) <= encoded.kept_bytes <= KEPT_BYTES_MAX


def test_nothing_is_counted_that_is_not_kept_any_more() -> None:
    encoded = Encoded()
    for index in range(1, 10):
        encoded.of(("web",), index, lambda: [1] * 100)
    size = encoded.kept_bytes
    gone = encoded.of(("web",), 10, lambda: [], is_kept=False)

    assert size == len(b"[" + b"1," * 99 + b"1]") + len(ascii(("web",))) + ENTRY_BYTES
    assert (gone, len(encoded), encoded.kept_bytes) == (b"[]", 0, 0)


def test_asking_for_names_that_nobody_has_keeps_nothing() -> None:
    async def test(consul: ConsulEdge) -> None:
        await consul.done("agent/service/register", WEB)
        for number in range(20):
            for path in ("health/service", "catalog/service", "health/checks"):
                assert (await consul.get(f"{path}/nobody-{number}?tag=t{number}")).json == []
        before = len(consul.consul.encoded)
        await consul.get("health/service/web?tag=other")

        assert (before, len(consul.consul.encoded)) == (0, 1)

    serve(test)
