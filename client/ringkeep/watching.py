"""Look at a whole cluster again and again: what it says of itself, and what each node did since the last look.

    look:  one node that answers --> members, summary          (the leader if it answers, hedged with the others)
           every node at once    --> /metrics, figures since the last look

Nobody waits for a node that hangs: each look ends by its deadline, and who has not answered by then is shown as silent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from ringkeep.answers import Member, Members
from ringkeep.errors import RingkeepError, Unavailable
from ringkeep.measures import Figures, Histogram, Scrape, added, figures_of, samples_of, together
from ringkeep.transport import Answer, Request, Transport, decoded
from ringkeep_core.summary import Summary

HEDGE_S = 0.2
"""Who is asked for the summary has so long before the next one is asked as well."""
DEADLINE_S = 1.0
SOURCES_MAX = 4
CONNECTIONS_MAX = 256


class NodeNow(msgspec.Struct, frozen=True, kw_only=True):
    """One node at one look. ``answers`` is false where it was silent: its figures are then not known."""

    name: str
    state: str
    draining: bool = False
    leads: bool = False
    answers: bool = False
    copies: int = 0
    primaries: int = 0
    url: str = ""
    figures: Figures = Figures()


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster at one look. ``at`` in unix seconds; ``summary`` is None where nobody can say it; ``problem`` says why
    nothing is known."""

    at: float
    summary: Summary | None = None
    nodes: tuple[NodeNow, ...] = ()
    total: Figures = Figures()
    problem: str = ""


class Watch:
    """See the module. Use as a context; ``addresses`` are those of any nodes.

    ``given``: a person named them. Such an address goes before the one that its node advertises: it may be a port-forward.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        cluster_id: str = "",
        given: bool = False,
        deadline_s: float = DEADLINE_S,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._addresses = tuple(addresses)
        self._cluster_id = cluster_id
        self._deadline_s = deadline_s
        self._clock, self._wall = clock, wall
        self._transport: Transport | None = None
        self._unknown = set(addresses) if given else set()
        self._given: dict[str, str] = {}
        self._urls: dict[str, str] = {}
        self._leader_url = ""
        self._scrapes: dict[str, Scrape] = {}
        self._heard: tuple[str, ...] = ()

    async def __aenter__(self) -> Watch:
        self._transport = Transport(connections_max=CONNECTIONS_MAX, headers={})
        return self

    async def __aexit__(self, *ended: object) -> None:
        if self._transport is not None:
            await self._transport.close()

    async def look(self) -> Picture:
        """Return what is seen now, within about the deadline; twice that where a node is seen for the first time."""
        scraping = {name: asyncio.create_task(self._scrape(url)) for name, url in self._urls.items()}
        try:
            return await self._look(scraping)
        finally:
            for task in scraping.values():
                task.cancel()

    async def _look(self, scraping: dict[str, asyncio.Task[Scrape | None]]) -> Picture:
        try:
            _, (members, summary) = await asyncio.gather(self._identify(), self._overview())
        except RingkeepError as error:
            self._heard = ()
            return Picture(at=self._wall(), problem=str(error))
        urls = {member.name: self._given.get(member.name, member.url) for member in members}
        leader = summary.leader if summary is not None else None
        self._leader_url = urls.get(leader or "", "")
        for name, url in urls.items():
            if url and url != self._urls.get(name):
                if name in scraping:
                    scraping[name].cancel()
                scraping[name] = asyncio.create_task(self._scrape(url))
        self._urls = {name: url for name, url in urls.items() if url}
        scrapes = {name: await scraping[name] for name in self._urls}
        found = {name: scrape for name, scrape in scrapes.items() if scrape is not None}
        seen = {name: figures_of(self._scrapes.get(name), scrape) for name, scrape in found.items()}
        # A node that was silent once is measured from when it was heard last.
        self._scrapes = {name: scrape for name, scrape in {**self._scrapes, **found}.items() if name in urls}
        self._heard = tuple(found)
        return Picture(
            at=self._wall(),
            summary=summary,
            nodes=tuple(_node(member, urls[member.name], leader, seen) for member in members),
            total=added([figures for figures, _ in seen.values()], together(it for _, it in seen.values())),
        )

    # --- who is where --------------------------------------------------------------------------------------------

    async def _identify(self) -> None:
        """Learn whose the given addresses are; each is asked until it has answered once."""
        for answer in await asyncio.gather(*(self._asked(url, "/livez") for url in sorted(self._unknown))):
            if answer is not None and answer.node:
                self._given[answer.node] = answer.url
                self._unknown.discard(answer.url)

    async def _overview(self) -> tuple[tuple[Member, ...], Summary | None]:
        """Return members and summary from the leader or whoever answers first. Raises ``Unavailable``."""
        answered = (self._urls[name] for name in self._heard if name in self._urls)
        wishes = (self._leader_url, *answered, *self._given.values(), *self._addresses)
        sources = [url for url in dict.fromkeys(wishes) if url][:SOURCES_MAX]
        until = self._clock() + self._deadline_s
        running: set[asyncio.Task[tuple[tuple[Member, ...], Summary | None] | None]] = set()
        try:
            for place, url in enumerate(sources):
                running.add(asyncio.create_task(self._overview_from(url)))
                is_last = place == len(sources) - 1
                while running:
                    limit_s = max(0.0, until - self._clock()) if is_last else HEDGE_S
                    done, running = await asyncio.wait(running, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        if (found := task.result()) is not None:
                            return found
                    if not done:
                        break
            raise Unavailable("no node of the cluster answers")
        finally:
            for task in running:
                task.cancel()

    async def _overview_from(self, url: str) -> tuple[tuple[Member, ...], Summary | None] | None:
        members, summary = await asyncio.gather(
            self._asked(url, "/v1/cluster/members"), self._asked(url, "/v1/cluster/summary")
        )
        try:
            if members is None or members.error() is not None:
                return None
            listed = decoded(members, Members).members
            # A node of an older version cannot say how its cluster is; its members are shown all the same.
            is_told = summary is not None and summary.error() is None
            return listed, decoded(summary, Summary) if summary is not None and is_told else None
        except RingkeepError:
            return None

    # --- every node ----------------------------------------------------------------------------------------------

    async def _scrape(self, url: str) -> Scrape | None:
        answer = await self._asked(url, "/metrics")
        if answer is None or answer.error() is not None:
            return None
        return Scrape(self._clock(), samples_of(answer.body.decode("utf-8", "replace")))

    async def _asked(self, url: str, path: str) -> Answer | None:
        """Return the answer of one node, None if there is none by the deadline."""
        assert self._transport is not None, "a watch is used as a context"
        headers = {"Ringkeep-Cluster": self._cluster_id} if self._cluster_id else {}
        limit_s = self._deadline_s
        try:
            async with asyncio.timeout(limit_s):
                return await self._transport.exchange(
                    url, Request("GET", path, headers=headers), attempt_s=limit_s, total_s=limit_s, connect_s=limit_s
                )
        except (RingkeepError, TimeoutError, ValueError):  # ValueError: what a member advertises is no address.
            return None


def _node(member: Member, url: str, leader: str | None, seen: Mapping[str, tuple[Figures, Histogram]]) -> NodeNow:
    return NodeNow(
        name=member.name,
        state=member.state,
        draining=member.draining,
        leads=member.name == leader,
        answers=member.name in seen,
        copies=member.copies,
        primaries=member.primaries,
        url=url,
        figures=seen[member.name][0] if member.name in seen else Figures(),
    )
