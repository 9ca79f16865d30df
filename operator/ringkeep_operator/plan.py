"""Decide what to do about one Cluster now, from everything that was seen, and what to show of it.

    Seen --> objects, recovery, founding, wanted state, volumes, rollout, extras, leaving --> Decision

Level-based: nothing is remembered but what stands in the status, so a pass may end anywhere and the next goes on. What
must not be forgotten is written into the status first and acted on in a later pass: the cluster's id before anything is
asked of the cluster, a member's disk before the member is listed.

The order is part of the result, for whoever carries it out stops at the first failure: events come first, and what may
fail for reasons that are not ours last.

Source: docs/kubernetes.md, "The life of a cluster"; docs/decisions/0018-the-operator-remembers-only-in-the-status.md.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from ringkeep_core.resource import ClusterStatus, MemberStatus, PlanStatus, ShardCounts
from ringkeep_operator.bootstrap import bootstrap
from ringkeep_operator.children import extras, former_objects, foundations
from ringkeep_operator.conditions import conditions_of, invalid, told, waiting_for_a_former_one
from ringkeep_operator.naming import selector_text
from ringkeep_operator.recovery import recover
from ringkeep_operator.rollout import roll_out
from ringkeep_operator.scaling import freed_volumes, leaving, storages_of
from ringkeep_operator.shown import show_map
from ringkeep_operator.state import Decision, Seen
from ringkeep_operator.view import Outcome, View, joined
from ringkeep_operator.wanted import wanted

IDLE_S = 30.0
BUSY_S = 2.0
AT_ONCE_S = 0.1
"""What was only written down in this pass is acted on in the next."""

PARTS: tuple[Callable[[View], Outcome], ...] = (
    foundations,
    recover,
    bootstrap,
    show_map,
    wanted,
    freed_volumes,
    roll_out,
    extras,
    leaving,
)


def plan(seen: Seen) -> Decision:
    """Return what to do now, in order, and the status to show."""
    view = View(seen)
    if seen.resource.is_deleting:
        return Decision(actions=(), status=view.status, look_again_s=IDLE_S)
    if former := former_objects(view):
        # Of what belonged to another Cluster nothing is taken over: the garbage collector is about to remove it.
        judged = waiting_for_a_former_one(view, former)
        shown = replace(view.status, observed_generation=view.resource.generation, conditions=judged)
        events = () if view.spec.paused else told(view.status, judged)
        return Decision(actions=events, status=shown, look_again_s=1.0)
    outcome = joined([part(view) for part in PARTS])
    status = _status(view, outcome)
    if view.spec.paused:
        return Decision(actions=(), status=status, look_again_s=IDLE_S)
    events = told(view.status, status.conditions)
    return Decision(actions=(*events, *outcome.actions), status=status, look_again_s=_wait(view, outcome, status))


def decide_invalid(status: ClusterStatus, generation: int, offences: tuple[str, ...], now: float) -> Decision:
    """Return the decision about a resource whose spec cannot be acted on: nothing but to say so."""
    judged = invalid(status, generation, offences, now)
    shown = replace(status, observed_generation=generation, conditions=judged)
    return Decision(actions=told(status, judged), status=shown, look_again_s=IDLE_S)


def _wait(view: View, outcome: Outcome, status: ClusterStatus) -> float:
    before = view.status
    if status.cluster_id != before.cluster_id or status.storages != before.storages:
        return AT_ONCE_S
    usual = BUSY_S if outcome.under_way or outcome.actions else IDLE_S
    return usual if outcome.soon_s is None else min(usual, outcome.soon_s)


def _status(view: View, outcome: Outcome) -> ClusterStatus:
    """Return the status to show. While no member answers, what was last known of the data plane stands, but no leader."""
    before, cluster, nodes = view.status, view.cluster, view.pods_of(view.names.nodes)
    shown = replace(
        before,
        observed_generation=view.resource.generation,
        replicas=len(nodes),
        ready_replicas=sum(1 for pod in nodes if pod.is_ready and not pod.is_deleting),
        selector=selector_text(view.resource.name),
        cluster_id=view.cluster_id,
        leader=cluster.leader if cluster is not None else "",
        storages=before.storages if view.spec.paused else storages_of(view),
        conditions=conditions_of(view, outcome),
    )
    if cluster is None:
        return shown
    members = tuple(
        MemberStatus(
            name=member.name, state=member.state, zone=member.zone, copies=member.copies, primaries=member.primaries
        )
        for member in sorted(cluster.members, key=lambda member: member.name)
    )
    return replace(
        shown,
        map_version=max(before.map_version, cluster.shard_map.version),
        members=members,
        plan=PlanStatus(step=cluster.plan.copies_done, total=cluster.plan.copies_total, moved_bytes=cluster.plan.bytes),
        shards=ShardCounts(
            total=len(cluster.shard_map.shards),
            ok=cluster.shards_ok,
            moving=cluster.shards_moving,
            under_replicated=cluster.shards_under_replicated,
            unavailable=cluster.shards_unavailable,
        ),
    )
