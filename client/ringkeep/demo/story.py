"""The demo, step by step. Every number it prints was measured or counted in this run."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

import msgspec
from rich.console import Console
from rich.markup import escape

from ringkeep.answers import ImportResult, ShardMap
from ringkeep.async_client import AsyncClient
from ringkeep.command.screen import Meter, moving, span, steps, table
from ringkeep.demo import verify
from ringkeep.demo.flights import DemoError, keys_by_aircraft, read_flights, source_file
from ringkeep.demo.recovery import busiest_primary, first_after, recovery
from ringkeep.demo.writer import RecordingWriter
from ringkeep.errors import RingkeepError
from ringkeep.health import copies_wanted
from ringkeep.launcher import ClusterRecord, NodeRecord
from ringkeep.launcher.nodes import Say
from ringkeep.membership import Told, choose
from ringkeep_core.wording import size

NODES = 3
NODES_MOST = 5
SHOWN_MAX = 5


class Timing(msgspec.Struct, frozen=True):
    """How long the story dwells and waits, in seconds. The limits end it with an error."""

    before_kill_s: float = 3.0
    after_s: float = 2.0
    failover_limit_s: float = 60.0
    return_limit_s: float = 120.0


class Nodes(Protocol):
    """What the story does to the nodes; the launcher's ``LocalCluster`` is one."""

    async def up(self, nodes: int | None = None, *, say: Say) -> ClusterRecord:
        """Start the cluster."""

    async def scale(self, nodes: int, *, say: Say, told: Told) -> ClusterRecord:
        """Start or remove nodes."""

    async def restart(self, name: str, *, say: Say) -> NodeRecord:
        """Start a node again."""

    def kill(self, name: str) -> NodeRecord:
        """End a node with SIGKILL."""


class Outcome(msgspec.Struct, frozen=True):
    """What the demo found. ``url`` is the address to open in a browser."""

    url: str
    acknowledged: int
    lost: int
    aircraft: int
    matching: int

    @property
    def is_perfect(self) -> bool:
        """Whether nothing was lost and everything matches (and there was something to lose)."""
        return self.acknowledged > 0 and self.lost == 0 and 0 < self.aircraft == self.matching

    def last_line(self) -> str:
        """Return the line that everything was done for."""
        return (
            f"lost {self.lost:,} of {self.acknowledged:,} acknowledged writes; "
            f"{self.matching:,} of {self.aircraft:,} aircraft match"
        )


class Story:
    """One run of the demo on a cluster that nobody else uses."""

    def __init__(
        self, cluster: Nodes, screen: Console, *, source: Path | None = None, timing: Timing | None = None
    ) -> None:
        self._cluster = cluster
        self._screen = screen
        self._source = source or source_file()
        self._timing = timing or Timing()

    async def tell(self) -> Outcome:
        """Carry out every step and return what was found. The cluster is left running."""
        expected = await asyncio.to_thread(keys_by_aircraft, self._source)
        record = await self._start()
        async with AsyncClient([node.url for node in record.nodes], timeout_s=verify.READ_TIMEOUT_S) as client:
            await self._load(client, expected)
            await self._show_routes(client, expected)
            writer = RecordingWriter(client)
            writer.start()
            try:
                await self._scale(client, writer, NODES_MOST)
                # One of the new nodes: who died lately leads nothing for half a minute, and these go before that.
                await self._kill_and_restart(client, writer, other_than=[node.name for node in record.nodes])
                await self._scale(client, writer, NODES)
                await writer.stop()
            finally:
                await writer.cancel()
            return await self._verify(client, writer, expected, record.nodes[0].url)

    async def _start(self) -> ClusterRecord:
        self._heading(f"A cluster of {NODES} nodes on this machine")
        started = time.monotonic()
        with steps("up", self._screen) as say:
            record = await self._cluster.up(NODES, say=say)
        self._say(f"takes writes after {span(time.monotonic() - started)}: " + ", ".join(n.url for n in record.nodes))
        return record

    async def _load(self, client: AsyncClient, expected: Mapping[str, tuple[str, ...]]) -> None:
        flights = sum(len(keys) for keys in expected.values())
        self._heading(f"{flights:,} flights of 2013 as documents of their {len(expected):,} aircraft")

        def told(result: ImportResult) -> None:
            meter.update(result.stored)

        with Meter("load", unit="flights", total=flights, screen=self._screen) as meter:
            lines = (flight.line() for flight in read_flights(self._source))
            result = await client.import_lines(lines, on_progress=told)
        if result.stored != flights:
            problem = result.errors[0] if result.errors else None
            raise DemoError(f"{result.stored:,} of {flights:,} flights were stored; the first problem: {problem}")

    async def _show_routes(self, client: AsyncClient, expected: Mapping[str, tuple[str, ...]]) -> None:
        self._heading("Where some aircraft live")
        rows = table("AIRCRAFT", ">FLIGHTS", ">SHARD", "PRIMARY", "IN SYNC")
        ranked = sorted(expected, key=lambda user: (-len(expected[user]), user))
        for user in (*ranked[:3], *ranked[len(ranked) // 2 : len(ranked) // 2 + 3]):
            route = await client.route(user)
            primary = route.primary.name if route.primary is not None else "none"
            in_sync = ", ".join(sorted(copy.name for copy in route.in_sync))
            rows.add_row(escape(user), str(len(expected[user])), str(route.shard), escape(primary), escape(in_sync))
        self._screen.print(rows)

    async def _scale(self, client: AsyncClient, writer: RecordingWriter, nodes: int) -> None:
        await self._all_write(writer)
        before, thought = await client.map(), await client.what_if(members=await self._names(client, nodes))
        self._heading(f"Scale from {len(before.members)} to {nodes} nodes while the writer writes")
        self._say(
            f"the plan: {thought.copies:,} copies, {size(thought.bytes)}, and {thought.primaries:,} primaries to move; "
            f"no plan needs fewer than {thought.lower_bound:,} copies"
        )
        since, failed, started = len(writer.acknowledged), len(writer.failed), time.monotonic()
        with moving("scale", unit="copies", screen=self._screen) as (say, told):
            await self._cluster.scale(nodes, say=say, told=told)
        spent_s, after = time.monotonic() - started, await client.map()
        written = writer.acknowledged[since:]
        slowest = max((write.took_s for write in written), default=0.0)
        self._say(
            f"{copies_added(before, after):,} copies moved; {len(after.members)} nodes take part after {span(spent_s)}, "
            f"with {spread_of(after)}"
        )
        self._say(
            f"meanwhile {len(written):,} writes were acknowledged, the slowest after {span(slowest)}, and "
            f"{len(writer.failed) - failed} failed"
        )

    async def _names(self, client: AsyncClient, nodes: int) -> tuple[str, ...]:
        return choose([member.name for member in (await client.map()).members], nodes).names

    async def _kill_and_restart(
        self, client: AsyncClient, writer: RecordingWriter, *, other_than: Collection[str]
    ) -> None:
        self._heading("Kill a node while a writer writes")
        await asyncio.sleep(self._timing.before_kill_s)
        await self._all_write(writer)
        before = await client.map()
        victim, epochs = busiest_primary(before, other_than=other_than)
        loop = asyncio.get_running_loop()
        self._say(
            f"{len(writer.acknowledged):,} writes acknowledged so far; {victim} is primary for {len(epochs)} shards"
        )
        written_shards = {write.shard for write in writer.acknowledged} & epochs.keys()
        since, killed_at = len(writer.acknowledged), loop.time()
        killed = await asyncio.to_thread(self._cluster.kill, victim)
        self._say(f"kill -9 {killed.pid} ({victim})")
        await self._failed_over(writer, epochs, written_shards, since, killed_at)
        await asyncio.sleep(self._timing.after_s)
        self._heading(f"Start {victim} again")
        started_at = loop.time()
        with steps("restart", self._screen) as say:
            await self._cluster.restart(victim, say=say)
        shards = await self._counts_again(client, victim, shards_in_sync(before, victim))
        self._say(
            f"{victim} is in sync again for all {shards} shards of which it has copies {span(loop.time() - started_at)} "
            f"after its start"
        )
        await asyncio.sleep(self._timing.after_s)

    async def _all_write(self, writer: RecordingWriter) -> None:
        """Wait until every writer has an acknowledged write: a kill before that would show nothing."""
        limit_s = self._timing.failover_limit_s

        def writing() -> int:
            return len({write.user for write in writer.acknowledged})

        if not await writer.until(lambda: writing() == len(writer.users), limit_s=limit_s):
            raise DemoError(
                f"only {writing()} of {len(writer.users)} writers had a write acknowledged in {limit_s:.0f} s"
            )

    async def _failed_over(
        self, writer: RecordingWriter, epochs: dict[int, int], written_shards: set[int], since: int, killed_at: float
    ) -> None:
        def first() -> dict[int, float]:
            return first_after(writer.acknowledged[since:], epochs, killed_at=killed_at)

        limit_s = self._timing.failover_limit_s
        if not await writer.until(lambda: written_shards <= first().keys(), limit_s=limit_s):
            raise DemoError(f"after {limit_s:.0f} s only {len(first())} of {len(written_shards)} shards take writes")
        if first():
            seen = recovery(first(), killed_at=killed_at)
            self._say(
                f"its shards take writes again: the first after {span(seen.first_s)}, "
                f"all {seen.shards_seen} that the writer uses after {span(seen.last_s)}"
            )

    async def _counts_again(self, client: AsyncClient, victim: str, shards: int) -> int:
        """Wait until so many shards count the node as in sync again, and return that; no copy is missing then."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._timing.return_limit_s
        counted = 0
        with Meter(f"{victim} in sync", unit="shards", screen=self._screen, summary=False) as meter:
            while loop.time() < deadline:
                shard_map = await client.map()
                # The restarted node may still hold the map from before its death, in which it was in sync.
                if shard_map.version >= (client.routing_version or 0):
                    counted = shards_in_sync(shard_map, victim)
                    meter.update(counted, shards)
                    if counted == shards:
                        return counted
                await asyncio.sleep(0.2)
        raise DemoError(
            f"{victim} is in sync for only {counted} of {shards} shards {self._timing.return_limit_s:.0f} s after its "
            f"restart"
        )

    async def _verify(
        self, client: AsyncClient, writer: RecordingWriter, expected: Mapping[str, tuple[str, ...]], url: str
    ) -> Outcome:
        self._heading("Count everything")
        for failure in writer.failed[:SHOWN_MAX]:
            self._say(f"not acknowledged, so not counted: {failure}")
        with Meter("read back", unit="writes", total=len(writer.acknowledged), screen=self._screen) as meter:
            written = await verify.writes(client, writer.acknowledged, meter.update)
        with Meter("compare", unit="aircraft", total=len(expected), screen=self._screen) as meter:
            aircraft = await verify.aircraft(client, expected, meter.update)
        for complaint in (*written.wrong[:SHOWN_MAX], *aircraft.wrong[:SHOWN_MAX]):
            self._say(f"WRONG: {complaint}")
        return Outcome(
            url=url,
            acknowledged=written.checked,
            lost=len(written.wrong),
            aircraft=aircraft.checked,
            matching=aircraft.checked - len(aircraft.wrong),
        )

    def _heading(self, text: str) -> None:
        self._screen.print(f"\n[bold]{escape(text)}[/bold]")

    def _say(self, text: str) -> None:
        self._screen.print(text, markup=False, soft_wrap=True)


def shards_in_sync(shard_map: ShardMap, name: str) -> int:
    """Return for how many shards this node counts, all other copies being there as well."""
    copies = copies_wanted(shard_map)
    return sum(
        1
        for shard in shard_map.shards
        if len(shard.in_sync) >= copies and any(copy.name == name for copy in shard.in_sync)
    )


def copies_added(before: ShardMap, after: ShardMap) -> int:
    """Return how many copies there are that were not there before."""
    return len(_copies(after) - _copies(before))


def spread_of(shard_map: ShardMap) -> str:
    """Return in a few words how many copies and primaries a node has."""
    copies = Counter(name for _, name in _copies(shard_map))
    primaries = Counter(shard.primary.name for shard in shard_map.shards if shard.primary is not None)
    return f"{_range(copies)} copies and {_range(primaries)} primaries each"


def _copies(shard_map: ShardMap) -> set[tuple[int, str]]:
    return {(shard.shard, copy.name) for shard in shard_map.shards for copy in shard.in_sync}


def _range(counts: Counter[str]) -> str:
    least, most = min(counts.values()), max(counts.values())
    return str(most) if least == most else f"{least} to {most}"


def failure_of(error: BaseException) -> str:
    """Return the sentence for an error that ended the demo, also out of a group of errors."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, RingkeepError):
        return f"{error.code}: {error}"
    return f"{type(error).__name__}: {error}"
