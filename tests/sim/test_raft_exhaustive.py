"""Every state that small Raft groups can reach within a budget, with the invariants of Raft's TLA+ models in each.

A scene is walked breadth first or from states drawn at random, or, where the budget is small, to its very end. Scenes
that begin with a script start where a known bug is a few events away; tests/planted names the scene that catches it.

``RINGKEEP_STATES`` sets the number of states per scene that has no end (default 19,500; raise it for long runs).
"""

from __future__ import annotations

import os

import pytest
from msgspec import Struct
from msgspec.structs import replace

from ringkeep_testing.raft_explorer import Budget, Explorer

STATES = int(os.environ.get("RINGKEEP_STATES", "19500"))
STATES_LEAST = 200_000

LED = ("a time-out", "abc settle")
# Two entries are on the disk of "a" and both are under way to "b".
STREAMING = (*LED, "a proposes", "a proposes", "a synced", "a synced", "ab only")
# Figure 8 (c): "a" leads term 4 and gives "b" an entry of term 2 that nobody else holds, while "c", which holds one of
# term 3, stands again.
FIGURE_8 = (
    *(*LED, "a proposes", "a synced", "a crashes"),
    *("c time-out", "c synced", "c->b RequestVote", "b synced", "b->c VoteAnswer", "c synced", "c crashes"),
    *("a time-out", "a synced", "a time-out", "a synced", "a->b RequestVote(term=4", "b synced"),
    *("b->a VoteAnswer(term=4", "a->b AppendEntries(term=4, previous_index=3"),
    *("b->a AppendAnswer(term=4, success=False", "a->b AppendEntries(term=4, previous_index=2", "b synced"),
    *("c time-out", "c synced"),
)
# The answer of "b" to a round of "a" is under way while "c" stands.
ANSWER_ON_ITS_WAY = (*LED, "a heartbeats", "a->b Heartbeat", "c time-out", "c synced")
# "a" has committed an entry that "b" does not yet know to be committed.
COMMITTED_UNTOLD = (*LED, "a proposes", "a synced", "a->b AppendEntries", "b synced", "b->a AppendAnswer", "ab only")
TWO_CANDIDATES = ("a time-out", "c time-out", "a synced", "c synced")
# An entry of term 2 is written by "b", cut for one of term 3, and written again for the leader of term 4, before the
# disk of "b" has finished anything of it.
SAME_ENTRY_AGAIN = (
    *("a time-out", "abcde settle", "a proposes", "a->b AppendEntries", "a->d AppendEntries", "d synced"),
    *("- only", "a crashes", "c time-out", "c synced", "c->a RequestVote", "a synced", "a->c VoteAnswer"),
    *("c->e RequestVote", "e synced", "e->c VoteAnswer", "c->b AppendEntries", "- only"),
    *("d time-out", "d synced", "d time-out", "d synced", "d->a RequestVote(term=4", "a synced", "a->d VoteAnswer"),
    *("d->e RequestVote(term=4", "e synced", "e->d VoteAnswer", "d->b AppendEntries(term=4, previous_index=3"),
    *("b->d AppendAnswer(term=4, success=False", "d->b AppendEntries(term=4, previous_index=2", "bd only"),
)
NOTHING = Budget(elections=0, proposals=0, crashes=0, drops=0, duplicates=0, term_max=9, flight_max=12)


class Scene(Struct, frozen=True):
    """Where the walk begins, what may happen, and in which order states are looked at.

    ``end``: the budget ends the walk, and it has then seen at least so many states.
    """

    script: tuple[str, ...]
    budget: Budget
    deep: bool = False
    prevote: bool = False
    voters: int = 3
    end: int = 0


SCENES = {
    "from the start": Scene((), Budget(elections=2, proposals=1, crashes=1, duplicates=1)),
    "from the start, deep, with prevote": Scene((), Budget(elections=3, crashes=2), deep=True, prevote=True),
    "a leader is overtaken": Scene(LED, Budget(elections=1, proposals=1, crashes=1)),
    "two candidates of one term": Scene(TWO_CANDIDATES, replace(NOTHING, crashes=1, flight_max=6)),
    "figure 8": Scene((*FIGURE_8, "ab only"), replace(NOTHING, elections=1)),
    "figure 8 with crashes": Scene(FIGURE_8, Budget(elections=2, proposals=1, crashes=2, term_max=9), deep=True),
    "reads while leaders change": Scene(
        LED, Budget(elections=1, proposals=1, crashes=0, heartbeats=1, reads=1), deep=True
    ),
    "a read when an older answer is on its way": Scene(ANSWER_ON_ITS_WAY, replace(NOTHING, reads=1)),
    "a read at a new leader": Scene(COMMITTED_UNTOLD, replace(NOTHING, elections=1, heartbeats=1, reads=1)),
    "an appended entry is repeated late": Scene(
        (*LED, "a proposes"), Budget(elections=1, proposals=1, crashes=1, drops=1, duplicates=2)
    ),
    "a stream is repeated late": Scene(STREAMING, replace(NOTHING, crashes=1, drops=1, duplicates=1), end=4000),
    "an entry is cut and comes again": Scene(SAME_ENTRY_AGAIN, replace(NOTHING, crashes=1), voters=5, end=10_000),
}


def explorer_of(scene: Scene) -> Explorer:
    return Explorer(scene.budget, states_max=STATES, voters=scene.voters, deep=scene.deep, prevote=scene.prevote)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCENES)
def test_no_reachable_state_breaks_an_invariant(name: str) -> None:
    scene = SCENES[name]
    explorer = explorer_of(scene)

    states = explorer.run(explorer.play(explorer.first(), *scene.script))
    print(f"{name}: {states} states{', all there are' if explorer.exhausted else ''}")

    assert states >= scene.end if explorer.exhausted else states == STATES


def test_the_scenes_have_so_many_states_in_total() -> None:
    total = sum(scene.end or STATES for scene in SCENES.values())
    print(f"{total} states in {len(SCENES)} scenes")

    assert total >= STATES_LEAST


def test_the_walk_elects_two_leaders_and_applies_what_was_proposed() -> None:
    scene = SCENES["a leader is overtaken"]
    explorer = Explorer(scene.budget, states_max=10_000)
    explorer.run(explorer.play(explorer.first(), *scene.script))

    assert (explorer.leaders, explorer.applied) == (2, 3)
