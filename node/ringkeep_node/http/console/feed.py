"""Looks at the node twice a second while somebody watches, and keeps what was new: the source of all streams of a node.

    first stream opens --> look, ask the others' figures in turn, look ... --> last stream ends --> nothing runs

One look serves every stream: its news are encoded once. They are kept, within a bound, so that a stream which breaks off
goes on where it was; whoever is further behind gets the whole picture.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import aiohttp
import msgspec

from ringkeep_core.errors import TooManyRequests
from ringkeep_core.shardmap import ShardMap
from ringkeep_node.http.console.figures import Figures, figures_of
from ringkeep_node.http.console.headline import headline
from ringkeep_node.http.console.pictures import (
    Picture,
    Rows,
    counts_of,
    difference,
    encoded,
    event_row,
    member_rows,
    whole,
)
from ringkeep_node.http.console.rates import Meter
from ringkeep_node.http.exchange import Edge
from ringkeep_node.http.problems import NotReady
from ringkeep_node.metrics import Requests
from ringkeep_node.runtime.reports import LeaderReport, MemberReport, RunningPlan

LOOK_S: Final = 0.5
"""News are at most so often; people see no more."""
SAID_S: Final = 1.0
STREAMS_MAX: Final = 32
KEPT_MAX: Final = 120
KEPT_BYTES_MAX: Final = 1 << 20
EVENTS_SHOWN: Final = 100
FIGURES_S: Final = 2.0
"""How often a node's figures are wanted at most."""
ASKED_PER_S: Final = 5.0
"""In a larger cluster each node is asked more rarely, so that all together are asked so often."""
LEADER_S: Final = 1.0
"""How often the leader is asked while a plan runs: only it knows how far that is."""
ASK_TIMEOUT_S: Final = 1.0
ASKS_MAX: Final = 4
ANSWER_BYTES_MAX: Final = 1 << 16
RATES_PATH: Final = "/v1/cluster/rates"

_figures_decoder = msgspec.json.Decoder(Figures)


class Feed:
    """The news of one node's console. ``number`` counts them; 0: nobody has looked yet."""

    def __init__(self, edge: Edge, requests: Requests, on_failure: Callable[[str, BaseException], None]) -> None:
        self._edge = edge
        self._requests = requests
        self._on_failure = on_failure
        self._clock = edge.service.clock
        self._prefix = f"{edge.driver.identity.boot[:8]}."
        self.streams = 0
        """How many are open."""
        self.streams_max = STREAMS_MAX
        self.look_s = LOOK_S
        self.number = 0
        self.ended = False
        """The node stops: every stream says so and ends."""
        self.failures = 0
        """Looks that failed: a stream that is open ends then, since nobody renews its picture."""
        self._shown = Picture()
        self._event = 0
        self._looked_at = float("-inf")
        self._kept: deque[tuple[int, bytes]] = deque()
        self._kept_bytes = 0
        self._rows = Rows()
        self._said: Mapping[str, Any] = {}
        self._said_at = float("-inf")
        self._basis: tuple[object, ...] = ()
        self._meter = Meter()
        self._asked: dict[str, float] = {}
        self._asks: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    # --- streams -------------------------------------------------------------------------------------------------

    def check_room(self) -> None:
        """Raise ``TooManyRequests`` if no further stream may open, ``NotReady`` if the node stops."""
        if self.ended or self._edge.stopping:
            raise NotReady("this node is stopping")
        if self.streams >= self.streams_max:
            raise TooManyRequests(f"{self.streams} consoles look at this node, which is as many as may")

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Look for as long as the block runs."""
        self.streams += 1
        try:
            if self._clock() >= self._looked_at + self.look_s:
                self._first_look()
            self._start()
            yield
        finally:
            self.streams -= 1

    def since(self, number: int | None) -> bytes:
        """Return as events what is new after ``number``, or everything if that is not kept or None."""
        if number == self.number:
            return b""
        if number is None or not self._kept or not self._kept[0][0] - 1 <= number < self.number:
            return self._full()
        return b"".join(data for at, data in self._kept if at > number)

    def number_of(self, identity: str) -> int | None:
        """Return the number in an id that this start of the node has given, or None."""
        number = identity.removeprefix(self._prefix)
        return (
            int(number) if number != identity and number.isascii() and number.isdigit() and len(number) < 16 else None
        )

    async def wait(self, number: int, *, timeout_s: float) -> None:
        """Return when there is something newer than ``number``, the end is there, or the time is up."""
        if number == self.number and not self.ended:
            try:
                async with asyncio.timeout(timeout_s):
                    await self._news.wait()
            except TimeoutError:
                return

    def end(self) -> None:
        """The node stops."""
        self.ended = True
        self._wake()

    # --- looking -------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Look at the node, and tell whoever waits if there is something new."""
        self._looked_at = self._clock()
        picture = self._picture()
        told = difference(self._shown, picture)
        if events := self._edge.driver.events(self._event):
            self._event = events[-1].number
            told["events"] = [event_row(event) for event in events[-EVENTS_SHOWN:]]
        if not told:
            return
        self.number += 1
        self._shown = picture
        if "anew" in told:
            self._kept.clear()
            self._kept_bytes = 0
        else:
            self._keep({"at": self._edge.service.wall(), **told})
        self._wake()

    def _keep(self, told: dict[str, Any]) -> None:
        data = encoded("news", f"{self._prefix}{self.number}", told)
        self._kept.append((self.number, data))
        self._kept_bytes += len(data)
        while len(self._kept) > KEPT_MAX or (self._kept_bytes > KEPT_BYTES_MAX and len(self._kept) > 1):
            self._kept_bytes -= len(self._kept.popleft()[1])

    def _full(self) -> bytes:
        events = self._edge.driver.events(max(0, self._event - EVENTS_SHOWN))
        rows = [event_row(event) for event in events if event.number <= self._event]
        told = {"at": self._edge.service.wall(), **whole(self._shown), "events": rows}
        return encoded("full", f"{self._prefix}{self.number}", told)

    def _picture(self) -> Picture:
        edge, meter = self._edge, self._meter
        driver, now = edge.driver, self._clock()
        reports, held, leader = driver.members(), driver.shard_map, driver.leader()
        meter.keep({report.name for report in reports if report.state == "alive"}, now)
        known = meter.figures.get(driver.identity.name)
        if known is None or now >= self._asked.get("", 0.0) + FIGURES_S:
            self._asked[""] = now
            meter.hear(figures_of(edge, self._requests), now)
        gone = frozenset(report.storage_id for report in reports if report.state in ("dead", "left"))
        rows = self._rows.of(held, gone)
        counts = counts_of(rows)
        members = member_rows(reports, self._shown.members)
        running = self._plan(leader)
        return Picture(
            summary=self._summary(reports, leader, running, now),
            cluster=self._cluster(held, leader, counts),
            plan=_plan_shape(running, edge.service.wall()),
            members=members,
            rates=meter.shown(),
            shards=rows,
        )

    def _summary(
        self, reports: Sequence[MemberReport], leader: LeaderReport | None, plan: RunningPlan | None, now: float
    ) -> Mapping[str, Any]:
        """Return the sentences on top, made anew when something changed and else once a second: ages are part of them."""
        held = self._edge.driver.shard_map
        basis = (held, tuple(report.state for report in reports), leader, plan)
        if now >= self._said_at + SAID_S or not _same(basis, self._basis):
            self._said_at, self._basis = now, basis
            self._said = headline(self._edge.driver.look(), plan)
        return self._said

    def _plan(self, leader: LeaderReport | None) -> RunningPlan | None:
        if leader is None:
            return None
        if leader.name == self._edge.driver.identity.name:
            return self._edge.driver.running_plan()
        figures = self._meter.figures.get(leader.name)
        return figures.plan if figures is not None else None

    def _cluster(self, held: ShardMap | None, leader: LeaderReport | None, counts: dict[str, int]) -> dict[str, Any]:
        driver = self._edge.driver
        shown: dict[str, Any] = {
            "id": driver.cluster_id,
            "node": driver.identity.name,
            "leader": leader.name if leader else None,
            "term": leader.term if leader else 0,
            "counts": counts,
        }
        if held is None:
            return shown
        voters = [held.members[storage].name for storage in driver.voters() if storage in held.members]
        return shown | {
            "version": held.version,
            "index": held.index,
            "generation": held.generation,
            "wanted_revision": held.wanted.revision,
            "wanted": sorted(name for name, one in held.wanted.members.items() if not one.draining),
            "copies": held.copies_wanted(),
            "settings": msgspec.to_builtins(held.wanted.settings),
            "voters": sorted(voters),
        }

    # --- running -------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._task is None and not self.ended:
            self._task = asyncio.get_running_loop().create_task(self._run())
            self._task.add_done_callback(self._has_run)

    def _has_run(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)
        elif self.streams and not self.ended:
            self._start()

    def _first_look(self) -> None:
        try:
            self.look()
        except Exception as error:  # an answer has begun that cannot become a problem document any more
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        """End the open streams: their readers come back, and whoever comes first looks again."""
        self._on_failure("console", error)
        self.failures += 1
        self._looked_at = float("-inf")
        self._wake()

    async def _run(self) -> None:
        timeout = aiohttp.ClientTimeout(total=ASK_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout, read_bufsize=ANSWER_BYTES_MAX) as session:
            while self.streams and not self.ended:
                await asyncio.sleep(self.look_s)
                if self._edge.stopping:
                    self.end()
                    break
                self._ask(session)
                self.look()
            for ask in self._asks:
                ask.cancel()
            await asyncio.gather(*self._asks, return_exceptions=True)

    def _ask(self, session: aiohttp.ClientSession) -> None:
        """Begin to ask those whose figures are the oldest, a few at a time."""
        driver, now = self._edge.driver, self._clock()
        others = [one for one in driver.members() if one.state == "alive" and one.name != driver.identity.name]
        names = {one.name for one in others}
        self._asked = {name: at for name, at in self._asked.items() if name in names or not name}
        each_s = max(FIGURES_S, len(others) / ASKED_PER_S)
        leader = driver.leader()
        hurried = leader.name if leader is not None and self._is_moving() else ""
        due = [
            one
            for one in others
            if now >= self._asked.get(one.name, 0.0) + (min(each_s, LEADER_S) if one.name == hurried else each_s)
        ]
        due.sort(key=lambda one: self._asked.get(one.name, 0.0))
        for one in due[: ASKS_MAX - len(self._asks)]:
            self._asked[one.name] = now
            task = asyncio.get_running_loop().create_task(self._ask_one(session, one))
            self._asks.add(task)
            task.add_done_callback(self._asks.discard)

    def _is_moving(self) -> bool:
        counts = self._shown.cluster.get("counts", {})
        return self._shown.plan is not None or bool(counts.get("moving") or counts.get("under_replicated"))

    async def _ask_one(self, session: aiohttp.ClientSession, member: MemberReport) -> None:
        """Ask one node. Whoever does not answer, or is of a version that has no such answer, has no figures."""
        headers = {"Ringkeep-Cluster": self._edge.driver.cluster_id, "Accept-Encoding": "identity"}
        try:
            async with session.get(f"{member.url}{RATES_PATH}", headers=headers, allow_redirects=False) as response:
                length = response.content_length
                if response.status != 200 or length is None or length > ANSWER_BYTES_MAX:
                    return
                figures = _figures_decoder.decode(await response.content.readexactly(length))
        except (aiohttp.ClientError, TimeoutError, OSError, EOFError, ValueError, msgspec.DecodeError):
            return
        if figures.node == member.name:
            self._meter.hear(figures, self._clock())

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def _same(one: tuple[object, ...], other: tuple[object, ...]) -> bool:
    """Compare the map by identity, which is enough, and everything else by value."""
    return len(one) == len(other) and one[0] is other[0] and one[1:] == other[1:]


def _plan_shape(plan: RunningPlan | None, wall: float) -> dict[str, Any] | None:
    """Return how far a plan is, and how long it will take if it goes on as it went until now."""
    if plan is None:
        return None
    seconds = max(wall - plan.since, 0.1)
    per_s = plan.copies_done / seconds
    left = max(0, plan.copies - plan.copies_done)
    return {
        "reason": plan.reason,
        "since": round(plan.since),
        "copies": plan.copies,
        "copies_done": plan.copies_done,
        "primaries": plan.primaries,
        "waiting": plan.waiting,
        "copies_per_s": round(per_s, 1),
        "eta_s": round(left / per_s) if per_s > 0 and left else None,
    }
