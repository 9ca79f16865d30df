"""Everything that this node knows of its cluster at one moment, as a summary is made from it.

Called when somebody asks, never on the path of a request. Monotonic times become wall times here.
"""

from __future__ import annotations

from collections.abc import Iterable

from ringkeep_core.summary import Evidence, Seen, SeenMember, SeenMove, SeenPlan
from ringkeep_node.machines.node import Node
from ringkeep_node.machines.oversight import LEAVING_KEY, MAP_KEY, STALLED_KEY, VERSION_KEY
from ringkeep_node.machines.room import room_of
from ringkeep_node.metrics import NodeNumbers
from ringkeep_node.runtime.history import History
from ringkeep_node.runtime.reporting import leader_report, member_reports, running_plan, voters_of
from ringkeep_node.runtime.reports import Event, MemberReport

MOVES_S = 600.0
"""Older changes of the map say nothing about how fast things move, or whether they do."""


def seen_by(node: Node, history: History, numbers: NodeNumbers, *, managed: bool, now: float, wall: float) -> Seen:
    """Return what a node that runs sees; ``now`` is loop time, ``wall`` unix seconds."""
    held, own = node.held.map, node.identity
    if held is None:
        return Seen(node=own.name, now=wall, cluster_id=node.cluster_id, managed=managed, has_left=node.has_left)
    leader = leader_report(node)
    storage = node.control.leader()
    told = node.swim.values(storage).get(MAP_KEY, b"") if storage is not None else b""
    plan = running_plan(node, now, wall)
    return Seen(
        node=own.name,
        now=wall,
        cluster_id=held.cluster_id,
        held=held,
        members=_members(node, history, numbers, now=now, wall=wall),
        leader=leader.name if leader is not None else None,
        term=leader.term if leader is not None else 0,
        leader_version=int(told) if told.isdigit() and len(told) < 19 else 0,
        voters=voters_of(node),
        plan=SeenPlan(
            reason=plan.reason,
            since=plan.since,
            copies=plan.copies,
            copies_done=plan.copies_done,
            primaries=plan.primaries,
            waiting=plan.waiting,
        )
        if plan is not None
        else None,
        moves=moves_of(history.after(0), wall),
        log_queued_bytes=numbers.log_queued_bytes,
        managed=managed,
        has_left=node.has_left,
    )


def _members(node: Node, history: History, numbers: NodeNumbers, *, now: float, wall: float) -> tuple[SeenMember, ...]:
    why = node.leader.explain(now=now)
    grace, guarded = dict(why.in_grace), dict(why.guarded)
    views = node.swim.members_at(now)
    seen = []
    for report in member_reports(node, history, now, wall):
        storage, view = report.storage_id, views.get(report.storage_id)
        values, is_own = node.swim.values(report.storage_id), report.storage_id == node.identity.storage
        room = room_of(values)
        until, lost_at = guarded.get(storage), grace.get(storage)
        seen.append(
            SeenMember(
                storage=storage,
                name=report.name,
                state=report.state,
                draining=report.draining,
                weight=report.weight,
                since=report.since,
                evidence=evidence_of(report),
                leaving=bool(values.get(LEAVING_KEY)),
                stalled=node.is_stalled if is_own else bool(values.get(STALLED_KEY)),
                disk_full=is_own and numbers.disk_full,
                free_bytes=room.free_bytes if room is not None else None,
                copy_bytes=room.copy_bytes if room is not None else 0,
                lag_s=view.lag_s if view is not None else 0.0,
                version=values.get(VERSION_KEY, b"").decode("utf-8", "replace"),
                grace_until=wall + (lost_at - now) if lost_at is not None else None,
                guarded_until=wall + (until - now) if until is not None else None,
                deaths=len(view.deaths) if view is not None else 0,
            )
        )
    return tuple(seen)


def evidence_of(report: MemberReport) -> tuple[Evidence, ...]:
    """Return the evidence for a member's state."""
    return tuple(Evidence(one.by, one.at, one.why) for one in report.evidence)


def moves_of(events: Iterable[Event], wall: float) -> tuple[SeenMove, ...]:
    """Return the remembered changes of the map, oldest first: the recent ones, and the newest whenever it was."""
    moves = [
        SeenMove(event.at, int(event.fields.get("copies_in_sync", 0)), int(event.fields.get("primaries_moved", 0)))
        for event in events
        if "version" in event.fields
    ]
    recent = [move for move in moves if move.at >= wall - MOVES_S]
    return tuple(recent or moves[-1:])
