"""Administering the cluster over HTTP: what is wanted of it, what that would cost, drains, leaving, leadership.

    wanted state --dry run--> plan: moves, bytes, seconds, pause      (nothing changes)
                 --PUT, drain--> checked --> compare-and-set by the leader, which alone plans and carries out

What cannot be done is refused before anything changes, with the reason: no node left, no majority of voters, too few
copies, too little disk. Any node answers; what it knows of the others' lives is gossip, so a refusal may be a moment old
and the leader judges again.

Source: interface.md; replication.md, "The leader alone plans" and "Leave"; counterexamples.md L5, S12.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ringkeep_core.errors import BadRequest, Conflict, NoPrimary, NotFound, OutcomeUnknown, Overloaded
from ringkeep_core.ids import is_node_name
from ringkeep_core.mapchanges import Leave, MapChange, SetWanted
from ringkeep_core.placement import AddLearner, AwaitInSync, MovePrimary, NodeState, RemoveCopy, ShardChange, Step
from ringkeep_core.plans import (
    NodeFacts,
    Plan,
    PlanRefusal,
    opinion_of,
    plan_of,
    refusal_of,
    with_drain,
    with_members,
    with_weight,
)
from ringkeep_core.shardmap import Settings, ShardMap, Wanted, WantedMember
from ringkeep_node.http.exchange import Exchange
from ringkeep_node.http.replies import Reply
from ringkeep_node.http.routing import parameters, switch

ADMIN_BODY_BYTES_MAX = 1 << 20
STALE = "stale_wanted"
REFUSED = "bad_wanted"
CHANGES_SHOWN_MAX = 20_000
THINKERS_MAX = 32
"""Requests whose plan is being thought out, or waits for that."""
WHAT_IF = ("members", "drain", "weights")
"""Query parameters of a change that is only thought of."""
T = TypeVar("T")


class WantedMemberBody(Struct, frozen=True, forbid_unknown_fields=True):
    """What is wanted of one member. What is left out stays as it is; a new member has weight 1, no zone, and stays."""

    weight: float | None = None
    zone: str | None = None
    draining: bool | None = None


class SettingsBody(Struct, frozen=True, forbid_unknown_fields=True):
    """Cluster-wide settings. What is left out stays as it is."""

    replication_factor: int | None = None
    min_in_sync: int | None = None
    grace_s: float | None = None
    streams_per_node: int | None = None
    streams_max: int | None = None
    bytes_per_s: int | None = None
    hot_spot_swaps: bool | None = None
    swaps_per_hour: int | None = None


class WantedBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``PUT /v1/cluster/wanted``; ``revision`` is the one that was read.

    ``target_digest`` is the author's opinion of the target, made from the map of ``target_version``: it is compared and
    shown, and decides nothing.
    """

    revision: int
    members: dict[str, WantedMemberBody]
    settings: SettingsBody = SettingsBody()
    target_digest: str = ""
    target_version: int = 0


class WhatIfBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/cluster/plan``: a change of the wanted state that is only thought of.

    ``members``: exactly these take part, new ones too. ``drain``: these give everything up. ``weights`` by name.
    """

    members: tuple[str, ...] | None = None
    drain: tuple[str, ...] = ()
    weights: dict[str, float] = {}
    settings: SettingsBody = SettingsBody()


class TransferBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The body of ``POST /v1/cluster/transfer-leader``; "" leaves the choice to the leader."""

    to: str = ""


_wanted_decoder = msgspec.json.Decoder(WantedBody)
_what_if_decoder = msgspec.json.Decoder(WhatIfBody)
_transfer_decoder = msgspec.json.Decoder(TransferBody)


# --- plans -------------------------------------------------------------------------------------------------------


async def plan(exchange: Exchange) -> Reply:
    """Send what is left between the map and the wanted state, or would be if it were changed as the query says.

    Thinking changes nothing and tells nothing that may not be read anyway, so it needs no token.
    """
    asked = parameters(exchange.target.query, (*WHAT_IF, "steps"))
    with_steps = "steps" not in asked or switch(asked["steps"], "steps")
    body = _what_if_of(asked)
    held = await exchange.current_map()
    thought = held.wanted
    if body is not None:
        thought = _thought_of(held, body)
        await _refuse_impossible(exchange, held, thought)
    return exchange.json(await _shown(exchange, held, thought, with_steps=with_steps))


def _what_if_of(asked: Mapping[str, str]) -> WhatIfBody | None:
    """Return the change that a query speaks of, or None: ``members=n1,n2``, ``drain=n3``, ``weights=n1:2,n2:0.5``."""
    if not any(name in asked for name in WHAT_IF):
        return None
    weights = {}
    for name, text in (one.rpartition(":")[::2] for one in _listed(asked, "weights")):
        try:
            weights[name] = float(text)
        except ValueError:
            raise BadRequest(f"weights is a list of name:number, not {asked['weights'][:100]!r}") from None
    members = tuple(_listed(asked, "members")) if "members" in asked else None
    return WhatIfBody(members=members, drain=tuple(_listed(asked, "drain")), weights=weights)


def _listed(asked: Mapping[str, str], name: str) -> list[str]:
    return [one for one in asked.get(name, "").split(",") if one]


async def what_if(exchange: Exchange) -> Reply:
    """Send the plan that a change of the wanted state would mean; nothing changes."""
    exchange.edge.check_admin(exchange.request.headers.get("Authorization"))
    parameters(exchange.target.query, ("dry_run",))
    body = await body_of(exchange, _what_if_decoder, "a change of the wanted state")
    held = await exchange.current_map()
    thought = _thought_of(held, body)
    await _refuse_impossible(exchange, held, thought)
    return exchange.json(await _shown(exchange, held, thought))


def _thought_of(held: ShardMap, body: WhatIfBody) -> Wanted:
    wanted = held.wanted
    if body.members is not None:
        for name in body.members:
            _check_name(name)
        wanted = with_members(wanted, body.members)
    for name in body.drain:
        _check_known(held, name)
        wanted = with_drain(wanted, name)
    for name, weight in body.weights.items():
        _check_known(held, name)
        _check_weight(name, weight)
        wanted = with_weight(wanted, name, weight)
    return replace(wanted, revision=held.wanted.revision + 1, settings=_settings(held.wanted.settings, body.settings))


async def _shown(exchange: Exchange, held: ShardMap, wanted: Wanted, *, with_steps: bool = True) -> dict[str, object]:
    driver = exchange.edge.driver

    def think() -> Callable[[], tuple[Plan, str]]:
        facts, sizes, judged = _facts_for(driver.facts(), held, wanted), driver.shard_bytes(), driver.opinion()
        return lambda: (plan_of(held, wanted, facts, sizes), _opinion(judged, held, wanted))

    made, opinion = await _thought(exchange, think)
    return {
        "wanted_revision": wanted.revision,
        "version": held.version,
        "digest": made.target.digest,
        "opinion": opinion,
        **plan_shape(held, made, with_steps=with_steps),
        "running": driver.running_plan() if wanted is held.wanted else None,
        "leader": driver.leader(),
    }


async def _thought(exchange: Exchange, think: Callable[[], Callable[[], T]]) -> T:
    """Return what a pure function says, run beside the loop: with many shards it thinks for a quarter of a second.

    One at a time: who watches a move asks again and again, and requests must not wait for the interpreter meanwhile. Only
    so many wait, and what is known is looked at (``think``) when the turn has come. Raises ``Overloaded``.
    """
    edge = exchange.edge
    if edge.thinkers >= THINKERS_MAX:
        raise Overloaded("many plans are being thought out for others: ask again in a moment")
    edge.thinkers += 1
    try:
        async with edge.thinking:
            return await asyncio.to_thread(think())
    finally:
        edge.thinkers -= 1


def _facts_for(known: Mapping[str, NodeFacts], held: ShardMap, wanted: Wanted) -> dict[str, NodeFacts]:
    """Take who is wanted and not there yet as joining: so a scale-up can be shown before a node is started."""
    coming = {name: NodeFacts(NodeState.JOINING) for name in wanted.members if name not in held.by_name}
    return {**coming, **known}


def _opinion(judged: tuple[int, str], held: ShardMap, wanted: Wanted) -> str:
    """Return whether the author expected the same target; of the present wanted state as it was when it was accepted."""
    revision, said = judged
    return said if wanted is held.wanted and revision == wanted.revision else opinion_of(held, wanted, held.version)


class _Counts(dict[str, tuple[int, int]]):
    """Copies and primaries by name; (0, 0) for everybody else."""

    def __missing__(self, name: str) -> tuple[int, int]:
        return 0, 0

    def add(self, name: str, copies: int, primaries: int) -> None:
        before = self[name]
        self[name] = before[0] + copies, before[1] + primaries


def plan_shape(held: ShardMap, made: Plan, *, with_steps: bool = True) -> dict[str, object]:
    """Return a plan as the REST interface shows it."""
    forecast, target = made.forecast, made.target
    now, then = _counts_now(held), _counts_then(made)
    degraded = Counter(shard.degraded for shard in target.shards if shard.degraded)
    return {
        "copies": forecast.copies,
        "lower_bound": target.lower_bound,
        "primaries": forecast.primaries,
        "shards": len(forecast.shards),
        "bytes": made.bytes,
        "seconds": round(forecast.seconds, 3),
        "pause_s": round(forecast.pause_s, 3),
        "degraded": dict(sorted(degraded.items())),
        "nodes": [
            {
                "name": name,
                "copies": now[name][0],
                "copies_then": then[name][0],
                "primaries": now[name][1],
                "primaries_then": then[name][1],
            }
            for name in sorted({*now, *then})
        ],
        "steps": _steps_shape(made.steps) if with_steps else [],
    }


def _counts_now(held: ShardMap) -> _Counts:
    names = {storage: member.name for storage, member in held.members.items()}
    counts = _Counts((name, (0, 0)) for name in names.values())
    for shard in held.shards:
        for copy in (*shard.in_sync, *shard.learners):
            counts.add(names[copy.storage], 1, 0)
        counts.add(names[shard.primary.storage], 0, 1)
    return counts


def _counts_then(made: Plan) -> _Counts:
    counts = _Counts()
    for shard in made.target.shards:
        for name in shard.copies:
            counts.add(name, 1, 0)
        if shard.primary is not None:
            counts.add(shard.primary, 0, 1)
    return counts


def _steps_shape(steps: tuple[Step, ...]) -> list[dict[str, object]]:
    left = CHANGES_SHOWN_MAX
    shown: list[dict[str, object]] = []
    for step in steps:
        if left <= 0:
            break
        shown.append(
            {
                "streams": [{"from": source, "to": to} for source, to in step.streams],
                "bytes": step.bytes,
                "repairs": step.repairs,
                "changes": [_change_shape(change) for change in step.changes[:left]],
            }
        )
        left -= len(step.changes)
    return shown


def _change_shape(change: ShardChange) -> dict[str, object]:
    match change:
        case AddLearner():
            return {"shard": change.shard, "kind": "copy", "node": change.node, "from": change.source}
        case MovePrimary():
            return {"shard": change.shard, "kind": "primary", "node": change.target, "from": change.source}
        case AwaitInSync():
            return {"shard": change.shard, "kind": "in_sync", "node": change.node}
        case RemoveCopy():
            return {"shard": change.shard, "kind": "remove", "node": change.node}


# --- the wanted state --------------------------------------------------------------------------------------------


async def wanted(exchange: Exchange) -> Reply:
    """Send the wanted state."""
    parameters(exchange.target.query, ())
    return exchange.json((await exchange.current_map()).wanted)


async def set_wanted(exchange: Exchange) -> Reply:
    """Replace the wanted state if its revision is still the one that the caller read; send the new one, or its plan."""
    exchange.edge.check_admin(exchange.request.headers.get("Authorization"))
    is_dry = _is_dry(exchange)
    body = await body_of(exchange, _wanted_decoder, "a wanted state")
    held = await _map_with(exchange, body.revision)
    if held.wanted.revision > body.revision:
        raise Conflict(f"the wanted state is at revision {held.wanted.revision}, not {body.revision}")
    return await _want(exchange, held, wanted_of(body, held.wanted), is_dry=is_dry)


async def _map_with(exchange: Exchange, revision: int) -> ShardMap:
    """Return the held map once it has that revision of the wanted state: what is left out is filled in from it.

    The caller may have read it from another node, which was told a moment earlier. Raises ``NoPrimary`` at the deadline.
    """
    driver, clock = exchange.edge.driver, exchange.edge.service.clock
    timeout_s = exchange.timeout_s()
    until = clock() + timeout_s
    held = await exchange.current_map()
    while held.wanted.revision < revision:
        left_s = until - clock()
        if left_s <= 0:
            raise NoPrimary(
                f"this node knows the wanted state up to revision {held.wanted.revision}, not {revision}; nothing changed"
            )
        await driver.wait_newer_than(held.version, timeout_s=left_s)
        held = exchange.edge.service.held_map()
    return held


async def drain(exchange: Exchange) -> Reply:
    """Have a member give everything up, or take that back (DELETE); send the new wanted state, or its plan."""
    exchange.edge.check_admin(exchange.request.headers.get("Authorization"))
    is_dry, name = _is_dry(exchange), exchange.target.key
    held = await exchange.current_map()
    _check_known(held, name)
    draining = exchange.request.method != "DELETE"
    present = held.wanted.members.get(name)
    if present is not None and present.draining is draining and not is_dry:
        return exchange.json(held.wanted)
    new = with_drain(held.wanted, name)
    if not draining:
        new = replace(new, members={**new.members, name: replace(new.members[name], draining=False)})
    return await _want(exchange, held, new, is_dry=is_dry)


async def _want(exchange: Exchange, held: ShardMap, new: Wanted, *, is_dry: bool) -> Reply:
    await _refuse_impossible(exchange, held, new)
    if is_dry:
        return exchange.json(await _shown(exchange, held, new))
    await _carried_out(exchange, SetWanted(new, f"request {exchange.id}"))
    return exchange.json(new)


async def _refuse_impossible(exchange: Exchange, held: ShardMap, new: Wanted) -> None:
    driver = exchange.edge.driver

    def think() -> Callable[[], PlanRefusal | None]:
        facts, voters, sizes = _facts_for(driver.facts(), held, new), driver.voters(), driver.shard_bytes()
        return lambda: refusal_of(held, new, facts, voters, sizes)

    refusal = await _thought(exchange, think)
    if refusal is not None:
        raise Conflict(f"{refusal.code}: {refusal.detail}")


def _is_dry(exchange: Exchange) -> bool:
    asked = parameters(exchange.target.query, ("dry_run",))
    return "dry_run" in asked and switch(asked["dry_run"], "dry_run")


def wanted_of(body: WantedBody, present: Wanted) -> Wanted:
    """Return the wanted state that a body asks for, one revision further. Raises ``BadRequest``."""
    members = {}
    for name, member in body.members.items():
        _check_name(name)
        members[name] = _member_of(member, present.members.get(name, WantedMember()))
        _check_weight(name, members[name].weight)
    return Wanted(
        revision=body.revision + 1,
        members=members,
        settings=_settings(present.settings, body.settings),
        target_digest=body.target_digest,
        target_version=body.target_version,
    )


def _member_of(body: WantedMemberBody, present: WantedMember) -> WantedMember:
    given = {name: value for name, value in msgspec.structs.asdict(body).items() if value is not None}
    return replace(present, **given)


def _settings(present: Settings, body: SettingsBody) -> Settings:
    given = {name: value for name, value in msgspec.structs.asdict(body).items() if value is not None}
    return replace(present, **given)


def _check_name(name: str) -> None:
    if not is_node_name(name):
        raise BadRequest(f"{name[:100]!r} is not a node name (an RFC 1123 label)")


def _check_weight(name: str, weight: float) -> None:
    if not 0 <= weight < math.inf:
        raise BadRequest(f"the weight of {name} is a number from 0, not {weight}")


def _check_known(held: ShardMap, name: str) -> None:
    if name not in held.by_name:
        names = ", ".join(sorted(held.by_name))
        raise NotFound(f"there is no member {name[:100]!r}; the members are {names[:1000]}")


# --- leaving and leadership --------------------------------------------------------------------------------------


async def leave(exchange: Exchange) -> Reply:
    """Let a drained member go for good. That the entry commits is the proof that it holds nothing and does not vote."""
    exchange.edge.check_admin(exchange.request.headers.get("Authorization"))
    parameters(exchange.target.query, ())
    held = await exchange.current_map()
    _check_known(held, exchange.target.key)
    storage = held.by_name[exchange.target.key].storage
    await _carried_out(exchange, Leave(storage, f"request {exchange.id}"))
    return exchange.json({"left": exchange.target.key, "storage_id": storage})


async def transfer_leader(exchange: Exchange) -> Reply:
    """Have the leader hand Raft leadership to another voter; send who leads then."""
    exchange.edge.check_admin(exchange.request.headers.get("Authorization"))
    parameters(exchange.target.query, ())
    body = await body_of(exchange, _transfer_decoder, "a transfer of leadership")
    held, driver = await exchange.current_map(), exchange.edge.driver
    to = ""
    if body.to:
        _check_known(held, body.to)
        to = held.by_name[body.to].storage
        if to not in driver.voters():
            raise Conflict(f"{body.to} does not vote, so it cannot lead")
    known = await driver.transfer_leader(to, timeout_s=exchange.timeout_s())
    return exchange.json(known)


async def _carried_out(exchange: Exchange, change: MapChange) -> None:
    outcome = await exchange.edge.driver.propose(change, timeout_s=exchange.timeout_s())
    if outcome.code == STALE:
        raise Conflict(outcome.detail or "the wanted state was changed by somebody else")
    if outcome.code == REFUSED:
        raise BadRequest(outcome.detail)
    if outcome.code:
        raise _refusal(outcome.code, outcome.detail)


async def body_of(exchange: Exchange, decoder: msgspec.json.Decoder[T], what: str) -> T:
    """Return the decoded body; raise ``BadRequest`` with one sentence if it is not ``what``."""
    data = await exchange.body(ADMIN_BODY_BYTES_MAX, what)
    try:
        return decoder.decode(data or b"{}")
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadRequest(f"the body is not {what}: {error}") from None


def _refusal(code: str, detail: str) -> Conflict | NoPrimary | OutcomeUnknown:
    if code == OutcomeUnknown.code:
        return OutcomeUnknown(detail)
    if code in ("no_leader", NoPrimary.code):
        return NoPrimary(detail or "there is no leader now")
    return Conflict(detail or f"the leader refused the change: {code}")
