"""Which members may lead again: who died lately gets no primaries back until it has lived for a while.

    alive --dead, or started again--> down --alive--> guarded (30 s, doubled by each death within the hour, max 10 min)

A member that never died while we watched is not guarded, so a fresh cluster balances at once; one that said that it
leaves for a restart did not die.
Source: replication.md, "Flapping"; counterexamples.md L9.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ringkeep_node.machines.verdicts import MemberFacts

DEATHS_MAX = 16


@dataclass(slots=True)
class _Life:
    counter: int
    dead: bool
    deaths: list[float] = field(default_factory=list)
    alive_since: float | None = None
    planned: bool = False
    """It said that it stops: until its next boot."""
    heard: bool = True
    """It spoke to us itself, in this boot of ours: else its counter may be what an old map says."""


class FlappingGuard:
    """Remembers the deaths that this node saw; bounded by the members it is told of."""

    def __init__(self, *, guard_s: float, guard_max_s: float, window_s: float) -> None:
        self._guard_s, self._guard_max_s, self._window_s = guard_s, guard_max_s, window_s
        self._lives: dict[str, _Life] = {}

    def watch(self, facts: Iterable[MemberFacts], *, now: float) -> None:
        """Note who died and who is back. Members that are no longer named are forgotten."""
        lives: dict[str, _Life] = {}
        for fact in facts:
            life = self._lives.get(fact.storage)
            if life is None:
                planned = fact.leaving or fact.left
                deaths = [now] if fact.dead and not planned else []
                life = _Life(fact.counter, fact.dead, deaths, planned=planned, heard=fact.heard)
            else:
                self._note(life, fact, now)
            lives[fact.storage] = life
        self._lives = lives

    def _note(self, life: _Life, fact: MemberFacts, now: float) -> None:
        life.planned = life.planned or fact.leaving or fact.left
        restarted = life.heard and 0 < life.counter < fact.counter
        if fact.dead:
            if not life.dead and not life.planned:
                self._died(life, now)
        elif life.dead or restarted:
            if not life.planned:
                if not life.dead:
                    # It was down and up again before anybody called it dead.
                    self._died(life, now)
                life.alive_since = now
            life.planned = fact.leaving
        life.dead, life.heard = fact.dead, life.heard or fact.heard
        life.counter = max(life.counter, fact.counter)

    def _died(self, life: _Life, now: float) -> None:
        life.deaths = [*life.deaths[1 - DEATHS_MAX :], now]

    def guarded_until(self, storage: str, *, now: float) -> float | None:
        """Return until when the member gets no primaries, or None if it may have them."""
        life = self._lives.get(storage)
        if life is None or life.alive_since is None:
            return None
        deaths = sum(1 for at in life.deaths if now < at + self._window_s)
        if deaths == 0:
            return None
        until: float = life.alive_since + min(self._guard_max_s, self._guard_s * 2 ** (deaths - 1))
        return until if now < until else None
