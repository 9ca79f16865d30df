"""The cluster over HTTP: who is in it, who holds what, what happened, what is wanted; and founding one."""

from __future__ import annotations

import math
from typing import TypeVar

import msgspec
from msgspec import Struct

from ringkeep_core.errors import BadRequest, Conflict, Internal, NoPrimary
from ringkeep_core.ids import is_node_name
from ringkeep_core.mapchanges import SetWanted
from ringkeep_core.shardmap import Copy, Settings, Shard, ShardMap, Wanted, WantedMember
from ringkeep_node.http.exchange import Exchange
from ringkeep_node.http.replies import JSON_TYPE, Reply
from ringkeep_node.http.routing import parameters, whole_number
from ringkeep_node.runtime.founding import BootstrapRequest
from ringkeep_node.runtime.reports import MemberReport

ADMIN_BODY_BYTES_MAX = 1 << 20
STALE = "stale_wanted"
REFUSED = "bad_wanted"
T = TypeVar("T")


class WantedMemberBody(Struct, frozen=True, forbid_unknown_fields=True):
    """What is wanted of one member."""

    weight: float = 1.0
    zone: str = ""
    draining: bool = False


class SettingsBody(Struct, frozen=True, forbid_unknown_fields=True):
    """Cluster-wide settings."""

    replication_factor: int
    min_in_sync: int
    grace_s: float = Settings().grace_s


class WantedBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``PUT /v1/cluster/wanted``; ``revision`` is the one that was read."""

    revision: int
    members: dict[str, WantedMemberBody]
    settings: SettingsBody


_bootstrap_decoder = msgspec.json.Decoder(BootstrapRequest)
_wanted_decoder = msgspec.json.Decoder(WantedBody)


# --- reading -----------------------------------------------------------------------------------------------------


async def cluster(exchange: Exchange) -> Reply:
    """Send a summary: this node, the cluster, and how its shards are."""
    parameters(exchange.target.query, ())
    driver = exchange.edge.driver
    shard_map, leader, members = driver.shard_map, driver.leader(), driver.members()
    return exchange.json(
        {
            "node": driver.identity.name,
            "cluster_id": driver.cluster_id,
            "version": shard_map.version if shard_map else 0,
            "wanted_revision": shard_map.wanted.revision if shard_map else 0,
            "leader": leader.name if leader else None,
            "members": counted([member.state for member in members]),
            "shards": shard_counts(shard_map, members) if shard_map else {"total": 0},
        }
    )


async def members(exchange: Exchange) -> Reply:
    """Send every member as this node sees it, with the evidence."""
    parameters(exchange.target.query, ())
    return exchange.json({"members": exchange.edge.driver.members()})


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
    return exchange.reply(200, "Cache-Control: no-store\r\n", _encoded.of(exchange.edge.service.held_map()), JSON_TYPE)


async def plan(exchange: Exchange) -> Reply:
    """Send the steps between the map and the wanted state: none, as long as nothing is being moved."""
    parameters(exchange.target.query, ())
    held = exchange.edge.service.held_map()
    return exchange.json({"wanted_revision": held.wanted.revision, "version": held.version, "steps": []})


async def events(exchange: Exchange) -> Reply:
    """Send what happened, oldest first; ``after`` is the number of the last event that the caller knows."""
    asked = parameters(exchange.target.query, ("after",))
    after = whole_number(asked["after"], "after") if "after" in asked else 0
    return exchange.json({"events": exchange.edge.driver.events(after)})


async def wanted(exchange: Exchange) -> Reply:
    """Send the wanted state."""
    parameters(exchange.target.query, ())
    return exchange.json(exchange.edge.service.held_map().wanted)


# --- changing ----------------------------------------------------------------------------------------------------


async def bootstrap(exchange: Exchange) -> Reply:
    """Found a cluster of the members in the body."""
    exchange.edge.check_admin(exchange.request.headers.get("Authorization"))
    parameters(exchange.target.query, ())
    request = await _body(exchange, _bootstrap_decoder, "a bootstrap")
    return exchange.json({"cluster_id": await exchange.edge.driver.bootstrap(request)})


async def set_wanted(exchange: Exchange) -> Reply:
    """Replace the wanted state if its revision is still the one that the caller read; send the new one."""
    exchange.edge.check_admin(exchange.request.headers.get("Authorization"))
    parameters(exchange.target.query, ())
    body = await _body(exchange, _wanted_decoder, "a wanted state")
    held = exchange.edge.service.held_map()
    if held.wanted.revision > body.revision:
        raise Conflict(f"the wanted state is at revision {held.wanted.revision}, not {body.revision}")
    new = wanted_of(body)
    outcome = await exchange.edge.driver.propose(
        SetWanted(new, f"request {exchange.id}"), timeout_s=exchange.timeout_s()
    )
    if outcome.code == STALE:
        raise Conflict(outcome.detail or "the wanted state was changed by somebody else")
    if outcome.code == REFUSED:
        raise BadRequest(outcome.detail)
    if outcome.code:
        raise _refusal(outcome.code, outcome.detail)
    return exchange.json(new)


def wanted_of(body: WantedBody) -> Wanted:
    """Return the wanted state that a body asks for, one revision further. Raises ``BadRequest``."""
    for name, member in body.members.items():
        if not is_node_name(name):
            raise BadRequest(f"{name[:100]!r} is not a node name (an RFC 1123 label)")
        if not 0 <= member.weight < math.inf:
            raise BadRequest(f"the weight of {name} is a number from 0, not {member.weight}")
    settings = body.settings
    return Wanted(
        revision=body.revision + 1,
        members={
            name: WantedMember(member.weight, member.zone, member.draining) for name, member in body.members.items()
        },
        settings=Settings(settings.replication_factor, settings.min_in_sync, settings.grace_s),
    )


async def _body(exchange: Exchange, decoder: msgspec.json.Decoder[T], what: str) -> T:
    data = await exchange.body(ADMIN_BODY_BYTES_MAX, what)
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadRequest(f"the body is not {what}: {error}") from None


def _refusal(code: str, detail: str) -> Conflict | NoPrimary | Internal:
    if code in ("no_leader", NoPrimary.code):
        return NoPrimary(detail or "there is no leader now")
    return Conflict(detail or f"the leader refused the change: {code}")


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
    """Return the map as the REST interface shows it: names beside storage ids."""
    names = {storage: member.name for storage, member in held.members.items()}
    return {
        "cluster_id": held.cluster_id,
        "version": held.version,
        "wanted": held.wanted,
        "members": [
            {"name": member.name, "storage_id": storage, "boot_id": member.boot, "url": member.url}
            for storage, member in held.members.items()
        ],
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
        counts[_state_of(shard, gone, full)] += 1
    return counts


def _state_of(shard: Shard, gone: frozenset[str], full: int) -> str:
    if shard.primary.storage in gone or len(shard.in_sync) < shard.need:
        return "unavailable"
    if len(shard.in_sync) < full:
        return "under_replicated"
    return "moving" if shard.learners else "ok"
