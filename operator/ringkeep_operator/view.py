"""What was seen, put in relation: pods, members and volumes by ordinal, and what is known of each disk.

``Outcome`` is what each part of the plan returns: actions, what is wrong, and what is under way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any

from ringkeep_core.resource import ClusterResource, StorageStatus
from ringkeep_core.shardmap import Member, ShardMap, WantedMember
from ringkeep_operator.naming import GATEWAY, Group, Names
from ringkeep_operator.reading import seconds_of
from ringkeep_operator.shards import LIVING
from ringkeep_operator.state import (
    Action,
    Manifest,
    ObjectId,
    Seen,
    SeenCluster,
    SeenMember,
    SeenNode,
    SeenPod,
    SeenVolume,
)

IMAGE_FAULTS = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "ImageInspectError",
        "RegistryUnavailable",
    }
)
START_FAULTS = frozenset(
    {"CrashLoopBackOff", "CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError"}
)
UNSCHEDULABLE = frozenset({"Unschedulable", "SchedulerError"})
BROKEN = IMAGE_FAULTS | START_FAULTS | UNSCHEDULABLE


class Reason(StrEnum):
    """Every reason that a condition or event of ours may have."""

    # as it should be
    AS_WANTED = "AsWanted"
    SERVING = "Serving"
    SETTLED = "Settled"
    # under way
    APPLYING = "Applying"
    STARTING = "PodsStarting"
    BOOTSTRAPPING = "Bootstrapping"
    SCALING_UP = "ScalingUp"
    SCALING_DOWN = "ScalingDown"
    MOVING = "MovingCopies"
    RETURNING = "PrimariesReturning"
    ROLLING_OUT = "RollingOut"
    RECOVERING = "Recovering"
    SUSPENDED = "Suspended"
    PAUSED = "Paused"
    # wrong
    INVALID_SPEC = "InvalidSpec"
    FOREIGN_OBJECT = "ForeignObject"
    FOREIGN_DATA = "ForeignData"
    DATA_MISSING = "DataMissing"
    NO_STORAGE_CLASS = "StorageClassMissing"
    NOT_MADE = "PodCreateFailed"
    UNSCHEDULABLE = "PodUnschedulable"
    IMAGE = "ImagePullFailed"
    CRASHING = "PodCrashing"
    REFUSED = "ChangeRefused"
    ACTION_REFUSED = "ActionRefused"
    MEMBER_DOWN = "MemberDown"
    FEWER_MEMBERS = "FewerMembersThanCopies"
    FEWER_COPIES = "FewerCopies"
    UNAVAILABLE = "ShardsUnavailable"
    UNREACHABLE = "NoMemberAnswers"
    NO_LEADER = "NoLeader"
    LAST_COPY = "OnlyCopyLost"
    VOLUME_TERMINATING = "VolumeTerminating"
    # said once, as an event
    BOOTSTRAPPED = "Bootstrapped"
    MEMBER_LEFT = "MemberLeft"
    POD_REPLACED = "PodReplaced"
    VOLUME_DELETED = "VolumeDeleted"


@dataclass(frozen=True, slots=True)
class Note:
    """What is wrong or under way: a reason, and one sentence for people."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a part of the plan has to say. ``soon_s``: look again after so long at the latest, None: nothing is timed."""

    actions: tuple[Action, ...] = ()
    wrong: tuple[Note, ...] = ()
    under_way: tuple[Note, ...] = ()
    soon_s: float | None = None


def joined(outcomes: list[Outcome]) -> Outcome:
    """Return what all parts say together, in their order."""
    waits = [outcome.soon_s for outcome in outcomes if outcome.soon_s is not None]
    return Outcome(
        actions=tuple(action for outcome in outcomes for action in outcome.actions),
        wrong=tuple(note for outcome in outcomes for note in outcome.wrong),
        under_way=tuple(note for outcome in outcomes for note in outcome.under_way),
        soon_s=min(waits) if waits else None,
    )


class View:
    """One pass's look at a cluster."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self.now = seen.now
        self.resource: ClusterResource = seen.resource
        self.spec, self.status = seen.resource.spec, seen.resource.status
        self.names = Names(seen.resource.name, seen.resource.namespace)
        self.groups = (self.names.nodes, self.names.gateways)
        self.pods: dict[str, SeenPod] = {pod.name: pod for pod in seen.pods if self.group_of(pod.name) is not None}
        self.answers: dict[str, SeenNode] = {
            node.name: node for node in seen.answering if not self._may_be_a_stranger(node)
        }
        self.volumes: dict[int, SeenVolume] = {
            volume.ordinal: volume for volume in seen.volumes if volume.name == self.names.claim(volume.ordinal)
        }

    def _may_be_a_stranger(self, node: SeenNode) -> bool:
        """Whether the address of a pod may be somebody else's by now: its Node is away, and who answers is not of ours."""
        pod = self.pods.get(node.name)
        is_away = pod is not None and pod.node in self.seen.nodes_down | self.seen.nodes_gone
        return is_away and (not self.status.cluster_id or node.cluster_id != self.status.cluster_id)

    # --- names and numbers ---

    def group_of(self, name: str) -> Group | None:
        """Return the group that a member or pod of this name belongs to, or None: it is not ours."""
        return next((group for group in self.groups if group.ordinal(name) is not None), None)

    def count(self, group: Group) -> int:
        """Return how many members the spec wants in a group."""
        return self.spec.gateways if group.component == GATEWAY else self.spec.replicas

    def expected(self) -> list[str]:
        """Return the names of all members that the spec wants, gateways last."""
        return [group.member(ordinal) for group in self.groups for ordinal in range(self.count(group))]

    def is_wanted(self, name: str) -> bool:
        """Return whether the spec wants a member of this name."""
        group = self.group_of(name)
        ordinal = group.ordinal(name) if group is not None else None
        return group is not None and ordinal is not None and ordinal < self.count(group)

    def pods_of(self, group: Group) -> list[SeenPod]:
        """Return a group's pods, by ordinal."""
        return sorted(
            (pod for pod in self.pods.values() if self.group_of(pod.name) == group), key=lambda pod: pod.ordinal
        )

    # --- the StatefulSets ---

    def live_set(self, group: Group) -> Manifest | None:
        """Return a group's StatefulSet as it is, None if it is not there."""
        return self.seen.children.get(("StatefulSet", group.set_name))

    def standing(self, group: Group) -> int:
        """Return how many pods a group's StatefulSet is to have now; 0 if it is not there."""
        live: Any = self.live_set(group)
        return int((live.get("spec") or {}).get("replicas", 1)) if live is not None else 0

    def revision_wanted(self, group: Group) -> str:
        """Return the revision that a group's pods should have; "" while the StatefulSet's controller has not said it."""
        live: Any = self.live_set(group) or {}
        status, metadata = live.get("status") or {}, live.get("metadata") or {}
        if status.get("observedGeneration", -1) < metadata.get("generation", 0):
            return ""
        return str(status.get("updateRevision", ""))

    def token_since(self) -> float:
        """Return when the Secret of the administration token was made, unix time; 0 if that is not known."""
        secret: Any = self.seen.children.get(("Secret", self.names.secret)) or {}
        return seconds_of(str((secret.get("metadata") or {}).get("creationTimestamp") or ""))

    # --- the data plane ---

    @property
    def cluster(self) -> SeenCluster | None:
        """The cluster as its members report it, if it is ours and any could be asked."""
        cluster = self.seen.cluster
        if cluster is None:
            return None
        known = {self.status.cluster_id} if self.status.cluster_id else self.ids_seen
        return cluster if cluster.shard_map.cluster_id in known else None

    @property
    def shard_map(self) -> ShardMap | None:
        """The map, if it is known."""
        return self.cluster.shard_map if self.cluster is not None else None

    @cached_property
    def ids_seen(self) -> frozenset[str]:
        """Every cluster id that any pod's disk has."""
        return frozenset(node.cluster_id for name, node in self.answers.items() if self.group_of(name)) - {""}

    @cached_property
    def cluster_id(self) -> str:
        """The cluster's id: the one that was written down, or the only one that is seen; "" if there is none."""
        if self.status.cluster_id:
            return self.status.cluster_id
        return next(iter(self.ids_seen)) if len(self.ids_seen) == 1 else ""

    @property
    def is_founded(self) -> bool:
        """Whether there is a cluster, or signs of one: then none is founded, and nothing is taken from it on a guess."""
        return bool(self.status.cluster_id or self.ids_seen)

    @cached_property
    def members(self) -> Mapping[str, SeenMember]:
        """What the members say of each other, by name."""
        return {member.name: member for member in self.cluster.members} if self.cluster is not None else {}

    def is_alive(self, name: str) -> bool:
        """Return whether the cluster calls a member alive."""
        member = self.members.get(name)
        return member is not None and member.state in LIVING

    @cached_property
    def living(self) -> frozenset[str]:
        """The disks of the members that may serve."""
        return frozenset(member.storage_id for member in self.members.values() if member.state in LIVING)

    def registered(self, name: str) -> Member | None:
        """Return a member as the map has it."""
        return self.shard_map.by_name.get(name) if self.shard_map is not None else None

    def listed(self, name: str) -> WantedMember | None:
        """Return what the wanted state says of a member; None if it does not list it."""
        return self.shard_map.wanted.members.get(name) if self.shard_map is not None else None

    def holds_copies(self, storage: str) -> bool:
        """Return whether the map gives a disk any copy."""
        return self.shard_map is not None and any(shard.copy_of(storage) for shard in self.shard_map.shards)

    # --- disks ---

    @cached_property
    def written(self) -> Mapping[str, StorageStatus]:
        """What the status said of each disk before this pass: only this outlives a crash."""
        return {entry.name: entry for entry in self.status.storages}

    def is_written(self, name: str, storage: str) -> bool:
        """Return whether the status already names this disk as the member's."""
        entry = self.written.get(name)
        return entry is not None and entry.storage_id == storage

    def id_of(self, pod: SeenPod) -> ObjectId:
        """Return a pod as what may be deleted: this very pod, never its successor."""
        return ObjectId("Pod", pod.name, pod.uid, pod.version)
