"""The cluster over HTTP: who is in it, who holds what, what happened; and founding one."""

from __future__ import annotations

import msgspec

from ringkeep_core.shardmap import Copy, Shard, ShardMap
from ringkeep_core.summary import summary_of
from ringkeep_node.http.administration import body_of
from ringkeep_node.http.exchange import Exchange
from ringkeep_node.http.replies import JSON_TYPE, Reply
from ringkeep_node.http.routing import parameters, switch, whole_number
from ringkeep_node.runtime.founding import BootstrapRequest
from ringkeep_node.runtime.reports import MemberReport

_bootstrap_decoder = msgspec.json.Decoder(BootstrapRequest)


# --- reading -----------------------------------------------------------------------------------------------------


async def cluster(exchange: Exchange) -> Reply:
    """Send the cluster in short: this node, its cluster, and how its shards are; with ``summary=true`` in words as well."""
    asked = parameters(exchange.target.query, ("summary",))
    driver = exchange.edge.driver
    shard_map, leader, members = driver.shard_map, driver.leader(), driver.members()
    own = driver.identity
    in_words: dict[str, object] = {}
    if "summary" in asked and switch(asked["summary"], "summary"):
        in_words["summary"] = summary_of(driver.look())
    return exchange.json(
        {
            "node": own.name,
            "storage_id": own.storage,
            "boot_id": own.boot,
            "peer": own.peer,
            "url": own.url,
            "has_left": any(member.state == "left" and member.storage_id == own.storage for member in members),
            "cluster_id": driver.cluster_id,
            "version": shard_map.version if shard_map else 0,
            "generation": shard_map.generation if shard_map else 0,
            "wanted_revision": shard_map.wanted.revision if shard_map else 0,
            "leader": leader.name if leader else None,
            "members": counted([member.state for member in members]),
            "shards": shard_counts(shard_map, members) if shard_map else {"total": 0},
            **in_words,
        }
    )


async def members(exchange: Exchange) -> Reply:
    """Send every member as this node sees it, with the evidence."""
    parameters(exchange.target.query, ())
    return exchange.json({"members": exchange.edge.driver.members()})


async def summary(exchange: Exchange) -> Reply:
    """Send in words how the cluster is, as this node sees it: what is wrong, and what is done about it."""
    parameters(exchange.target.query, ())
    return exchange.json(summary_of(exchange.edge.driver.look()))


async def leader(exchange: Exchange) -> Reply:
    """Send the leader; its name is null while none is known."""
    parameters(exchange.target.query, ())
    known = exchange.edge.driver.leader()
    return exchange.json(known if known else {"name": None, "url": None, "term": 0})


async def shard_map(exchange: Exchange) -> Reply:
    """Send the map. With ``wait_newer_than`` that is when it is newer than that version, or the deadline is there."""
    asked = parameters(exchange.target.query, ("wait_newer_than",))
    driver = exchange.edge.driver
    if "wait_newer_than" in asked:
        version = whole_number(asked["wait_newer_than"], "wait_newer_than")
        held = driver.shard_map
        if held is None or held.version <= version:
            await driver.wait_newer_than(version, timeout_s=exchange.timeout_s())
    return exchange.reply(200, "Cache-Control: no-store\r\n", _encoded.of(await exchange.current_map()), JSON_TYPE)


async def events(exchange: Exchange) -> Reply:
    """Send what happened, oldest first; ``after`` is the number of the last event that the caller knows."""
    asked = parameters(exchange.target.query, ("after",))
    after = whole_number(asked["after"], "after") if "after" in asked else 0
    return exchange.json({"events": exchange.edge.driver.events(after)})


# --- changing ----------------------------------------------------------------------------------------------------


async def bootstrap(exchange: Exchange) -> Reply:
    """Found a cluster of the members in the body."""
    exchange.edge.check_admin(exchange.request.headers.get("Authorization"))
    parameters(exchange.target.query, ())
    request = await body_of(exchange, _bootstrap_decoder, "a bootstrap")
    return exchange.json({"cluster_id": await exchange.edge.driver.bootstrap(request)})


# --- shapes ------------------------------------------------------------------------------------------------------


class _Encoded:
    """The map's JSON, made once for each map: it is asked for far more often than it changes."""

    def __init__(self) -> None:
        self._map: ShardMap | None = None
        self._data = b""

    def of(self, held: ShardMap) -> bytes:
        if held is not self._map:
            self._data = msgspec.json.encode(map_shape(held))
            self._map = held
        return self._data


_encoded = _Encoded()


def map_shape(held: ShardMap) -> dict[str, object]:
    """Return the map as the REST interface shows it: names beside storage ids, and all that a plan is made from."""
    names = {storage: member.name for storage, member in held.members.items()}
    return {
        "cluster_id": held.cluster_id,
        "version": held.version,
        "wanted": held.wanted,
        "members": [
            {
                "name": member.name,
                "storage_id": storage,
                "boot_id": member.boot,
                "boot_counter": member.boot_counter,
                "url": member.url,
                "peer": member.peer,
                "zone": member.zone,
                "since": member.since,
                "state": member.state,
            }
            for storage, member in held.members.items()
        ],
        "left": held.left,
        "shards": [_shard_shape(number, shard, names) for number, shard in enumerate(held.shards)],
    }


def _shard_shape(number: int, shard: Shard, names: dict[str, str]) -> dict[str, object]:
    primary = shard.primary
    return {
        "shard": number,
        "epoch": shard.epoch,
        "revision": shard.revision,
        "primary": {
            "name": names.get(primary.storage, ""),
            "storage_id": primary.storage,
            "boot_id": primary.boot,
        },
        "in_sync": _copies(shard.in_sync, names),
        "eligible": _copies(shard.eligible, names),
        "learners": _copies(shard.learners, names),
        "need": shard.need,
    }


def _copies(copies: tuple[Copy, ...], names: dict[str, str]) -> list[dict[str, object]]:
    return [{"name": names.get(copy.storage, ""), "storage_id": copy.storage, "added": copy.added} for copy in copies]


def counted(values: list[str]) -> dict[str, int]:
    """Return how often each value occurs, and the total."""
    counts = {"total": len(values)}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return counts


def shard_counts(held: ShardMap, members: tuple[MemberReport, ...]) -> dict[str, int]:
    """Return how many shards are ok, moving, under-replicated or unavailable, as this node sees its members."""
    gone = frozenset(member.storage_id for member in members if member.state in ("dead", "left"))
    full = max(1, min(held.wanted.settings.replication_factor, held.weighted_members()))
    counts = {"total": len(held.shards), "ok": 0, "moving": 0, "under_replicated": 0, "unavailable": 0}
    for shard in held.shards:
        counts[shard_state(shard, gone, full)] += 1
    return counts


def shard_state(shard: Shard, gone: frozenset[str], full: int) -> str:
    """Return ok, moving, under_replicated or unavailable; ``gone`` are dead members, ``full`` copies are wanted."""
    if shard.primary.storage in gone or len(shard.in_sync) < shard.need:
        return "unavailable"
    if len(shard.in_sync) < full:
        return "under_replicated"
    return "moving" if shard.learners else "ok"
