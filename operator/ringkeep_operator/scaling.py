"""How many pods should exist now, which disks are known, and which volumes may go.

    ordinal >= wanted:   listed --SetWanted draining--> holds nothing --Leave committed--> has left --> the set shrinks
                         --> pod gone --> volume by policy

A StatefulSet only ever loses its tail, so it shrinks to just above the highest member that has not left. Who has left is
known only positively: its disk is among those that have left in the map, or the status has it so. That a map does not
name a member proves nothing: the map may be old.

A disk is written into the status before its member is listed or founds the cluster (and so before it can get data), with
"" as its storage id while it never was to be. So a volume is deleted only if its disk has left, or never was anybody's:
its claim is younger than the Cluster.

Source: docs/decisions/0018-the-operator-remembers-only-in-the-status.md.
"""

from __future__ import annotations

from ringkeep_core.resource import StorageStatus
from ringkeep_operator.naming import GATEWAY, Group
from ringkeep_operator.reading import seconds_of
from ringkeep_operator.shards import only_complete_copies
from ringkeep_operator.state import Action, Delete, Leave, ObjectId, SeenNode, SeenVolume, Tell
from ringkeep_operator.view import Note, Outcome, Reason, View


def storages_of(view: View) -> tuple[StorageStatus, ...]:
    """Return what is known of each disk, to be written into the status."""
    entries = dict(view.written)
    for group in view.groups:
        size = set_size(view, group)
        for ordinal in range(size):
            name = group.member(ordinal)
            entries.setdefault(name, StorageStatus(name=name, storage_id=""))
    for node in founders_of(view):
        entries[node.name] = StorageStatus(name=node.name, storage_id=node.storage_id)
    if view.shard_map is not None:
        gone = frozenset(view.shard_map.left)
        for name, member in view.shard_map.by_name.items():
            if view.group_of(name) is not None and (view.listed(name) is not None or view.is_wanted(name)):
                entries[name] = StorageStatus(name=name, storage_id=member.storage)
        for name, entry in entries.items():
            if entry.storage_id in gone:
                entries[name] = StorageStatus(name=name, storage_id=entry.storage_id, has_left=True)
    return tuple(entries[name] for name in sorted(entries) if not _may_forget(view, entries[name]))


def founders_of(view: View) -> tuple[SeenNode, ...]:
    """Return those on whom the cluster is to be founded: all expected pods, once they answer and none has a cluster."""
    if view.is_founded or view.spec.suspend:
        return ()
    names = [view.names.nodes.member(ordinal) for ordinal in range(view.spec.replicas)]
    if any(name not in view.answers or name not in view.pods for name in names):
        return ()
    return tuple(view.answers[name] for name in names)


def _may_forget(view: View, entry: StorageStatus) -> bool:
    """A disk that is no more needs no entry."""
    group = view.group_of(entry.name)
    if group is None:
        return True
    ordinal = group.ordinal(entry.name)
    assert ordinal is not None, "a member of a group has an ordinal in it"
    has_volume = group.component != GATEWAY and ordinal in view.volumes
    is_over = ordinal >= max(view.count(group), view.standing(group))
    return (entry.has_left or not entry.storage_id) and is_over and not has_volume and entry.name not in view.pods


# --- how many pods -----------------------------------------------------------------------------------------------


def set_size(view: View, group: Group) -> int:
    """Return how many pods a group's StatefulSet should have now."""
    if view.spec.suspend:
        is_endangered = any(goes_with_its_pod(view, pod.name) for pod in view.pods_of(group))
        return view.standing(group) if is_endangered else 0
    wanted, standing = view.count(group), view.standing(group)
    if not view.is_founded:
        return _unfounded_size(view, group)
    least = standing if view.cluster is None else 0
    # A set that was deleted, or suspended, comes back as large as its members need it, whatever it stands at.
    known = [group.ordinal(name) for name in (*view.written, *_listed_names(view))]
    highest = max((ordinal + 1 for ordinal in known if ordinal is not None), default=0)
    for ordinal in reversed(range(max(highest, standing))):
        if must_stay(view, group.member(ordinal)):
            least = max(least, ordinal + 1)
            break
    return max(wanted, least)


def _listed_names(view: View) -> list[str]:
    return list(view.shard_map.wanted.members) if view.shard_map is not None else []


def must_stay(view: View, name: str) -> bool:
    """Return whether a member may still have data, or be counted on for them."""
    if view.shard_map is not None:
        member = view.registered(name)
        if view.listed(name) is not None:
            return True
        if member is not None and view.holds_copies(member.storage):
            return True
    entry = view.written.get(name)
    if entry is None or not entry.storage_id or entry.has_left:
        return False
    return view.shard_map is None or entry.storage_id not in view.shard_map.left


def _unfounded_size(view: View, group: Group) -> int:
    """Before the founding is known of: who was to be a founder stays until its own disk says that it is none."""
    known = [ordinal for name in view.written if (ordinal := group.ordinal(name)) is not None]
    for ordinal in sorted(known, reverse=True):
        name = group.member(ordinal)
        # It answers, so its disk has been looked at, and there is no cluster on it: or there would be signs of one.
        if view.written[name].storage_id and name not in view.answers:
            return max(view.count(group), ordinal + 1)
    return view.count(group)


# --- who leaves --------------------------------------------------------------------------------------------------


def leaving(view: View) -> Outcome:
    """Let go who is not wanted, has given everything up and is written down; from the top, as the set shrinks."""
    if view.shard_map is None or view.cluster is None or view.cluster.term == 0:
        return Outcome()
    actions: list[Action] = []
    notes = []
    held_up: set[Group] = set()
    for name, member in sorted(view.shard_map.by_name.items(), key=lambda item: _ordinal(view, item[0]), reverse=True):
        group = view.group_of(name)
        if group is None or view.is_wanted(name):
            continue
        want = view.listed(name)
        is_written = view.is_written(name, member.storage)
        # One that nobody counts on goes once its pod is gone: before that it would only register again.
        if want is None and not is_written and name in view.pods:
            continue
        if want is not None and not want.draining:
            continue  # To be asked for, or refused.
        notes.append(Note(Reason.SCALING_DOWN, f"{name} gives up its copies and leaves"))
        is_free = (want is None or is_written) and not view.holds_copies(member.storage)
        if want is not None and is_free and _gets_clients(view, name):
            # From the moment it leaves it refuses everything: first the Services must stop sending clients to it.
            continue
        if is_free and group not in held_up:
            actions.append(Leave(name, member.storage))
            actions.append(Tell(Reason.MEMBER_LEFT, f"{name} has given everything up and left the cluster"))
        elif want is not None:
            # The set cannot shrink past it: those below would only come back as somebody new.
            held_up.add(group)
    return Outcome(actions=tuple(actions), under_way=tuple(notes), soon_s=1.0 if notes else None)


def _gets_clients(view: View, name: str) -> bool:
    """Return whether Services send clients to a member that has given everything up; it says that it is not ready soon."""
    pod = view.pods.get(name)
    return pod is not None and pod.is_ready and not pod.is_deleting and name in view.answers


def _ordinal(view: View, name: str) -> int:
    group = view.group_of(name)
    return -1 if group is None else group.ordinal(name) or 0


# --- what becomes of volumes -------------------------------------------------------------------------------------


def freed_volumes(view: View) -> Outcome:
    """Delete the volumes of members that have left, if the policy says so."""
    group = view.names.nodes
    if view.spec.storage.retain.when_scaled != "Delete" or view.spec.suspend or not _is_map_current(view):
        return Outcome()
    over = max(view.count(group), view.standing(group), set_size(view, group))
    actions: list[Action] = []
    for ordinal, volume in sorted(view.volumes.items()):
        name = group.member(ordinal)
        if ordinal < over or name in view.pods or volume.is_deleting or not _is_free(view, name, volume):
            continue
        why = f"{name} has left the cluster" if view.written[name].storage_id else f"{name} never joined the cluster"
        actions.append(Delete(volume_id(volume), why))
        actions.append(Tell(Reason.VOLUME_DELETED, f"deleted volume {volume.name}: {why}"))
    return Outcome(actions=tuple(actions))


def goes_with_its_pod(view: View, name: str) -> int:
    """Return of how many shards the last safe copy goes when a pod ends, because somebody has deleted its claim.

    Kubernetes keeps a claim that is Terminating while its pod runs, and no longer. Safe are complete copies on living
    members whose own volumes stay.
    """
    ordinal = view.names.nodes.ordinal(name)
    volume = view.volumes.get(ordinal) if ordinal is not None else None
    if volume is None or not volume.is_deleting or not view.is_founded:
        return 0
    if view.shard_map is None:
        return 1  # Nobody can say what is on it.
    member = view.registered(name)
    if member is None:
        return 0
    going = {view.names.nodes.member(one.ordinal) for one in view.volumes.values() if one.is_deleting}
    safe = view.living - {other.storage for other in view.shard_map.by_name.values() if other.name in going}
    return only_complete_copies(view.shard_map, member.storage, safe)


def volume_id(volume: SeenVolume) -> ObjectId:
    """Return a volume's claim as what may be deleted: this very one."""
    return ObjectId("PersistentVolumeClaim", volume.name, volume.uid, volume.version)


def _is_map_current(view: View) -> bool:
    """An older map than one that was shown may not know who was listed since; without a leader none is known as new."""
    cluster = view.cluster
    return cluster is not None and cluster.term > 0 and cluster.shard_map.version >= view.status.map_version


def _is_free(view: View, name: str, volume: SeenVolume) -> bool:
    entry = view.written.get(name)
    if entry is None or must_stay(view, name):
        return False
    if not entry.storage_id:
        # Its disk never was to be a member's. But a claim that is older than the Cluster may hold what another one kept.
        return volume.since >= seconds_of(view.resource.created)
    return entry.has_left or (view.shard_map is not None and entry.storage_id in view.shard_map.left)


def grown_volumes(view: View) -> list[SeenVolume]:
    """Return the volumes that are smaller than wanted."""
    return [
        volume
        for _, volume in sorted(view.volumes.items())
        if 0 < volume.requested < view.spec.storage_bytes and not volume.is_deleting
    ]


def owned_volumes(view: View) -> list[SeenVolume]:
    """Return the volumes that are to be deleted with the Cluster and would not be, or the other way round."""
    uid, is_wanted = view.resource.uid, view.spec.storage.retain.when_deleted == "Delete"
    return [
        volume
        for _, volume in sorted(view.volumes.items())
        if (uid in volume.owners) != is_wanted and not volume.is_deleting
    ]
