"""Turn a node's state into what people and programs read: members, leader, readiness, numbers.

Called when somebody asks, never on the path of a request. Monotonic times become wall times here and nowhere else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Set
from typing import TYPE_CHECKING

from ringkeep_core.placement import NodeState
from ringkeep_core.plans import NodeFacts
from ringkeep_core.shardmap import MemberState as MapState
from ringkeep_core.shardmap import Shard, ShardMap
from ringkeep_node.machines.node import Node
from ringkeep_node.machines.oversight import LEADS_KEY, VOTERS_KEY
from ringkeep_node.machines.room import room_of, shard_bytes_of
from ringkeep_node.machines.shard.context import PAUSE_BOUNDS_S, Tally
from ringkeep_node.machines.shard_loads import busiest_share
from ringkeep_node.machines.swim.members import MemberState, MemberView
from ringkeep_node.metrics import Durations, NodeNumbers
from ringkeep_node.runtime.history import History
from ringkeep_node.runtime.reports import Accusation, LeaderReport, MemberReport, RunningPlan

if TYPE_CHECKING:
    from ringkeep_node.runtime.driver import Driver

EVIDENCE_SHOWN = 8


def member_reports(node: Node, history: History, now: float, wall: float) -> tuple[MemberReport, ...]:
    """Return every registered member as this node sees it, by name; ``now`` is loop time, ``wall`` unix seconds."""
    held = node.held.map
    assert held is not None
    copies, primaries = _counts(held)
    views = node.swim.members_at(now)
    names = {member.storage: member.name for member in held.members.values()}
    reports = []
    for member in sorted(held.members.values(), key=lambda member: member.name):
        view = views.get(member.storage)
        wanted = held.wanted.members.get(member.name)
        reports.append(
            MemberReport(
                name=member.name,
                state=_state(member.state, view),
                storage_id=member.storage,
                boot_id=member.boot,
                url=member.url,
                peer=member.peer,
                draining=wanted.draining if wanted is not None else False,
                zone=member.zone,
                weight=wanted.weight if wanted is not None else 0.0,
                copies=copies[member.storage],
                primaries=primaries[member.storage],
                since=wall - (now - view.since) if view is not None else 0.0,
                evidence=_evidence(view, names, now, wall),
            )
        )
    return tuple(reports)


def _counts(held: ShardMap) -> tuple[Counter[str], Counter[str]]:
    copies: Counter[str] = Counter()
    primaries: Counter[str] = Counter()
    for shard in held.shards:
        primaries[shard.primary.storage] += 1
        for copy in (*shard.in_sync, *shard.learners):
            copies[copy.storage] += 1
    return copies, primaries


def _state(map_state: MapState, view: MemberView | None) -> str:
    if map_state is MapState.JOINING:
        return "joining"
    return view.state.name.lower() if view is not None else MemberState.SUSPECT.name.lower()


def _evidence(view: MemberView | None, names: dict[str, str], now: float, wall: float) -> tuple[Accusation, ...]:
    if view is None:
        return ()
    return tuple(
        Accusation(names.get(one.by, one.by), wall - (now - one.at), one.why.value)
        for one in view.evidence[-EVIDENCE_SHOWN:]
    )


def leader_report(node: Node) -> LeaderReport | None:
    """Return the Raft leader as this node knows it."""
    held, storage = node.held.map, node.control.leader()
    member = held.members.get(storage) if held is not None and storage is not None else None
    if member is None:
        return None
    told = node.swim.values(member.storage).get(LEADS_KEY, b"")
    # Raft tells its term to voters only; everybody else has it from the leader's gossip.
    term = node.raft.term if node.raft.leader is not None or not told.isdigit() else int(told)
    return LeaderReport(member.name, member.url, term)


def node_facts(node: Node, now: float) -> dict[str, NodeFacts]:
    """Return what gossip says of each registered member, by name, as the planner asks it.

    Only the leader knows for how long a member has been dead, so here a dead one counts as within the grace.
    """
    held, views = node.held.map, node.swim.members_at(now)
    assert held is not None
    facts = {}
    for storage, member in held.members.items():
        view, room = views.get(storage), room_of(node.swim.values(storage))
        alive = view is not None and view.state in (MemberState.ALIVE, MemberState.SUSPECT)
        facts[member.name] = NodeFacts(
            NodeState.ALIVE if alive or storage == node.identity.storage else NodeState.DEAD_IN_GRACE,
            free_bytes=room.free_bytes if room is not None else None,
        )
    return facts


def shard_bytes(node: Node) -> list[int] | None:
    """Return about how many bytes each shard has, from what members tell of their room; None if unknown."""
    held = node.held.map
    assert held is not None
    return shard_bytes_of(held, node.oversight.rooms())


def running_plan(node: Node, now: float, wall: float) -> RunningPlan | None:
    """Return how far the plan is that this node carries out as leader; None if it does not lead or nothing is to do."""
    plan = node.leader.explain(now=now).plan if node.control.leads else None
    if plan is None:
        return None
    return RunningPlan(
        reason=plan.reason,
        since=wall - plan.seconds,
        copies=plan.copies_wanted,
        copies_done=plan.copies_moved,
        primaries=plan.primaries_to_move,
        received_bytes=node.oversight.received_bytes(),
        waiting=plan.waits,
    )


def voters_of(node: Node) -> tuple[str, ...]:
    """Return the storage ids of the Raft voters: from Raft on a member that hears its leader, else as the leader tells.

    A voter that was removed while it was down hears no leader, and takes itself for a voter; gossip knows better.
    """
    control = node.control
    leader = None if control.has_raft else control.leader()
    told = node.swim.values(leader).get(VOTERS_KEY, b"") if leader is not None else b""
    voters = tuple(storage for storage in told.decode("ascii", "replace").split(",") if storage)
    return node.raft.configuration.voters if not voters and control.votes else voters


def unready_reason(
    node: Node, *, was_ready: bool = False, leaves_soon: bool = False, is_informed: bool = True
) -> str | None:
    """Return why clients should not be sent here (any more), or None: joined, caught up, routes, knows the services.

    Whoever leaves refuses everything from that moment on. Where balancers must see it before (``leaves_soon``), a member
    that is draining and has given up its last copy says so already, while it still serves.

    ``is_informed``: what is registered can be read here. That takes 5 s after a start at most, and no time for a node that
    is alone, so that no cluster waits for itself.

    A start is caught up once (``was_ready``). Copies that a plan brings to it later keep nobody away: while a cluster
    shrinks, all nodes that stay get some, and the ones that clients would be sent to instead are those that go.
    """
    held, own = node.held.map, node.identity.storage
    if node.has_left:
        return node.registration.has_left_text
    if held is None:
        return "this node does not hold the shard map yet"
    if not node.registered:
        return "this start of the node is not registered in the shard map yet"
    if node.control.leader() is None:
        return "no leader is known"
    if leaves_soon and _has_given_up(held, node):
        return "this node is draining, holds nothing and is about to leave"
    if was_ready:
        return None
    behind = sum(1 for shard in held.shards if any(copy.storage == own for copy in shard.learners))
    if behind:
        return f"{behind} copies on this node are still being brought up to date"
    return None if is_informed else "this node does not know yet which services the others hold"


def _has_given_up(held: ShardMap, node: Node) -> bool:
    own = node.identity
    want = held.wanted.members.get(own.name)
    if want is None or not want.draining:
        return False
    return not any(copy.storage == own.storage for shard in held.shards for copy in (*shard.in_sync, *shard.learners))


def node_numbers(driver: Driver, history: History) -> NodeNumbers:
    """Return what the node's machines count; the host adds what it knows of disk and links."""
    node, gossip, tally = driver.node, driver.gossip, driver.node.shards.tally
    held = node.held.map
    states = Counter(view.state.name.lower() for view in node.swim.members.values())
    return NodeNumbers(
        open_requests=node.gateway.open_requests,
        open_bytes=node.gateway.open_bytes,
        shed=node.gateway.shed,
        forwards=node.gateway.forwards,
        retries=node.gateway.retries,
        writes_committed=tally.writes,
        reads_answered={"strict": tally.strict_reads, "local": tally.local_reads},
        hand_overs={"moved": tally.hand_overs, "kept": tally.hand_overs_given_up},
        hand_over_pauses=_pauses(tally),
        copies_moved=history.copies_moved[node.identity.storage],
        plan_copies_left=_copies_left(node, driver.health.turned_at),
        snapshot_bytes={"sent": tally.snapshot_bytes_sent, "received": tally.snapshot_bytes_received},
        snapshot_rows={"sent": tally.snapshot_rows_sent, "received": tally.snapshot_rows_received},
        snapshot_streams=dict(zip(("sent", "received"), node.shards.streams, strict=True)),
        hot_spot_swaps=node.leader.hot_spot_swaps,
        busiest_load_share=busiest_share(node.oversight.told_loads()),
        disk_stalled=node.is_stalled,
        members=dict(states),
        verdicts=dict(history.verdicts),
        refutes=node.swim.refutes,
        gossip_messages=gossip.counts(),
        gossip_bytes=gossip.sizes(),
        leader_known=node.control.leader() is not None,
        raft_elections=node.raft.elections,
        raft_term=node.raft.term,
        raft_is_leader=node.control.leads,
        raft_commit_index=node.raft.commit,
        map_version=held.version if held is not None else 0,
        shards=_shards(held, node) if held is not None else {},
        cluster_shards=cluster_shards(held, _ended(node)) if held is not None else {},
    )


def _copies_left(node: Node, now: float) -> int:
    plan = node.leader.explain(now=now).plan if node.control.leads else None
    return max(0, plan.copies_wanted - plan.copies_moved) if plan is not None else 0


def _pauses(tally: Tally) -> Durations:
    pauses = Durations(PAUSE_BOUNDS_S)
    pauses.counts, pauses.sum_s = list(tally.pauses), tally.pauses_s
    return pauses


def _shards(held: ShardMap, node: Node) -> dict[tuple[str, str], int]:
    own = node.identity.storage
    counts: Counter[tuple[str, str]] = Counter()
    wanted = min(held.wanted.settings.replication_factor, max(1, held.weighted_members()))
    for shard in held.shards:
        role = _role(shard, own)
        if role is not None:
            counts[role, _shard_state(shard, wanted)] += 1
    return dict(counts)


def _ended(node: Node) -> set[str]:
    gone = (MemberState.DEAD, MemberState.LEFT)
    return {storage for storage, view in node.swim.members.items() if view.state in gone}


def cluster_shards(held: ShardMap, ended: Set[str]) -> dict[str, int]:
    """Count all shards by state. Of one whose primary has ended, or has started again since, only that counts."""
    wanted = min(held.wanted.settings.replication_factor, max(1, held.weighted_members()))
    counts: Counter[str] = Counter()
    for shard in held.shards:
        primary = shard.primary
        member = held.members.get(primary.storage)
        has_ended = member is None or member.boot != primary.boot or primary.storage in ended
        counts["without_primary" if has_ended else _shard_state(shard, wanted)] += 1
    return dict(counts)


def _role(shard: Shard, own: str) -> str | None:
    if shard.primary.storage == own:
        return "primary"
    if shard.is_in_sync(own):
        return "in_sync"
    return "learner" if shard.copy_of(own) is not None else None


def _shard_state(shard: Shard, wanted: int) -> str:
    if len(shard.in_sync) < shard.need:
        return "unavailable"
    if len(shard.in_sync) < wanted:
        return "under_replicated"
    return "moving" if shard.learners else "ok"
