"""Which members may lead again: who died lately gets no primaries back until it has lived for a while.

    alive --dead, or started again--> down --alive--> guarded (30 s, doubled by each death within the hour, max 10 min)

A member that never died while we watched is not guarded, so a fresh cluster balances at once.
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
                life = _Life(fact.counter, fact.dead, [now] if fact.dead else [])
            else:
                self._note(life, fact, now)
            lives[fact.storage] = life
        self._lives = lives

    def _note(self, life: _Life, fact: MemberFacts, now: float) -> None:
        if fact.dead:
            if not life.dead:
                life.deaths = [*life.deaths[1 - DEATHS_MAX :], now]
        elif life.dead:
            life.alive_since = now
        elif 0 < life.counter < fact.counter:
            # It was down and up again before anybody called it dead.
            life.deaths = [*life.deaths[1 - DEATHS_MAX :], now]
            life.alive_since = now
        life.dead = fact.dead
        life.counter = max(life.counter, fact.counter)

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
