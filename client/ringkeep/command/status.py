"""``status``: what is wrong with the cluster and what is being done about it, in words and on one screen.

The words are the cluster's own (``GET /v1/cluster/summary``, from the leader where it can be asked, since it alone knows how
far a plan is). What this machine knows is added: whether the processes of the local cluster run.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
from msgspec.structs import replace
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ringkeep.administration import PLAN_PATH
from ringkeep.answers import Leader, Member, Members, Plan, ShardMap
from ringkeep.async_client import AsyncClient
from ringkeep.command.endpoint import client_for, directory_of, option_of, silent_nodes, states_of_processes
from ringkeep.command.options import DirOption, Output, OutputOption, TimeoutOption, UrlOption
from ringkeep.command.plans import told_of
from ringkeep.command.screen import console, write_json
from ringkeep.errors import BadRequest, NotFound, NotReady, OutcomeUnknown, RingkeepError, Unavailable
from ringkeep.health import shard_states
from ringkeep_core.summary import Finding, Severity, Summary, sentence
from ringkeep_core.summary.text import lines_of, shard_states_of
from ringkeep_core.summary.text import told_of as clauses_of
from ringkeep_core.wording import many, size

SUMMARY_PATH = "/v1/cluster/summary"
WITH_SUMMARY_PATH = "/v1/cluster?summary=true"
PROMPT_LINES = 1
STYLES = {Severity.OK: "green", Severity.DEGRADED: "yellow", Severity.UNAVAILABLE: "red"}
STATE_STYLES = {
    "alive": "green",
    "ok": "green",
    "joining": "cyan",
    "moving": "cyan",
    "suspect": "yellow",
    "under-replicated": "yellow",
    "dead": "red",
    "no writes": "red",
    "unavailable": "red",
}


class Told(msgspec.Struct, frozen=True):
    """What was asked for one screen. ``summary`` is None at a node of an older version; ``plan`` None if nobody knows it.

    ``processes`` says by name how the process of a node of the local cluster is.
    """

    summary: Summary | None
    facts: tuple[tuple[str, str], ...]
    counts: tuple[tuple[str, Mapping[str, int]], ...]
    plan: str
    url: str
    processes: Mapping[str, str] = {}


def status(
    timeout: TimeoutOption = 5.0,
    url: UrlOption = None,
    directory: DirOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Say on one screen how the cluster is: what is wrong, what is being done about it, what you should do."""
    try:
        if output is Output.JSON:
            write_json(asyncio.run(_answer(url, directory, timeout)))
            return
        told = asyncio.run(_told(url, directory, timeout))
    except (Unavailable, OutcomeUnknown) as error:
        raise silent_nodes(url, directory, error) from error
    screen = console()
    if screen.is_terminal:
        screen.print(on_one_screen(told, screen))
    else:
        for line in plain_lines(told):
            screen.print(line, markup=False, soft_wrap=True)


async def _answer(url: str | None, directory: Path | None, timeout_s: float) -> bytes:
    async with client_for(url, directory, timeout_s=timeout_s) as client:
        try:
            return await client.ask("GET", WITH_SUMMARY_PATH)
        except BadRequest:  # A node of an older version knows no such parameter.
            return await client.read("/v1/cluster")


async def _told(url: str | None, directory: Path | None, timeout_s: float) -> Told:
    async with client_for(url, directory, timeout_s=timeout_s) as client:
        members = msgspec.json.decode(await client.read("/v1/cluster/members"), type=Members).members
        summary = await _summary(client)
        plan = await _plan(client)
        address = next((member.url for member in members if member.state == "alive"), "-")
        processes = states_of_processes(url, directory)
        if summary is None:
            return await _told_by_older(client, members, plan, address)
    if not url:
        summary = _told_here(summary, option_of(directory_of(directory)))
    return Told(summary, _facts(summary), _counts(summary), plan, address, processes)


def _told_here(summary: Summary, option: str) -> Summary:
    """Let the commands name the local cluster that was meant: a node does not know in which directory it runs."""
    findings = (replace(it, command=f"{it.command}{option}") if it.command else it for it in summary.findings)
    return replace(summary, findings=tuple(findings))


async def _summary(client: AsyncClient) -> Summary | None:
    try:
        return msgspec.json.decode(await client.ask("GET", SUMMARY_PATH), type=Summary)
    except (NotFound, msgspec.ValidationError):
        return None


async def _plan(client: AsyncClient) -> str:
    try:
        return plan_line(msgspec.json.decode(await client.ask("GET", PLAN_PATH), type=Plan))
    except (NotReady, Unavailable, OutcomeUnknown):
        return "not known: nobody with a present map answers"
    except RingkeepError as error:
        return f"not known: {error}"


async def _told_by_older(client: AsyncClient, members: tuple[Member, ...], plan: str, address: str) -> Told:
    """Ask a node without summaries for the counts alone, as during the update of a cluster."""
    shard_map = msgspec.json.decode(await client.read("/v1/cluster/map"), type=ShardMap)
    leader = msgspec.json.decode(await client.read("/v1/cluster/leader"), type=Leader)
    facts = (
        ("cluster", f"{shard_map.cluster_id}, map version {shard_map.version}"),
        ("leader", f"{leader.name} in term {leader.term}" if leader.name else "none"),
    )
    counts = (
        ("members", Counter(member.state for member in members)),
        ("shards", Counter(str(state) for state in shard_states(shard_map, members).values())),
    )
    return Told(None, facts, counts, plan, address)


def _facts(summary: Summary) -> tuple[tuple[str, str], ...]:
    led = f"{summary.leader} in term {summary.term}" if summary.leader else "none"
    return (("cluster", f"{summary.cluster_id or '-'}, map version {summary.version}"), ("leader", led))


def _counts(summary: Summary) -> tuple[tuple[str, Mapping[str, int]], ...]:
    return (("members", summary.members), ("shards", shard_states_of(summary.shards)))


def plan_line(plan: Plan) -> str:
    """Return in a line how far the plan is, with rate and time left where the leader said so."""
    if plan.is_done:
        return "nothing to move"
    if plan.running is not None:
        return "; ".join((told_of(plan.running), *plan.running.waiting[:1]))
    return f"{plan.copies_left:,} copies and {plan.primaries:,} primaries to move, {size(plan.bytes)}"


# --- plain -------------------------------------------------------------------------------------------------------


def plain_lines(told: Told) -> list[str]:
    """Return everything, one thing a line, without any control code."""
    rows = [*told.facts, *((name, _counted(counts)) for name, counts in told.counts)]
    rows += [("plan", told.plan), ("open", told.url)]
    lines = [f"{name:<8}  {text}" for name, text in rows]
    words = lines_of(told.summary) if told.summary is not None else []
    down = [f"- {name}: {state}." for name, state in _worth_saying(told)]
    return [*words[:1], *lines, *words[1:], *down]


def _counted(counts: Mapping[str, int]) -> str:
    return f"{sum(counts.values())}: " + ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))


def _worth_saying(told: Told) -> Iterable[tuple[str, str]]:
    """Yield what this machine knows of processes that are not as they should be."""
    wrong = {finding.subject for finding in told.summary.findings} if told.summary is not None else set()
    for name, state in told.processes.items():
        if name in wrong or not state.startswith("runs"):
            yield name, f"its process here {state}"


# --- on a terminal -----------------------------------------------------------------------------------------------


def on_one_screen(told: Told, screen: Console) -> RenderableType:
    """Return everything for a terminal; findings for which there is no room are named in a line each, then counted."""
    parts: list[RenderableType] = []
    if told.summary is not None:
        style = STYLES[told.summary.severity]
        parts += [Text(told.summary.headline, style=f"bold {style}"), Text()]
    parts.append(_rows(told))
    findings = told.summary.findings if told.summary is not None else ()
    if findings:
        room = screen.height - PROMPT_LINES - _height(screen, Group(*parts)) - 1
        parts += [Text(), *_fitting(findings, dict(_worth_saying(told)), screen, room)]
    elif told.processes:
        parts += [Text(f"{name}: {state}", style="yellow") for name, state in _worth_saying(told)]
    return Group(*parts)


def _rows(told: Told) -> Table:
    rows = Table.grid(padding=(0, 2))
    for name, text in told.facts:
        rows.add_row(name, Text(text, style="red" if text == "none" else ""))
    for name, counts in told.counts:
        line = Text(f"{sum(counts.values())}: ")
        pieces = [
            Text(f"{count} {state}", style=STATE_STYLES.get(state, "")) for state, count in sorted(counts.items())
        ]
        rows.add_row(name, line + Text(", ").join(pieces))
    rows.add_row("plan", Text(told.plan))
    rows.add_row("open", Text(told.url))
    return rows


def _fitting(
    findings: tuple[Finding, ...], here: Mapping[str, str], screen: Console, room: int
) -> list[RenderableType]:
    """Return the worst finding in full, the others in full while there is room, else by title, then by number."""
    whole = [_finding(finding, here.get(finding.subject, "")) for finding in findings]
    titles = [_title(finding) for finding in findings]
    sizes = [_height(screen, it) for it in titles]
    room -= _height(screen, whole[0])
    shown = len(findings)
    while shown > 1 and sum(sizes[1:shown]) > room - (shown < len(findings)):
        shown -= 1
    spare = room - sum(sizes[1:shown])
    told: list[RenderableType] = [whole[0]]
    for place in range(1, shown):
        more = _height(screen, whole[place]) - sizes[place]
        told.append(whole[place] if more <= spare else titles[place])
        spare -= more if more <= spare else 0
    if shown < len(findings):
        left = len(findings) - shown
        told.append(Text(f"and {many(left, 'finding')} more; --output json lists all", style="dim"))
    return told


def _height(screen: Console, what: RenderableType) -> int:
    return len(screen.render_lines(what, pad=False))


def _title(finding: Finding) -> Text:
    return Text(f"- {sentence(finding.what)}", style=STYLES[finding.severity])


def _finding(finding: Finding, here: str) -> RenderableType:
    clauses = Table.grid(padding=(0, 2))
    for label, text in clauses_of(finding):
        clauses.add_row(Text(label, style="dim"), Text(f"{text}."))
    if here:
        clauses.add_row(Text("here", style="dim"), Text(f"{here}."))
    if finding.command:
        clauses.add_row(Text("command", style="dim"), Text(finding.command, style="bold"))
    return Group(_title(finding), Padding(clauses, (0, 0, 0, 2)))
