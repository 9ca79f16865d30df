"""``plan`` and ``drain``: what a change of the members would mean, and carrying one out with progress."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.markup import escape

from ringkeep.administration import PLAN_PATH, what_if_body
from ringkeep.answers import Plan, RunningPlan
from ringkeep.async_client import AsyncClient
from ringkeep.command.endpoint import client_for, directory_of, local_node
from ringkeep.command.options import DirOption, NodeArgument, Output, OutputOption, TimeoutOption, UrlOption
from ringkeep.command.screen import console, moving, span, table, write_json
from ringkeep.launcher import LocalCluster
from ringkeep.membership import choose, leave, set_drain, until_moved
from ringkeep_core.wording import size

WAITS_SHOWN = 8


def plan(
    scale: Annotated[
        int | None, typer.Option("--scale", min=1, metavar="N", help="What if N nodes took part?", show_default=False)
    ] = None,
    drain: Annotated[
        list[str] | None,
        typer.Option("--drain", metavar="NODE", help="What if this node gave everything up?", show_default=False),
    ] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option("--weight", metavar="NODE=W", help="What if it had this weight?", show_default=False),
    ] = None,
    timeout: TimeoutOption = 10.0,
    url: UrlOption = None,
    directory: DirOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Show what is left to be moved, or what a change would move; nothing is changed."""
    weights = dict(_weight(text) for text in weight or ())
    is_thought = scale is not None or bool(drain) or bool(weights)

    async def run() -> bytes:
        async with client_for(url, directory, timeout_s=timeout) as client:
            if not is_thought:
                return await client.ask("GET", PLAN_PATH)
            members = None if scale is None else await _members(client, scale)
            thought = what_if_body(members=members, drain=drain or (), weights=weights)
            return await client.ask("POST", PLAN_PATH, thought)

    body = asyncio.run(run())
    if output is Output.JSON:
        write_json(body)
        return
    _show(msgspec.json.decode(body, type=Plan), is_thought=is_thought)


def drain(
    node: NodeArgument,
    keep: Annotated[bool, typer.Option("--keep", help="It stays a member that holds nothing.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Take a drain back.")] = False,
    timeout: TimeoutOption = 10.0,
    url: UrlOption = None,
    directory: DirOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Move everything away from a node, wait until it is empty, then let it leave for good.

    A node of the local cluster is stopped then and its data deleted. Interrupted, the cluster goes on moving.
    """
    if keep and undo:
        raise typer.BadParameter("give one of --keep and --undo")
    started = time.monotonic()
    if undo:
        body = asyncio.run(_taken_back(url, directory, timeout, node))
        text = f"the drain of {node} is taken back"
    else:
        body = asyncio.run(_drained(url, directory, timeout, node, keep=keep))
        what = "is empty and stays a member" if keep else "is empty and has left"
        text = f"{node} {what} after {span(time.monotonic() - started)}"
    if output is Output.JSON:
        write_json(body)
    else:
        console().print(text, markup=False)


async def _taken_back(url: str | None, directory: Path | None, timeout_s: float, name: str) -> bytes:
    async with client_for(url, directory, timeout_s=timeout_s) as client:
        return await set_drain(client, name, draining=False)


async def _drained(url: str | None, directory: Path | None, timeout_s: float, name: str, *, keep: bool) -> bytes:
    with moving("drain", unit="copies") as (say, told):
        async with client_for(url, directory, timeout_s=timeout_s) as client:
            wanted = msgspec.json.decode(await set_drain(client, name, draining=True))
            say(f"moving everything away from {name}")
            await until_moved(client, revision=wanted["revision"], empty=[name], told=told)
            if keep:
                return await client.ask("GET", PLAN_PATH)
            say(f"{name} leaves")
            if not local_node(url, directory, name):
                answer = await leave(client, name)
                return answer if answer is not None else await client.ask("GET", PLAN_PATH)
        answer = await LocalCluster(directory_of(directory)).let_go(name, say=say)
        return answer if answer is not None else b"{}"


async def _members(client: AsyncClient, count: int) -> list[str]:
    """Return who would take part if ``count`` nodes did: as ``scale`` would choose them."""
    members = (await client.wanted())["members"]
    draining = [name for name, one in members.items() if one["draining"]]
    return list(choose(list(members), count, draining=draining).names)


def _weight(text: str) -> tuple[str, float]:
    name, _, number = text.partition("=")
    try:
        return name, float(number)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not NODE=WEIGHT, as n2=0.5", param_hint="--weight") from None


def _show(plan: Plan, *, is_thought: bool) -> None:
    if plan.is_done and not is_thought:
        console().print("nothing is left to do: the map is as wanted", markup=False)
    rows = table("NODE", ">COPIES", ">THEN", ">PRIMARIES", ">THEN")
    for node in plan.nodes:
        numbers = (node.copies, node.copies_then, node.primaries, node.primaries_then)
        rows.add_row(escape(node.name), *(str(number) for number in numbers))
    console().print(rows)
    costs = [] if plan.is_done and not is_thought else _costs(plan)
    for line in (*costs, *_running(plan.running)):
        console().print(line, markup=False, soft_wrap=True)


def _costs(plan: Plan) -> list[str]:
    lines = [
        f"copies to move   {plan.copies_left:,} (no plan needs fewer than {plan.lower_bound:,})",
        f"primaries        {plan.primaries:,}",
        f"bytes to send    {size(plan.bytes)}",
        f"expected time    {span(plan.seconds) if plan.seconds >= 1 else 'less than 1 s'}",
        f"expected pause   {_pause(plan)}",
    ]
    return lines + [f"degraded         {count:,} shards: {reason}" for reason, count in plan.degraded.items()]


def _pause(plan: Plan) -> str:
    if not plan.primaries:
        return "none"
    return f"{plan.pause_s / plan.primaries * 1000:.0f} ms for each shard whose primary moves"


def _running(running: RunningPlan | None) -> list[str]:
    if running is None:
        return []
    return [
        f"running          {told_of(running)}",
        *(f"waits            {why}" for why in running.waiting[:WAITS_SHOWN]),
    ]


def told_of(running: RunningPlan, *, now: float | None = None) -> str:
    """Return in a few words how far a running plan is: copies, rate, time left. ``now`` in unix seconds."""
    spent_s = max((time.time() if now is None else now) - running.since, 1e-3)
    rate = running.copies_done / spent_s
    left = running.copies - running.copies_done
    parts = [f"{running.copies_done:,} of {running.copies:,} copies"]
    if running.primaries:
        parts.append(f"{running.primaries:,} primaries to move")
    if rate and left > 0:
        parts.append(f"{rate:,.0f}/s, {span(left / rate)} left")
    return f"{running.reason}: {', '.join(parts)}" if running.reason else ", ".join(parts)
