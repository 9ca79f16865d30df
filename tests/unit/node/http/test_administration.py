"""Changing the cluster over HTTP: plans before anything happens, drains, leaving, leadership, and what is refused."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from ringkeep_core.mapchanges import Leave, MapChange, SetWanted
from ringkeep_core.placement import NodeState
from ringkeep_core.plans import NodeFacts, Plan, expected_digest, plan_of
from ringkeep_node.http import administration
from ringkeep_node.machines.messages import ProposeOutcome
from ringkeep_node.runtime.reports import RunningPlan
from ringkeep_testing.http_edge import EdgeUnderTest, serve

DEAD = NodeFacts(NodeState.DEAD_IN_GRACE)


def encoded(value: Any) -> bytes:
    return msgspec.json.encode(value)


def counts(plan: Any) -> dict[str, tuple[int, int]]:
    return {node["name"]: (node["copies"], node["copies_then"]) for node in plan["nodes"]}


def test_nothing_is_left_to_do_where_map_and_wanted_state_agree() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        plan = (await edge.ask("GET", "/v1/cluster/plan")).json

        assert (plan["copies"], plan["primaries"], plan["bytes"], plan["steps"], plan["running"]) == (0, 0, 0, [], None)
        assert (plan["wanted_revision"], plan["opinion"]) == (1, "none")

    serve(test)


def test_the_leader_tells_how_far_the_running_plan_is() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        edge.driver.running = RunningPlan(
            reason="drain n2", since=5.0, copies=16, copies_done=4, primaries=2, received_bytes=9
        )
        plan = (await edge.ask("GET", "/v1/cluster/plan")).json

        assert plan["running"] == {
            "reason": "drain n2",
            "since": 5.0,
            "copies": 16,
            "copies_done": 4,
            "primaries": 2,
            "received_bytes": 9,
            "waiting": [],
        }

    serve(test)


def test_a_scale_up_is_shown_with_moves_bytes_seconds_and_pause_before_any_node_exists() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        before = edge.driver.shard_map
        body = encoded({"members": ["n1", "n2", "n3", "n4"]})
        plan = (await edge.ask("POST", "/v1/cluster/plan", body)).json

        # n1 alone is in its zone, so it keeps a copy of every shard.
        assert counts(plan) == {"n1": (16, 16), "n2": (16, 11), "n3": (16, 11), "n4": (0, 10)}
        assert (plan["copies"], plan["lower_bound"], plan["bytes"]) == (10, 10, 10_000)
        assert plan["seconds"] >= 0 and plan["pause_s"] == pytest.approx(0.01 * plan["primaries"])
        assert {change["kind"] for step in plan["steps"] for change in step["changes"]} == {
            "copy",
            "in_sync",
            "primary",
            "remove",
        }
        assert edge.driver.shard_map is before and edge.driver.proposed == []

    serve(test)


def test_requests_are_answered_while_a_plan_is_thought_out_and_plans_wait_for_one_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, ready, thinking = threading.Event(), threading.Event(), list[int]()

    def slow(*facts: Any) -> Plan:
        thinking.append(1)
        begun.set()
        assert ready.wait(10.0)
        return plan_of(*facts)

    monkeypatch.setattr(administration, "plan_of", slow)

    async def test(edge: EdgeUnderTest) -> None:
        asked = [asyncio.create_task(edge.ask("GET", "/v1/cluster/plan")) for _ in range(3)]
        assert await asyncio.to_thread(begun.wait, 10.0)
        other = await edge.ask("GET", "/v1/cluster/wanted")
        at_once = len(thinking)
        ready.set()
        plans = [(await one).json["copies"] for one in asked]

        assert (other.status, at_once, plans, len(thinking)) == (200, 1, [0, 0, 0], 3)

    serve(test)


def test_only_so_many_plans_wait_to_be_thought_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(administration, "THINKERS_MAX", 2)

    async def test(edge: EdgeUnderTest) -> None:
        answers = await asyncio.gather(*[edge.ask("GET", "/v1/cluster/plan") for _ in range(5)])
        later = await edge.ask("GET", "/v1/cluster/plan")

        assert {answer.status for answer in answers} == {200, 503} and later.status == 200
        assert {answer.json["code"] for answer in answers if answer.status == 503} == {"overloaded"}

    serve(test)


@pytest.mark.parametrize(
    ("body", "gone"),
    [({"drain": ["n2"]}, "n2"), ({"weights": {"n3": 0}}, "n3"), ({"members": ["n2", "n3"]}, "n1")],
)
def test_what_a_drain_a_weight_or_fewer_members_would_mean_is_shown(body: dict[str, Any], gone: str) -> None:
    async def test(edge: EdgeUnderTest) -> None:
        plan = (await edge.ask("POST", "/v1/cluster/plan", encoded(body))).json

        assert counts(plan) == {name: (16, 0 if name == gone else 16) for name in ("n1", "n2", "n3")}
        assert plan["degraded"] == {"too_few_nodes": 16}
        assert edge.driver.proposed == []

    serve(test)


def test_a_drain_is_a_change_of_the_wanted_state_and_can_be_taken_back() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        dry = await edge.ask("POST", "/v1/cluster/members/n2/drain?dry_run=true")
        drained = await edge.ask("POST", "/v1/cluster/members/n2/drain")
        again = await edge.ask("POST", "/v1/cluster/members/n2/drain")
        back = await edge.ask("DELETE", "/v1/cluster/members/n2/drain")

        assert counts(dry.json)["n2"] == (16, 0)
        assert (drained.json["revision"], drained.json["members"]["n2"]["draining"]) == (2, True)
        assert again.json == drained.json
        assert (back.json["revision"], back.json["members"]["n2"]["draining"]) == (3, False)
        assert [type(change) for change in edge.driver.proposed] == [SetWanted, SetWanted]

    serve(test)


def test_what_is_impossible_is_refused_at_once_with_the_reason() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        before = edge.driver.shard_map
        unknown = await edge.ask("POST", "/v1/cluster/members/n9/drain")
        last = await edge.ask("POST", "/v1/cluster/plan", encoded({"drain": ["n1", "n2", "n3"]}))
        edge.driver.facts_set = {"n2": DEAD, "n3": DEAD}
        quorum = await edge.ask("POST", "/v1/cluster/members/n3/drain")
        edge.driver.facts_set = {"n3": NodeFacts(NodeState.ALIVE, free_bytes=1_000)}
        edge.driver.facts_set |= {"n4": NodeFacts(NodeState.JOINING, free_bytes=10)}
        disk = await edge.ask("POST", "/v1/cluster/plan", encoded({"members": ["n1", "n2", "n3", "n4"]}))

        assert (unknown.status, unknown.code, unknown.json["detail"]) == (
            404,
            "not_found",
            "there is no member 'n9'; the members are n1, n2, n3",
        )
        answers = {
            name: (answer.status, answer.code) for name, answer in (("last", last), ("quorum", quorum), ("disk", disk))
        }
        assert answers == dict.fromkeys(answers, (409, "conflict"))
        assert last.json["detail"].startswith("last_node: ")
        assert quorum.json["detail"].startswith("quorum: ")
        assert disk.json["detail"].startswith("disk: ")
        assert edge.driver.shard_map is before and edge.driver.proposed == []

    serve(test)


def test_only_a_drained_and_empty_member_leaves() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        wanted_still = await edge.ask("POST", "/v1/cluster/members/n2/leave")
        await edge.ask("POST", "/v1/cluster/members/n2/drain")
        full = await edge.ask("POST", "/v1/cluster/members/n2/leave")
        unknown = await edge.ask("POST", "/v1/cluster/members/n9/leave")

        assert (wanted_still.status, full.status, unknown.status) == (409, 409, 404)
        assert full.json["detail"] == "n2 is in the sets of 16 shards"
        assert isinstance(edge.driver.proposed[-1], Leave)

    serve(test)


@pytest.mark.parametrize(("code", "status"), [("no_primary", 503), ("outcome_unknown", 504), ("not_draining", 409)])
def test_only_what_was_certainly_not_applied_is_answered_503(code: str, status: int) -> None:
    async def test(edge: EdgeUnderTest) -> None:
        async def propose(change: MapChange, *, timeout_s: float) -> ProposeOutcome:
            return ProposeOutcome(1, 0, code, "a reason")

        edge.driver.propose = propose  # type: ignore[method-assign]
        answer = await edge.ask("POST", "/v1/cluster/members/n2/leave")

        assert (answer.status, answer.json["detail"]) == (status, "a reason")

    serve(test)


def test_leadership_goes_to_the_voter_that_is_named() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        named = await edge.ask("POST", "/v1/cluster/transfer-leader", encoded({"to": "n3"}))
        anybody = await edge.ask("POST", "/v1/cluster/transfer-leader")
        unknown = await edge.ask("POST", "/v1/cluster/transfer-leader", encoded({"to": "n9"}))

        assert (named.json["name"], anybody.json["name"], unknown.status) == ("n3", "n2", 404)
        assert edge.driver.transferred == ["5000000000000003", ""]

    serve(test)


def test_settings_that_are_left_out_stay_as_they_are() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        members: dict[str, Any] = {name: {} for name in ("n1", "n2", "n3")}
        first = {"revision": 1, "members": members, "settings": {"bytes_per_s": 5_000_000, "grace_s": 7.5}}
        await edge.ask("PUT", "/v1/cluster/wanted", encoded(first))
        answer = await edge.ask("PUT", "/v1/cluster/wanted", encoded({"revision": 2, "members": members}))

        assert (answer.json["settings"]["bytes_per_s"], answer.json["settings"]["grace_s"]) == (5_000_000, 7.5)

    serve(test)


def test_what_is_left_out_of_a_member_stays_as_it_is_and_who_is_not_named_is_not_wanted() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        members: dict[str, Any] = {"n1": {}, "n2": {"weight": 2.0, "zone": "z", "draining": True}, "n3": {}}
        await edge.ask("PUT", "/v1/cluster/wanted", encoded({"revision": 1, "members": members}))
        kept = {"n1": {}, "n2": {"weight": 3.0}, "n4": {}}
        answer = await edge.ask("PUT", "/v1/cluster/wanted?dry_run=true", encoded({"revision": 2, "members": kept}))
        done = await edge.ask("PUT", "/v1/cluster/wanted", encoded({"revision": 2, "members": kept}))

        assert answer.status == done.status == 200
        assert done.json["members"]["n2"] == {"weight": 3.0, "zone": "z", "draining": True}
        assert done.json["members"]["n4"] == {"weight": 1.0, "zone": "", "draining": False}
        assert list(done.json["members"]) == ["n1", "n2", "n4"]

    serve(test)


def test_a_node_that_was_not_told_yet_of_the_revision_that_was_read_waits_for_it() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        held = edge.driver.shard_map
        assert held is not None
        newer = replace(held.wanted, revision=2, settings=replace(held.wanted.settings, grace_s=9.0))
        body = encoded({"revision": 2, "members": {name: {} for name in ("n1", "n2", "n3")}})
        asked = asyncio.ensure_future(edge.ask("PUT", "/v1/cluster/wanted", body))
        await asyncio.sleep(0.02)
        edge.driver.replace_map(replace(held, version=held.version + 1, wanted=newer))
        answer = await asked
        late = await edge.ask(
            "PUT", "/v1/cluster/wanted", encoded({"revision": 9, "members": {"n1": {}}}), **{"Ringkeep-Timeout": "0.01"}
        )

        assert (answer.json["revision"], answer.json["settings"]["grace_s"]) == (3, 9.0)
        assert (late.status, late.code, len(edge.driver.proposed)) == (503, "no_primary", 1)

    serve(test)


def test_the_opinion_of_the_author_is_compared_and_decides_nothing() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        held = edge.driver.shard_map
        assert held is not None
        members: dict[str, Any] = {name: {} for name in ("n1", "n2", "n3")}
        body = {"revision": 1, "members": members, "target_digest": "0" * 32, "target_version": held.version}
        wrong = (await edge.ask("PUT", "/v1/cluster/wanted?dry_run=true", encoded(body))).json
        right_digest = expected_digest(held, held.wanted)
        right = (
            await edge.ask("PUT", "/v1/cluster/wanted?dry_run=true", encoded(body | {"target_digest": right_digest}))
        ).json
        old = (await edge.ask("PUT", "/v1/cluster/wanted?dry_run=true", encoded(body | {"target_version": 1}))).json

        assert [plan["opinion"] for plan in (wrong, right, old)] == ["differs", "same", "old"]

    serve(test)


@pytest.mark.parametrize(
    ("method", "target", "body"),
    [
        ("POST", "/v1/cluster/plan", b'{"drian": []}'),
        ("POST", "/v1/cluster/plan", b'{"members": ["N!"]}'),
        ("POST", "/v1/cluster/plan", b'{"weights": {"n1": -1}}'),
        ("POST", "/v1/cluster/plan", b"["),
        ("POST", "/v1/cluster/members/n1/drain?dry_run=perhaps", b""),
        ("POST", "/v1/cluster/transfer-leader", b'{"to": 3}'),
    ],
)
def test_bad_input_changes_nothing(method: str, target: str, body: bytes) -> None:
    async def test(edge: EdgeUnderTest) -> None:
        before = edge.driver.shard_map
        answer = await edge.ask(method, target, body)

        assert (answer.status, answer.code) == (400, "bad_request")
        assert edge.driver.shard_map is before and edge.driver.proposed == []

    serve(test)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", "/v1/cluster/plan"),
        ("POST", "/v1/cluster/members/n1/drain"),
        ("DELETE", "/v1/cluster/members/n1/drain"),
        ("POST", "/v1/cluster/members/n1/leave"),
        ("POST", "/v1/cluster/transfer-leader"),
    ],
)
def test_administration_needs_the_token_where_there_is_one(method: str, target: str) -> None:
    async def test(edge: EdgeUnderTest) -> None:
        refused = await edge.ask(method, target)
        taken = await edge.ask(method, target, Authorization="Bearer secret")

        assert (refused.status, refused.code) == (401, "unauthorized")
        assert taken.status in (200, 409)

    serve(test, EdgeUnderTest(admin_token="secret"))


def test_a_page_of_another_site_can_have_no_browser_change_anything() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        before = edge.driver.shard_map
        refused = [
            await edge.ask("POST", "/v1/cluster/members/n1/drain", Origin=origin, Content_Type="text/plain")
            for origin in ("http://evil.example", "null", "http://node:81")
        ]
        after, proposed = edge.driver.shard_map, list(edge.driver.proposed)
        own = await edge.ask("POST", "/v1/cluster/members/n1/drain", Origin="http://node")

        assert [(answer.status, answer.code) for answer in refused] == [(401, "unauthorized")] * 3
        assert after is before and proposed == []
        assert own.status in (200, 409)

    serve(test)
