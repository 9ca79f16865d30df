"""The cluster's part of the REST interface: reading it, founding one, changing what is wanted, and who may."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from ringkeep_core.mapchanges import SetWanted, apply
from ringkeep_core.shardmap import Wanted
from ringkeep_node.runtime.founding import BootstrapRequest, FirstMember
from ringkeep_node.runtime.reports import Event
from ringkeep_testing.fake_driver import CLUSTER_ID, FakeDriver
from ringkeep_testing.http_edge import EdgeUnderTest, request, serve

WANTED = {
    "revision": 1,
    "members": {
        "n1": {"weight": 2.0, "zone": "a", "draining": False},
        "n2": {"weight": 1.0, "zone": "", "draining": True},
        "n3": {"weight": 0.0, "zone": "", "draining": False},
    },
    "settings": {"replication_factor": 3, "min_in_sync": 2, "grace_s": 60.0, "bytes_per_s": 1_000_000},
}
FIRST = {"members": [{"name": "n1", "storage_id": "5000000000000001", "peer": "127.0.0.1:7401"}], "shards": 32}


def encoded(value: Any) -> bytes:
    return msgspec.json.encode(value)


def test_the_map_is_shown_with_names_beside_storage_ids() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        held = edge.driver.shard_map
        assert held is not None
        shown = (await edge.ask("GET", "/v1/cluster/map")).json
        shard, real = shown["shards"][5], held.shards[5]
        names = {storage: member.name for storage, member in held.members.items()}

        assert (shown["cluster_id"], shown["version"], len(shown["shards"])) == (CLUSTER_ID, held.version, 16)
        assert shown["members"][0] == {
            "name": "n1",
            "storage_id": "5000000000000001",
            "boot_id": "b000000000000001",
            "boot_counter": held.members["5000000000000001"].boot_counter,
            "url": "http://127.0.0.1:8081",
            "peer": held.members["5000000000000001"].peer,
            "zone": held.members["5000000000000001"].zone,
            "since": held.members["5000000000000001"].since,
            "state": "member",
        }
        assert shown["wanted"] == msgspec.to_builtins(held.wanted)
        assert shown["left"] == list(held.left)
        assert shard == {
            "shard": 5,
            "epoch": 1,
            "revision": 1,
            "primary": {
                "name": names[real.primary.storage],
                "storage_id": real.primary.storage,
                "boot_id": real.primary.boot,
            },
            "in_sync": [
                {"name": names[copy.storage], "storage_id": copy.storage, "added": copy.added} for copy in real.in_sync
            ],
            "eligible": [],
            "learners": [],
            "need": 2,
        }

    serve(test)


@pytest.mark.parametrize(
    ("path", "field"),
    [("/v1/cluster/map", "wanted"), ("/v1/cluster/wanted", "revision"), ("/v1/cluster/plan", "wanted_revision")],
)
def test_a_node_that_started_again_shows_no_map_that_is_older_than_its_start(path: str, field: str) -> None:
    async def test(edge: EdgeUnderTest) -> None:
        held = edge.driver.shard_map
        assert held is not None
        edge.driver.current_from = held.version + 1
        early = await edge.ask("GET", path, Ringkeep_Timeout="0.01")
        wire = await edge.connect()
        await wire.send(request("GET", path, Ringkeep_Timeout="30"))
        newer = apply(held, held.version + 1, SetWanted(msgspec.structs.replace(held.wanted, revision=2), "")).map
        edge.driver.replace_map(newer)
        answer = await wire.answer()
        shown = answer.json[field]

        assert (early.status, early.json["code"], early.json["retryable"]) == (503, "not_ready", True)
        assert (answer.status, shown["revision"] if isinstance(shown, dict) else shown) == (200, 2)

    serve(test)


def test_whoever_waits_for_a_newer_map_gets_it_when_it_comes() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        held = edge.driver.shard_map
        assert held is not None
        wire = await edge.connect()
        await wire.send(request("GET", f"/v1/cluster/map?wait_newer_than={held.version}", Ringkeep_Timeout="30"))
        for _ in range(20):
            await asyncio.sleep(0)
        newer = apply(held, held.version + 1, SetWanted(msgspec.structs.replace(held.wanted, revision=2), "")).map
        edge.driver.replace_map(newer)
        answer = await wire.answer()
        at_once = await edge.ask("GET", f"/v1/cluster/map?wait_newer_than={held.version}")
        in_vain = await edge.ask("GET", f"/v1/cluster/map?wait_newer_than={newer.version}", Ringkeep_Timeout="0.01")

        assert [one.json["version"] for one in (answer, at_once, in_vain)] == [newer.version] * 3

    serve(test)


def test_a_summary_counts_members_and_shards() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        held = edge.driver.shard_map
        assert held is not None
        summary = (await edge.ask("GET", "/v1/cluster")).json

        assert summary == {
            "node": "n1",
            "storage_id": "5000000000000001",
            "boot_id": "b000000000000001",
            "peer": "127.0.0.1:7401",
            "url": "http://127.0.0.1:8081",
            "has_left": False,
            "cluster_id": CLUSTER_ID,
            "version": held.version,
            "generation": 1,
            "wanted_revision": 1,
            "leader": "n1",
            "members": {"total": 3, "alive": 3},
            "shards": {"total": 16, "ok": 16, "moving": 0, "under_replicated": 0, "unavailable": 0},
        }

    serve(test)


def test_leader_members_plan_events_and_wanted_have_their_shapes() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        edge.driver.happened = (
            Event(1, 10.5, "boot", "n1 started"),
            Event(2, 11.5, "dead", "n2 is dead", {"by": "n3"}),
        )
        leader = (await edge.ask("GET", "/v1/cluster/leader")).json
        members = (await edge.ask("GET", "/v1/cluster/members")).json["members"]
        plan = (await edge.ask("GET", "/v1/cluster/plan")).json
        events = (await edge.ask("GET", "/v1/cluster/events?after=1")).json
        wanted = (await edge.ask("GET", "/v1/cluster/wanted")).json

        assert leader == {"name": "n1", "url": "http://127.0.0.1:8081", "term": 3}
        assert members[0] == {
            "name": "n1",
            "state": "alive",
            "storage_id": "5000000000000001",
            "boot_id": "b000000000000001",
            "url": "http://127.0.0.1:8081",
            "peer": "127.0.0.1:7401",
            "draining": False,
            "zone": "z1",
            "weight": 1.0,
            "copies": 0,
            "primaries": 0,
            "since": 0.0,
            "evidence": [],
        }
        assert (plan["steps"], plan["wanted_revision"]) == ([], 1)
        assert events == {
            "events": [{"number": 2, "at": 11.5, "kind": "dead", "text": "n2 is dead", "fields": {"by": "n3"}}]
        }
        assert (wanted["revision"], sorted(wanted["members"])) == (1, ["n1", "n2", "n3"])

    serve(test)


def test_a_node_in_no_cluster_shows_itself_alone_and_founds_one_once() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        alone = (await edge.ask("GET", "/v1/cluster/members")).json["members"]
        leader = (await edge.ask("GET", "/v1/cluster/leader")).json
        summary = (await edge.ask("GET", "/v1/cluster")).json
        founded = await edge.ask("POST", "/v1/cluster/bootstrap", encoded(FIRST))
        again = await edge.ask("POST", "/v1/cluster/bootstrap", encoded(FIRST))

        assert [(row["name"], row["state"], row["boot_id"]) for row in alone] == [("n1", "joining", "b000000000000001")]
        assert (leader, summary["shards"]) == ({"name": None, "url": None, "term": 0}, {"total": 0})
        assert (founded.status, founded.json) == (200, {"cluster_id": CLUSTER_ID})
        assert (again.status, again.code) == (409, "conflict")
        assert edge.driver.asked[0] == BootstrapRequest(
            (FirstMember("n1", "5000000000000001", "127.0.0.1:7401"),), 32, 3, 2
        )

    serve(test, EdgeUnderTest(FakeDriver(founded=False)))


def test_the_wanted_state_is_replaced_only_at_the_revision_that_was_read() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        changed = await edge.ask("PUT", "/v1/cluster/wanted", encoded(WANTED))
        stale = await edge.ask("PUT", "/v1/cluster/wanted", encoded(WANTED))
        soon = {"Ringkeep-Timeout": "0.02"}
        ahead = await edge.ask("PUT", "/v1/cluster/wanted", encoded(WANTED | {"revision": 9}), **soon)
        shown = await edge.ask("GET", "/v1/cluster/wanted")

        whole = msgspec.to_builtins(msgspec.convert(WANTED | {"revision": 2}, Wanted))
        assert changed.json == whole == shown.json
        assert (stale.status, stale.code, ahead.status, ahead.code) == (409, "conflict", 503, "no_primary")
        (first,) = edge.driver.proposed
        assert isinstance(first, SetWanted)
        assert first.wanted == msgspec.convert(WANTED | {"revision": 2}, Wanted)

    serve(test)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b"[" * 10_000,
        encoded(WANTED | {"replication": 3}),
        encoded({key: value for key, value in WANTED.items() if key != "members"}),
        encoded(WANTED | {"revision": "1"}),
        encoded(WANTED | {"members": {"N1!": {}}}),
        encoded(WANTED | {"members": {"n1": {"weight": -1}}}),
        encoded(WANTED | {"members": {"n1": {"weigth": 1}}}),
        encoded(WANTED | {"settings": {"replication_factor": 8, "min_in_sync": 2}}),
        encoded(WANTED | {"settings": {"replication_factor": 0, "min_in_sync": 2}}),
    ],
)
def test_a_wanted_state_that_makes_no_sense_is_refused(body: bytes) -> None:
    async def test(edge: EdgeUnderTest) -> None:
        before = edge.driver.shard_map
        answer = await edge.ask("PUT", "/v1/cluster/wanted", body)

        assert (answer.status, answer.code) == (400, "bad_request")
        assert edge.driver.shard_map is before

    serve(test)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"members": 3}', b'{"members": [{"name": "n1"}]}', b"null"])
def test_a_bootstrap_that_makes_no_sense_is_refused(body: bytes) -> None:
    async def test(edge: EdgeUnderTest) -> None:
        answer = await edge.ask("POST", "/v1/cluster/bootstrap", body)

        assert (answer.status, answer.code, edge.driver.asked) == (400, "bad_request", [])

    serve(test, EdgeUnderTest(FakeDriver(founded=False)))


def test_administration_needs_the_token_where_there_is_one() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        async def put(**headers: str) -> tuple[int, str]:
            answer = await edge.ask("PUT", "/v1/cluster/wanted", encoded(WANTED), **headers)
            return answer.status, answer.headers.get("www-authenticate", "")

        refused = [
            await put(),
            await put(Authorization="Bearer wrong"),
            await put(Authorization="s3cret"),
            await put(Authorization="Basic s3cret"),
            await put(Authorization="Bearer s3crét"),
        ]
        bootstrap = await edge.ask("POST", "/v1/cluster/bootstrap", encoded(FIRST))
        reading = await edge.ask("GET", "/v1/cluster/wanted")
        document = await edge.ask("PUT", "/v1/users/ada/docs/k", b"x")
        nothing_proposed = edge.driver.proposed == []
        allowed = await put(Authorization="Bearer s3cret")

        assert refused == [(401, 'Bearer realm="ringkeep"')] * 5 and nothing_proposed
        assert (bootstrap.status, bootstrap.code) == (401, "unauthorized")
        assert (reading.status, document.status, allowed[0]) == (200, 201, 200)

    serve(test, EdgeUnderTest(admin_token="s3cret"))


def test_a_summary_says_in_words_how_the_cluster_is() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        held = edge.driver.shard_map
        assert held is not None
        told = (await edge.ask("GET", "/v1/cluster/summary")).json

        assert told == {
            "headline": "All is well: 3 members, 16 shards with 3 copies each.",
            "severity": "ok",
            "findings": [],
            "node": "n1",
            "at": 1000.0,
            "cluster_id": CLUSTER_ID,
            "version": held.version,
            "leader": "n1",
            "term": 3,
            "members": {"alive": 3},
            "shards": {"total": 16, "ok": 16, "moving": 0, "under_replicated": 0, "no_writes": 0, "unavailable": 0},
        }

    serve(test)


def test_a_node_in_no_cluster_says_so_in_its_summary() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        answer = await edge.ask("GET", "/v1/cluster/summary")

        assert (answer.status, answer.json["severity"]) == (200, "unavailable")
        assert answer.json["headline"] == "n1 belongs to no cluster yet: it serves nobody."
        assert [finding["kind"] for finding in answer.json["findings"]] == ["no_cluster"]

    serve(test, EdgeUnderTest(FakeDriver(founded=False)))


def test_the_cluster_in_short_has_the_summary_in_it_when_that_is_asked_for() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        short = (await edge.ask("GET", "/v1/cluster")).json
        words = (await edge.ask("GET", "/v1/cluster?summary=true")).json
        alone = (await edge.ask("GET", "/v1/cluster/summary")).json
        wrong = await edge.ask("GET", "/v1/cluster?summary=maybe")

        assert words == short | {"summary": alone}
        assert (await edge.ask("GET", "/v1/cluster?summary=false")).json == short
        assert (wrong.status, wrong.code) == (400, "bad_request")

    serve(test)
