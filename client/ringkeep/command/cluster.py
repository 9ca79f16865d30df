"""``members``, ``shards`` and ``route``: what the cluster says of itself."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
import typer
from rich.markup import escape

from ringkeep.administration import PLAN_PATH
from ringkeep.answers import Member, Members, Plan, Route, ShardMap
from ringkeep.command.endpoint import client_for
from ringkeep.command.options import DirOption, Output, OutputOption, TimeoutOption, UrlOption, UserArgument
from ringkeep.command.screen import console, table, write_json
from ringkeep.health import ShardState, shard_states
from ringkeep.transport import route_path

_COLOURS = {
    "alive": "green",
    "joining": "cyan",
    "suspect": "yellow",
    "dead": "red",
    ShardState.OK: "green",
    ShardState.MOVING: "cyan",
    ShardState.UNDER_REPLICATED: "yellow",
    ShardState.UNAVAILABLE: "red",
}


def members(
    timeout: TimeoutOption = 5.0,
    url: UrlOption = None,
    directory: DirOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """List the members and what is believed about them."""
    (body,) = _read(url, directory, timeout, "/v1/cluster/members")
    if output is Output.JSON:
        write_json(body)
        return
    rows = table("NAME", "STATE", "URL", "ZONE", ">WEIGHT", ">COPIES", ">PRIMARIES", "EVIDENCE")
    for member in msgspec.json.decode(body, type=Members).members:
        rows.add_row(*_member_cells(member))
    console().print(rows)


def shards(
    moving: Annotated[bool, typer.Option("--moving", help="Only shards that move, and from where to where.")] = False,
    degraded: Annotated[bool, typer.Option("--degraded", help="Only shards with too few copies or none.")] = False,
    timeout: TimeoutOption = 5.0,
    url: UrlOption = None,
    directory: DirOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """List the shards: who orders their writes, who holds copies."""
    told = _read(url, directory, timeout, "/v1/cluster/map", "/v1/cluster/members", plan=moving)
    map_body, members_body = told[:2]
    shard_map = msgspec.json.decode(map_body, type=ShardMap)
    moves = moves_of(msgspec.json.decode(told[2], type=Plan), shard_map) if moving else {}
    states = shard_states(shard_map, msgspec.json.decode(members_body, type=Members).members)
    bad = (ShardState.UNDER_REPLICATED, ShardState.UNAVAILABLE)
    chosen = [
        shard
        for shard in shard_map.shards
        if not (moving or degraded) or (moving and shard.shard in moves) or (degraded and states[shard.shard] in bad)
    ]
    if output is Output.JSON:
        write_json(map_body if not (moving or degraded) else _only_shards(map_body, {s.shard for s in chosen}))
        return
    rows = table(
        ">SHARD",
        "STATE",
        ">EPOCH",
        "PRIMARY",
        "IN SYNC",
        "ELIGIBLE",
        "LEARNERS",
        ">NEED",
        *(("MOVES",) if moving else ()),
    )
    for shard in chosen:
        copies = [" ".join(copy.name for copy in kind) for kind in (shard.in_sync, shard.eligible, shard.learners)]
        primary = shard.primary.name if shard.primary is not None else "-"
        cells = [escape(cell) for cell in (primary, *copies)]
        shown = (escape("; ".join(moves.get(shard.shard, ()))),) if moving else ()
        rows.add_row(
            str(shard.shard), _coloured(states[shard.shard]), str(shard.epoch), *cells, str(shard.need), *shown
        )
    console().print(rows)
    console().print(f"{len(chosen)} of {len(shard_map.shards)} shards, map version {shard_map.version}", markup=False)


def route(
    user: UserArgument,
    timeout: TimeoutOption = 5.0,
    url: UrlOption = None,
    directory: DirOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show where a user lives."""
    (body,) = _read(url, directory, timeout, route_path(user))
    if output is Output.JSON:
        write_json(body)
        return
    found = msgspec.json.decode(body, type=Route)
    rows = table("", "")
    rows.show_header = False
    rows.add_row("user", escape(found.user))
    rows.add_row("shard", f"{found.shard} in epoch {found.epoch}, map version {found.version}")
    primary = found.primary
    rows.add_row("primary", escape(f"{primary.name} {primary.url}") if primary is not None else "[red]none[/red]")
    rows.add_row("in sync", escape(", ".join(copy.name for copy in found.in_sync)))
    console().print(rows)


def moves_of(plan: Plan, shard_map: ShardMap) -> dict[int, list[str]]:
    """Return in a few words what is moving or is to move, by shard: copies, primaries, copies that go."""
    primaries = {shard.shard: shard.primary.name for shard in shard_map.shards if shard.primary is not None}
    learning = {(shard.shard, copy.name) for shard in shard_map.shards for copy in shard.learners}
    moves: dict[int, list[str]] = {}
    for change in (change for step in plan.steps for change in step.changes):
        told = moves.setdefault(change.shard, [])
        match change.kind:
            case "copy":
                told.append(f"copy {change.source} -> {change.node}")
            case "in_sync" if (change.shard, change.node) in learning:
                told.append(f"copying {primaries.get(change.shard, '?')} -> {change.node}")
            case "primary":
                told.append(f"primary {change.source} -> {change.node}")
            case "remove":
                told.append(f"{change.node} gives its copy up")
    return moves


def _read(url: str | None, directory: Any, timeout_s: float, *paths: str, plan: bool = False) -> list[bytes]:
    async def run() -> list[bytes]:
        async with client_for(url, directory, timeout_s=timeout_s) as client:
            told = [await client.read(path) for path in paths]
            return [*told, await client.ask("GET", PLAN_PATH)] if plan else told

    return asyncio.run(run())


def _only_shards(map_body: bytes, chosen: set[int]) -> bytes:
    decoded = msgspec.json.decode(map_body)
    decoded["shards"] = [shard for shard in decoded["shards"] if shard["shard"] in chosen]
    return msgspec.json.encode(decoded)


def _member_cells(member: Member) -> list[str]:
    state = _coloured(member.state) + (" (draining)" if member.draining else "")
    numbers = [f"{member.weight:g}", str(member.copies), str(member.primaries)]
    return [escape(member.name), state, escape(member.url), escape(member.zone or ""), *numbers, _evidence(member)]


def _evidence(member: Member) -> str:
    """Return in a few words why a member is not called alive."""
    if member.state == "alive" or not member.evidence:
        return ""
    told = member.evidence if isinstance(member.evidence, list) else [member.evidence]
    words = [f"{e.get('by', '?')}: {e.get('why', '?')}" if isinstance(e, dict) else str(e) for e in told]
    return escape("; ".join(words))


def _coloured(state: str) -> str:
    colour = _COLOURS.get(state)
    return f"[{colour}]{escape(state)}[/{colour}]" if colour else escape(state)
