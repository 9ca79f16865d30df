"""The four conditions of a Cluster, and the events that tell of their changes.

    Ready        everything is as this generation of the spec wants it: members, copies, pods
    Available    reads and writes of every user are served
    Progressing  something is under way
    Degraded     something is wrong, and what

Each says which generation it was judged from, so nobody who waits is told yes about an older spec. Ready is never
early: whatever is not known to be right counts as not right.

Source: KEP-1623; docs/kubernetes.md lists every reason.
"""

from __future__ import annotations

from collections.abc import Iterable

from ringkeep_core.placement import MovePrimary, NodeState
from ringkeep_core.plans import NodeFacts, plan_of
from ringkeep_core.resource import MESSAGE_MAX, ClusterStatus, Condition, time_text
from ringkeep_operator.state import SetWanted, Tell
from ringkeep_operator.view import IMAGE_FAULTS, START_FAULTS, UNSCHEDULABLE, Note, Outcome, Reason, View

READY, AVAILABLE, PROGRESSING, DEGRADED = "Ready", "Available", "Progressing", "Degraded"

# Causes before what follows from them: the first is the reason that is shown.
RANK = (
    Reason.INVALID_SPEC,
    Reason.FOREIGN_OBJECT,
    Reason.FOREIGN_DATA,
    Reason.DATA_MISSING,
    Reason.NO_STORAGE_CLASS,
    Reason.ACTION_REFUSED,
    Reason.NOT_MADE,
    Reason.IMAGE,
    Reason.CRASHING,
    Reason.UNSCHEDULABLE,
    Reason.LAST_COPY,
    Reason.VOLUME_TERMINATING,
    Reason.REFUSED,
    Reason.UNREACHABLE,
    Reason.NO_LEADER,
    Reason.UNAVAILABLE,
    Reason.MEMBER_DOWN,
    Reason.FEWER_COPIES,
    Reason.FEWER_MEMBERS,
)


def conditions_of(view: View, outcome: Outcome) -> tuple[Condition, ...]:
    """Return the conditions from what was seen and what the plan has decided."""
    failed = [Note(Reason.ACTION_REFUSED, text) for text in view.seen.failures]
    wrong = _ranked([*outcome.wrong, *failed, *_pods_wrong(view), *_cluster_wrong(view)])
    under_way = [*outcome.under_way, *_unfinished(view)]
    judged = [
        _ready(view, wrong, under_way),
        _available(view),
        _progressing(view, wrong, [*under_way, *_returning(view)]),
        _degraded(wrong),
    ]
    if _asks_again(view, outcome):
        judged = [condition if condition.type == AVAILABLE else _shown(view, condition) for condition in judged]
    return tuple(_timed(view.status, condition, view.resource.generation, view.now) for condition in judged)


def _asks_again(view: View, outcome: Outcome) -> bool:
    """Whether what was refused is being asked again: until there is an answer the former one stands, or it would flicker."""
    before = view.status.condition(DEGRADED)
    return (
        before is not None
        and (before.status, before.reason) == ("True", Reason.REFUSED)
        and before.observed_generation == view.resource.generation
        and any(isinstance(action, SetWanted) for action in outcome.actions)
    )


def _shown(view: View, condition: Condition) -> Condition:
    return view.status.condition(condition.type) or condition


def invalid(status: ClusterStatus, generation: int, offences: Iterable[str], now: float) -> tuple[Condition, ...]:
    """Return the conditions of a resource whose spec cannot be acted on; what serves goes on serving."""
    text = "; ".join(offences)
    judged = [
        Condition(type=READY, status="False", reason=Reason.INVALID_SPEC, message=text),
        status.condition(AVAILABLE)
        or Condition(type=AVAILABLE, status="Unknown", reason=Reason.INVALID_SPEC, message="nothing was looked at"),
        Condition(type=PROGRESSING, status="False", reason=Reason.INVALID_SPEC, message="waiting for a valid spec"),
        Condition(type=DEGRADED, status="True", reason=Reason.INVALID_SPEC, message=text),
    ]
    return tuple(_timed(status, condition, generation, now) for condition in judged)


def waiting_for_a_former_one(view: View, former: Iterable[str]) -> tuple[Condition, ...]:
    """Return the conditions of a Cluster whose name another one had, of which something is still there."""
    note = Note(Reason.APPLYING, f"waiting until {', '.join(former)} of a former Cluster of this name is gone")
    judged = [
        _condition(READY, "False", note),
        _condition(AVAILABLE, "False", note),
        _condition(PROGRESSING, "True", Note(note.reason, _cut(note.message))),
        _condition(DEGRADED, "False", Note(Reason.AS_WANTED, "nothing is wrong")),
    ]
    return tuple(_timed(view.status, condition, view.resource.generation, view.now) for condition in judged)


def told(before: ClusterStatus, after: Iterable[Condition]) -> tuple[Tell, ...]:
    """Return an event for each change that people want to hear of; the status keeps it from being told twice."""
    tells = []
    for condition in after:
        old = before.condition(condition.type)
        if old is not None and (old.status, old.reason) == (condition.status, condition.reason):
            continue
        is_on = condition.status == "True"
        if condition.type == DEGRADED and is_on:
            tells.append(Tell(condition.reason, condition.message, "Warning"))
        elif condition.type in (PROGRESSING, READY) and is_on:
            tells.append(Tell(condition.reason, condition.message))
    return tuple(tells)


# --- the four ----------------------------------------------------------------------------------------------------


def _ready(view: View, wrong: list[Note], under_way: list[Note]) -> Condition:
    if view.spec.suspend:
        return _condition(READY, "False", Note(Reason.SUSPENDED, "the cluster is suspended"))
    # Fewer members than copies is what the spec itself asks for: it is said, and there is nothing to wait for.
    hindrances = [note for note in wrong if note.reason is not Reason.FEWER_MEMBERS]
    if hindrances:
        return _condition(READY, "False", hindrances[0])
    if under_way:
        return _condition(READY, "False", under_way[0])
    missing = _missing(view)
    if missing is not None:
        return _condition(READY, "False", missing)
    members = view.spec.replicas + view.spec.gateways
    text = f"all {members} members are alive and all shards have all their copies"
    return _condition(READY, "True", Note(Reason.AS_WANTED, text))


def _available(view: View) -> Condition:
    if view.spec.suspend:
        return _condition(AVAILABLE, "False", Note(Reason.SUSPENDED, "the cluster is suspended"))
    if view.cluster is None:
        if view.is_founded:
            return _condition(AVAILABLE, "False", Note(Reason.UNREACHABLE, "no member answers"))
        return _condition(AVAILABLE, "False", Note(Reason.BOOTSTRAPPING, "the cluster is not founded yet"))
    if view.cluster.term == 0 or not view.cluster.leader:
        # Shards are served without a leader until something else fails; how many is in the counts.
        return _condition(AVAILABLE, "False", Note(Reason.NO_LEADER, "the members have no leader"))
    lost = view.cluster.shards_unavailable
    if lost:
        return _condition(AVAILABLE, "False", Note(Reason.UNAVAILABLE, f"{lost} shards take no writes"))
    return _condition(AVAILABLE, "True", Note(Reason.SERVING, "all shards take reads and writes"))


def _progressing(view: View, wrong: list[Note], under_way: list[Note]) -> Condition:
    if view.spec.paused:
        return _condition(PROGRESSING, "False", Note(Reason.PAUSED, "the operator does nothing: spec.paused is set"))
    if under_way:
        text = "; ".join((_text(under_way), *_waiting(view)))
        return _condition(PROGRESSING, "True", Note(under_way[0].reason, _cut(text)))
    if view.spec.suspend:
        return _condition(PROGRESSING, "False", Note(Reason.SUSPENDED, "all pods are stopped, their volumes are kept"))
    if wrong and wrong[0].reason is not Reason.FEWER_MEMBERS:
        return _condition(PROGRESSING, "False", wrong[0])
    return _condition(PROGRESSING, "False", Note(Reason.SETTLED, "nothing is left to do"))


def _degraded(wrong: list[Note]) -> Condition:
    if wrong:
        return _condition(DEGRADED, "True", Note(wrong[0].reason, _text(wrong)))
    return _condition(DEGRADED, "False", Note(Reason.AS_WANTED, "nothing is wrong"))


# --- what is wrong -----------------------------------------------------------------------------------------------


def _ranked(notes: list[Note]) -> list[Note]:
    return sorted(dict.fromkeys(notes), key=lambda note: RANK.index(note.reason))


def _pods_wrong(view: View) -> list[Note]:
    notes: list[Note] = []
    unbound = [volume.name for volume in view.volumes.values() if volume.phase == "Pending"]
    if not view.seen.has_storage_class and unbound:
        named = view.spec.storage.class_name
        what = f"StorageClass {named} does not exist" if named else "there is no default StorageClass"
        notes.append(Note(Reason.NO_STORAGE_CLASS, f"{what}: {', '.join(sorted(unbound))} cannot be made"))
    notes += [Note(Reason.NOT_MADE, f"pod {name}: {why}") for name, why in sorted(view.seen.not_made.items())]
    for name, pod in sorted(view.pods.items()):
        if pod.is_ready or pod.is_deleting:
            continue
        for faults, reason in (
            (IMAGE_FAULTS, Reason.IMAGE),
            (START_FAULTS, Reason.CRASHING),
            (UNSCHEDULABLE, Reason.UNSCHEDULABLE),
        ):
            if pod.waiting in faults:
                text = f"pod {name}: {pod.waiting}"
                notes.append(Note(reason, f"{text}: {pod.detail}" if pod.detail else text))
    return notes


def _cluster_wrong(view: View) -> list[Note]:
    notes = []
    if view.spec.replication_factor > view.spec.replicas:
        copies, members = view.spec.replication_factor, view.spec.replicas
        notes.append(Note(Reason.FEWER_MEMBERS, f"{copies} copies are wanted of each shard, and {members} members"))
    if view.spec.suspend or not view.is_founded:
        return notes
    cluster = view.cluster
    if cluster is None:
        return [*notes, Note(Reason.UNREACHABLE, "no member answers")]
    if (count := len(cluster.shard_map.shards)) != view.spec.shards:
        text = f"the data here have {count} shards, not {view.spec.shards}: delete the Cluster and make it with {count}"
        notes.append(Note(Reason.FOREIGN_DATA, text))
    if cluster.term == 0 or not cluster.leader:
        notes.append(Note(Reason.NO_LEADER, "the members have no leader"))
    if cluster.shards_unavailable:
        notes.append(Note(Reason.UNAVAILABLE, f"{cluster.shards_unavailable} shards take no writes"))
    dead = sorted(member.name for member in cluster.members if member.state == "dead" and view.is_wanted(member.name))
    if dead:
        notes.append(Note(Reason.MEMBER_DOWN, f"the cluster calls {', '.join(dead)} dead"))
    if cluster.shards_under_replicated:
        notes.append(
            Note(Reason.FEWER_COPIES, f"{cluster.shards_under_replicated} shards have fewer copies than wanted")
        )
    return notes


# --- what is not finished ----------------------------------------------------------------------------------------


def _unfinished(view: View) -> list[Note]:
    """Return what is under way though the plan has nothing to do about it now."""
    if view.spec.suspend:
        names = sorted(view.pods)
        return [Note(Reason.SUSPENDED, f"stopping {', '.join(names)}")] if names else []
    notes = []
    cluster = view.cluster
    if cluster is not None:
        if cluster.shards_moving:
            notes.append(Note(Reason.MOVING, f"{cluster.shards_moving} shards are moving"))
        elif cluster.plan.copies:
            notes.append(Note(Reason.MOVING, f"{cluster.plan.copies} copies are left to be moved"))
    # One that cannot start is not on its way: what keeps it is told as what is wrong.
    starting = sorted(name for name in view.expected() if _starts(view, name))
    if starting:
        notes.append(Note(Reason.STARTING, f"waiting for {', '.join(starting)} to be ready"))
    for volume in view.volumes.values():
        if 0 < volume.capacity < volume.requested and not volume.is_deleting:
            text = f"{volume.name} has {volume.capacity} of {volume.requested} bytes yet"
            notes.append(Note(Reason.APPLYING, text))
    over = sorted(name for name in view.pods if not view.is_wanted(name) and view.listed(name) is None)
    if over:
        notes.append(Note(Reason.SCALING_DOWN, f"waiting for {', '.join(over)} to end"))
    return notes


def _returning(view: View) -> list[Note]:
    """Return what goes on and keeps nobody waiting: every copy is where it should be, some primaries are not."""
    cluster = view.cluster
    if view.spec.suspend or cluster is None or cluster.plan.copies or not cluster.plan.primaries:
        return []
    return [Note(Reason.RETURNING, f"{cluster.plan.primaries} primaries are still to be moved")]


def _starts(view: View, name: str) -> bool:
    pod = view.pods.get(name)
    if pod is None:
        return name not in view.seen.not_made
    return pod.is_deleting or (not pod.is_ready and not pod.waiting)


def _missing(view: View) -> Note | None:
    """Return the first thing that is not as wanted, by what is known for sure; None if everything is."""
    cluster, shard_map = view.cluster, view.shard_map
    if cluster is None or shard_map is None:
        return Note(Reason.BOOTSTRAPPING, "the cluster is not seen yet")
    for group in view.groups:
        if view.standing(group) != view.count(group):
            return Note(Reason.APPLYING, f"StatefulSet {group.set_name} has not the wanted size")
        if view.live_set(group) is not None and not view.revision_wanted(group):
            return Note(Reason.APPLYING, f"StatefulSet {group.set_name} is not looked at yet by its controller")
    expected = view.expected()
    for name in expected:
        pod, want = view.pods.get(name), view.listed(name)
        if pod is None or not pod.is_ready or pod.is_deleting:
            return Note(Reason.STARTING, f"pod {name} is not ready")
        member = view.members.get(name)
        if view.registered(name) is None or want is None or want.draining or member is None or member.state != "alive":
            return Note(Reason.SCALING_UP, f"{name} is not a living member")
    over = sorted(name for name in {*view.pods, *shard_map.by_name} if view.group_of(name) and name not in expected)
    if over:
        return Note(Reason.SCALING_DOWN, f"{', '.join(over)} is there and not wanted")
    if cluster.shards_ok != len(shard_map.shards):
        return Note(Reason.MOVING, f"{cluster.shards_ok} of {len(shard_map.shards)} shards have all their copies")
    if not _was_ready(view) and not _is_settled(view):
        return Note(Reason.MOVING, "copies are still to be moved")
    return None


def _was_ready(view: View) -> bool:
    """Whether the very same map was judged before for the same spec: planning it again would only cost."""
    before = view.status.condition(READY)
    return (
        before is not None
        and before.status == "True"
        and before.observed_generation == view.resource.generation
        and view.shard_map is not None
        and view.status.map_version == view.shard_map.version
    )


def _is_settled(view: View) -> bool:
    """Return whether no copy is left between this map and its own wanted state; a plan reported apart may be older.

    Primaries that are away from home are no reason to wait: decision 0022.
    """
    assert view.shard_map is not None, "only a map that is seen is judged"
    facts = {
        name: NodeFacts(NodeState.ALIVE if view.is_alive(name) else NodeState.DEAD_IN_GRACE)
        for name in view.shard_map.by_name
    }
    steps = plan_of(view.shard_map, view.shard_map.wanted, facts).steps
    return all(isinstance(change, MovePrimary) for step in steps for change in step.changes)


# --- building ----------------------------------------------------------------------------------------------------


def _waiting(view: View) -> tuple[str, ...]:
    """Return what the leader's plan waits for, and what nodes refuse for now, in their own words."""
    plan = view.cluster.plan.waiting if view.cluster is not None else ()
    return (*plan, *view.seen.hindrances)


def _text(notes: list[Note]) -> str:
    return _cut("; ".join(dict.fromkeys(note.message for note in notes)))


def _cut(text: str) -> str:
    return text if len(text) <= MESSAGE_MAX else text[: MESSAGE_MAX - 3] + "..."


def _condition(type_: str, status: str, note: Note) -> Condition:
    assert status in ("True", "False"), "what is not known is False here"
    return Condition(
        type=type_, status="True" if status == "True" else "False", reason=note.reason, message=note.message
    )


def _timed(before: ClusterStatus, condition: Condition, generation: int, now: float) -> Condition:
    """Add when the status changed last: now, unless it is the one that was shown."""
    old = before.condition(condition.type)
    same = old is not None and old.status == condition.status and old.last_transition_time
    return Condition(
        type=condition.type,
        status=condition.status,
        reason=str(condition.reason),
        message=condition.message,
        observed_generation=generation,
        last_transition_time=old.last_transition_time if old is not None and same else time_text(now),
    )
