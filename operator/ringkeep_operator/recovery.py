"""Replace what is broken where Kubernetes does not see it, or cannot.

    member dead for replaceAfter, pod runs on a Node that is up   -> delete the pod
    volume lost, or on a Node that is no more                     -> delete claim and pod, unless it has an only copy
    pod ends for ever on a Node that is no more                   -> delete it at once
    disk has left, its ordinal is wanted again                    -> delete the pod; it starts with an empty disk

A claim that somebody has deleted stays while its pod runs, and goes with the pod, its data too: whoever would end a pod
asks ``scaling.goes_with_its_pod`` first.

A pod is only ever deleted as the very one that was seen. At most one member is taken down at a time: one that is down
already may be deleted while another is away, one that may be up may not.

Source: docs/kubernetes.md, "When something breaks"; Kubernetes, "Force Delete StatefulSet Pods".
"""

from __future__ import annotations

from ringkeep_operator.scaling import goes_with_its_pod, volume_id
from ringkeep_operator.shards import only_complete_copies
from ringkeep_operator.state import Action, Delete, SeenPod, SeenVolume, Tell
from ringkeep_operator.view import Note, Outcome, Reason, View

LEFT_RESTART_S = 20.0
"""A node whose disk has left ends and starts again by itself; only if it has not after so long is its pod deleted."""


def recover(view: View) -> Outcome:
    """Return what to replace now, and what cannot be."""
    if view.spec.suspend:
        return Outcome(actions=tuple(_stuck(view)), wrong=_terminating(view))
    actions: list[Action] = [*_stuck(view)]
    lost, wrong = _lost_volumes(view)
    actions += lost
    if not actions and not any(_goes_down(view, pod) for pod in view.pods.values()):
        actions += _dead(view) or _mute(view) or _left(view)
    notes = tuple(
        Note(Reason.RECOVERING, f"{action.target.kind} {action.target.name}: {action.why}")
        for action in actions
        if isinstance(action, Delete)
    )
    return Outcome(actions=tuple(actions), under_way=notes, wrong=(*wrong, *_terminating(view)), soon_s=_when(view))


def _terminating(view: View) -> tuple[Note, ...]:
    """Complain of claims that somebody deleted under members that live, or that have what nobody else has."""
    notes = []
    for ordinal, volume in sorted(view.volumes.items()):
        name = view.names.nodes.member(ordinal)
        pod = view.pods.get(name)
        if not volume.is_deleting or pod is None or not view.is_wanted(name):
            continue
        text = f"{volume.name} is being deleted, and goes with its data when pod {name} ends"
        if count := goes_with_its_pod(view, name):
            text += (
                f"; no living member whose volume stays has a complete copy of {count} of its shards: the pod is let be"
            )
        elif pod.is_deleting or not view.is_alive(name):
            continue  # It is replaced.
        notes.append(Note(Reason.VOLUME_TERMINATING, text))
    return tuple(notes)


def _goes_down(view: View, pod: SeenPod) -> bool:
    """Whether a member that may be up is going down: one whose Node is away has been down for long."""
    is_away = pod.node in view.seen.nodes_down | view.seen.nodes_gone
    return pod.is_deleting and (not is_away or view.is_alive(pod.name))


def _stuck(view: View) -> list[Action]:
    """The kubelet that should end it is gone with its Node: only the API server's record is left."""
    return [
        Delete(view.id_of(pod), f"it ends on Node {pod.node}, which is no more", grace_s=0)
        for pod in view.pods.values()
        if pod.is_deleting and pod.node in view.seen.nodes_gone and not goes_with_its_pod(view, pod.name)
    ]


# --- volumes -----------------------------------------------------------------------------------------------------


def _lost_volumes(view: View) -> tuple[list[Action], tuple[Note, ...]]:
    actions: list[Action] = []
    wrong = []
    living = view.living
    for ordinal, volume in sorted(view.volumes.items()):
        name = view.names.nodes.member(ordinal)
        pod = view.pods.get(name)
        if volume.is_deleting:
            # The claim goes only when no pod uses it: also not one that was made before the claim was gone.
            is_over = pod is not None and not pod.is_deleting and not pod.is_ready and not view.is_alive(name)
            if pod is not None and is_over and not goes_with_its_pod(view, name):
                actions.append(Delete(view.id_of(pod), "its volume is being deleted"))
            continue
        why = _why_lost(view, volume, name)
        if not why:
            continue
        member = view.registered(name)
        if view.shard_map is None or view.cluster is None or view.cluster.term == 0:
            if view.is_founded:
                text = f"{volume.name} {why}, and nobody can say what was on it until the members have a leader"
                wrong.append(Note(Reason.LAST_COPY, text))
                continue
        elif member is not None and (count := only_complete_copies(view.shard_map, member.storage, living)):
            text = (
                f"{volume.name} {why}, and no living member has a complete copy of {count} of its shards: bring it back"
            )
            wrong.append(Note(Reason.LAST_COPY, text))
            continue
        actions.append(Delete(volume_id(volume), why))
        if pod is not None and not pod.is_deleting:
            actions.append(Delete(view.id_of(pod), f"its volume {why}"))
        actions.append(Tell(Reason.POD_REPLACED, f"replaced {name}: its volume {why}", "Warning"))
    return actions, tuple(wrong)


def _why_lost(view: View, volume: SeenVolume, name: str) -> str:
    """Return why a volume is lost, "" if it is not: nobody may be using it, by the word of members and its own."""
    if view.is_alive(name) or name in view.answers:
        return ""
    if volume.phase == "Lost":
        return "is lost"
    if volume.node and volume.node in view.seen.nodes_gone and _is_long_dead(view, name):
        return f"is on Node {volume.node}, which is no more"
    return ""


# --- pods --------------------------------------------------------------------------------------------------------


def _is_long_dead(view: View, name: str) -> bool:
    member = view.members.get(name)
    return member is not None and member.state == "dead" and view.now - member.since >= view.spec.replace_after_s


def _is_long_there(view: View, pod: SeenPod) -> bool:
    return view.now - pod.since >= view.spec.replace_after_s


def _runs(view: View, pod: SeenPod) -> bool:
    """Return whether its kubelet says that it runs; one whose Node is not ready says nothing."""
    is_up = pod.node not in view.seen.nodes_gone and pod.node not in view.seen.nodes_down
    return pod.phase == "Running" and not pod.is_deleting and is_up


def _dead(view: View) -> list[Action]:
    """Replace the pod of one member that the cluster has called dead for long enough.

    Without a leader nobody vouches for the majority: then the pod must be silent towards us as well.
    """
    if view.cluster is None:
        return []
    for group in view.groups:
        for pod in view.pods_of(group):
            is_vouched = view.cluster.term > 0 or pod.name not in view.answers
            is_due = _runs(view, pod) and _is_long_dead(view, pod.name) and _is_long_there(view, pod)
            if is_vouched and is_due and not goes_with_its_pod(view, pod.name):
                why = f"the cluster has called it dead for {view.spec.recovery.replace_after}, and its pod runs"
                return [
                    Delete(view.id_of(pod), why),
                    Tell(Reason.POD_REPLACED, f"replaced {pod.name}: {why}", "Warning"),
                ]
    return []


def _mute(view: View) -> list[Action]:
    """Before the founding there are no members to call a pod dead: one that is silent beside others that answer is."""
    if view.is_founded or not view.answers:
        return []
    for pod in view.pods_of(view.names.nodes):
        if pod.name not in view.answers and _runs(view, pod) and _is_long_there(view, pod):
            why = f"it runs and has not answered for {view.spec.recovery.replace_after}"
            return [Delete(view.id_of(pod), why), Tell(Reason.POD_REPLACED, f"replaced {pod.name}: {why}", "Warning")]
    return []


def _left(view: View) -> list[Action]:
    """A node whose disk has left and whose ordinal is wanted again has to start with an empty disk."""
    for pod in view.pods.values():
        node = view.answers.get(pod.name)
        if node is None or not node.has_left or not view.is_wanted(pod.name) or pod.is_deleting:
            continue
        member = view.registered(pod.name)
        if (member is None or member.storage != node.storage_id) and view.now - pod.since >= LEFT_RESTART_S:
            return [Delete(view.id_of(pod), "its disk has left the cluster, and it is wanted again")]
    return []


def _when(view: View) -> float | None:
    """Return when somebody who is dead now will have been so for long enough."""
    dead = [member for member in view.members.values() if member.state == "dead" and view.group_of(member.name)]
    waits = [member.since + view.spec.replace_after_s - view.now for member in dead]
    return max(0.5, min(waits)) if waits else None
