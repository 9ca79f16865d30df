"""Durations and switches as Go writes them, and bodies of any content: a value or one sentence, never anything else."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringkeep_core.errors import BadRequest, NotFound
from ringkeep_node.http import consul_bodies as bodies
from ringkeep_node.http.consul_queries import Query, duration_s, is_true, query_of
from ringkeep_node.http.consul_routing import FIXED, METHODS, NAMED, PREFIXES, consul_route
from ringkeep_node.http.routing import Target, split_target


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10),
        ("5m", 300),
        ("120000ms", 120),
        ("1h30m", 5400),
        ("1.5s", 1.5),
        (".5s", 0.5),
        ("1000000us", 1),
        ("1000000µs", 1),
        ("2000000000ns", 2),
        ("1m0.5s", 60.5),
        ("0", 0),
        ("0s", 0),
        ("", 0),
    ],
)
def test_a_duration_is_read_as_go_writes_it(text: str, seconds: float) -> None:
    assert duration_s(text, "wait") == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["10", "s", "-1s", "1d", "1s ", "1 s", "10s5", "1e3s", "٣s", "1.2.3s", "9" * 61 + "s"])
def test_anything_else_is_no_duration(text: str) -> None:
    with pytest.raises(BadRequest, match="is a duration like 10s, 5m or 120000ms"):
        duration_s(text, "wait")


@pytest.mark.parametrize(
    ("query", "wait_s"),
    [("", 300), ("wait=0s", 300), ("wait=30s", 30), ("wait=10m", 600), ("wait=11m", 600), ("wait=9999h", 600)],
)
def test_a_wait_is_five_minutes_by_default_and_ten_at_most(query: str, wait_s: float) -> None:
    assert query_of(query, datacenter="dc1").wait_s == wait_s


def test_a_query_is_read_with_everything_it_says() -> None:
    text = "index=7&wait=30s&tag=a&tag=b+c&node-meta=zone:a%3Ab&passing&cached&token=t&hash=h&enable=T&reason=r&note=n&wan=1"

    assert query_of(text, datacenter="dc1") == Query(
        tags=("a", "b c"),
        node_meta=(("zone", "a:b"),),
        is_passing=True,
        index=7,
        hash="h",
        wait_s=30,
        is_cached=True,
        token="t",
        note="n",
        reason="r",
        enable=True,
        is_wan=True,
    )


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=80))
def test_any_query_is_read_or_refused(text: str) -> None:
    try:
        found = query_of(text, datacenter="dc1")
    except BadRequest:
        return

    assert 0 < found.wait_s <= 600
    assert found.index >= 0


@pytest.mark.parametrize(("text", "expected"), [("1", True), ("True", True), ("t", True), ("0", False), ("F", False)])
def test_a_switch_is_read_as_go_reads_it(text: str, expected: bool) -> None:
    assert is_true(text, "enable") is expected


KEYS = st.sampled_from(sorted({*bodies.SERVICE_FIELDS, *bodies.CHECK_FIELDS, "Check_ID", "nonsense"}))
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 40), 1 << 40),
    st.text(max_size=20),
    st.sampled_from(["10s", "web", ""]),
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=4)), max_leaves=8
)


@given(st.dictionaries(KEYS, VALUES, max_size=8))
def test_any_body_is_understood_or_refused_with_one_sentence(body: dict[str, Any]) -> None:
    fields = bodies.folded(msgspec.json.encode(body))
    for read in (
        bodies.service_wish,
        bodies.check_of,
        bodies.catalog_entry,
        bodies.catalog_removal,
        bodies.check_state,
    ):
        refusal = ""
        try:
            read(fields)
        except BadRequest as error:
            refusal = error.detail

        assert len(refusal) < 400
        assert "\n" not in refusal


@given(st.binary(max_size=100))
def test_any_bytes_are_a_body_or_refused(data: bytes) -> None:
    with suppress(BadRequest):
        bodies.folded(data)


@pytest.mark.parametrize(("path", "route"), sorted(FIXED.items()))
def test_every_fixed_path_has_its_route(path: str, route: str) -> None:
    assert split_target(f"{path}?a=b") == Target(route, "", "", "a=b")
    assert route in METHODS


@pytest.mark.parametrize(("prefix", "route"), sorted(NAMED.items()))
def test_every_path_with_a_name_has_its_route(prefix: str, route: str) -> None:
    assert split_target(f"{prefix}a%2Fb?x=y") == Target(route, "", "a%2Fb", "x=y")
    for path in (prefix, prefix + "a/b", prefix + "..", prefix + "%2e%2E"):
        with pytest.raises((BadRequest, NotFound)):
            split_target(path)


@given(st.sampled_from(PREFIXES), st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=30))
def test_whatever_is_asked_below_a_prefix_is_a_route_or_not_found(prefix: str, rest: str) -> None:
    try:
        route, _ = consul_route(prefix + rest)
    except NotFound:
        return

    assert route in METHODS
