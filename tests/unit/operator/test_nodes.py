"""The nodes' REST interface as the operator reads it: against the shapes of the node's own code."""

from __future__ import annotations

import msgspec
import pytest

from ringkeep_core.plans import expected_digest
from ringkeep_node.http.cluster import map_shape
from ringkeep_operator.failpoints import KillAt
from ringkeep_operator.nodes import map_from, pod_address
from ringkeep_operator.state import SeenPod
from ringkeep_testing.fake_driver import first_map


def test_the_map_that_a_node_shows_is_read_back_as_the_same_map() -> None:
    held = first_map(nodes=5, shards=32)
    read = map_from(msgspec.json.encode(map_shape(held)))

    assert read == held
    assert expected_digest(read, read.wanted) == expected_digest(held, held.wanted)


def test_something_else_than_a_map_is_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        map_from(b'{"version": 1}')


@pytest.mark.parametrize(("ip", "base"), [("10.0.0.1", "http://10.0.0.1:8080"), ("fd00::1", "http://[fd00::1]:8080")])
def test_a_pod_is_asked_at_its_ip(ip: str, base: str) -> None:
    assert pod_address(SeenPod(name="demo-0", uid="", version="", ordinal=0, ip=ip)) == base


def test_a_failpoint_ends_the_process_the_nth_time_that_it_is_reached() -> None:
    ended: list[int] = []
    reached = KillAt("before:apply:Pod:2", ended.append)
    for name in ("before:apply:Pod", "after:apply:Pod", "before:apply:Pod", "before:apply:Pod"):
        reached(name)

    assert ended == [137]


@pytest.mark.parametrize("wish", ["", "name", "name:0", "name:x", ":3"])
def test_a_failpoint_that_is_not_name_and_count_is_refused(wish: str) -> None:
    with pytest.raises(ValueError, match="name:count"):
        KillAt(wish)
