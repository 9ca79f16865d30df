"""Every state that small Raft groups can reach within a budget, with the invariants of Raft's TLA+ models in each.

``RINGKEEP_RAFT_STATES`` sets the number of states per scene (default 24,000; `make soak` raises it).
"""

from __future__ import annotations

import os

import pytest
from msgspec import Struct

from ringkeep_testing.raft_explorer import Budget, Explorer

STATES = int(os.environ.get("RINGKEEP_RAFT_STATES", "24000"))
LED = ("a time-out", "abc settle")
# Figure 8 (c) with three nodes: "a" leads term 4 and has an entry of term 2 that only "a" holds; "c" holds one of term 3.
FIGURE_8 = (
    *LED, "a proposes", "a synced", "a crashes",
    "c time-out", "c synced", "c->b RequestVote", "b synced", "b->c VoteAnswer", "c synced", "c crashes",
    "a time-out", "a synced", "a time-out", "a synced", "a->b RequestVote(term=4", "b synced", "b->a VoteAnswer(term=4",
    "a->b AppendEntries(term=4, previous_index=3", "b->a AppendAnswer(term=4, success=False",
    "a->b AppendEntries(term=4, previous_index=2", "b synced", "c time-out", "c synced",
)


class Scene(Struct, frozen=True):
    """Where the walk begins, what may happen, and in which order states are looked at."""

    script: tuple[str, ...]
    budget: Budget
    deep: bool = False
    prevote: bool = False


SCENES = {
    "from the start": Scene((), Budget(elections=2, proposals=1, crashes=1, duplicates=1)),
    "from the start, deep, with prevote": Scene((), Budget(elections=3, crashes=2), deep=True, prevote=True),
    "a leader is overtaken": Scene(LED, Budget(elections=1, proposals=1, crashes=1)),
    "figure 8": Scene(
        FIGURE_8, Budget(elections=1, proposals=0, crashes=0, duplicates=0, drops=0, term_max=9, flight_max=12)
    ),
    "figure 8 with crashes": Scene(FIGURE_8, Budget(elections=2, proposals=1, crashes=2, term_max=9), deep=True),
    "reads while leaders change": Scene(
        LED, Budget(elections=1, proposals=1, crashes=0, heartbeats=1, reads=1), deep=True
    ),
    "an appended entry is repeated late": Scene(
        (*LED, "a proposes"), Budget(elections=1, proposals=1, crashes=1, drops=1, duplicates=2)
    ),
}


@pytest.mark.parametrize("name", SCENES)
def test_no_reachable_state_breaks_an_invariant(name: str) -> None:
    scene = SCENES[name]
    explorer = Explorer(scene.budget, states_max=STATES, deep=scene.deep, prevote=scene.prevote)

    states = explorer.run(explorer.play(explorer.first(), *scene.script))

    assert states == STATES or explorer.exhausted


def test_the_walk_elects_two_leaders_and_applies_what_was_proposed() -> None:
    scene = SCENES["a leader is overtaken"]
    explorer = Explorer(scene.budget, states_max=10_000)
    explorer.run(explorer.play(explorer.first(), *scene.script))

    assert (explorer.leaders, explorer.applied) == (2, 3)
