"""What the operator sees of one Cluster, and what it may do about it: the values between its pure and its thin half.

    Kubernetes API, nodes' REST --kube, nodes--> Seen --plan--> Decision(actions, status)
    Decision --reconciler--> Kubernetes API, nodes' REST

Every pass looks at everything again and decides anew (level-based): nothing here is remembered from one pass to the next,
but what stands in the resource's own status. So a pass may be killed anywhere and the next one goes on.
All values are immutable; absent things are None or empty, never half-filled.

Source: docs/decisions/0018-the-operator-remembers-only-in-the-status.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from ringkeep_core.resource import ClusterResource, ClusterStatus
from ringkeep_core.shardmap import ShardMap

Manifest: TypeAlias = Mapping[str, object]
"""A Kubernetes object as JSON: what is applied, or what was read."""


@dataclass(frozen=True, slots=True)
class ObjectId:
    """An object of the cluster's namespace. ``uid`` and ``version`` (resourceVersion) are preconditions of its deletion."""

    kind: str
    name: str
    uid: str = ""
    version: str = ""


# --- what is seen ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenPod:
    """A pod of the StatefulSet or of the gateways.

    ``revision`` is the label controller-revision-hash; ``waiting`` the reason why a container does not run (ErrImagePull,
    CrashLoopBackOff ...) or why the pod is not scheduled (Unschedulable), with ``detail`` as its message; ``since`` is the
    unix time of its creation; ``owner`` the uid of the StatefulSet that made it, "" if none says so.
    """

    name: str
    uid: str
    version: str
    ordinal: int
    node: str = ""
    ip: str = ""
    phase: str = "Pending"
    is_ready: bool = False
    is_deleting: bool = False
    revision: str = ""
    waiting: str = ""
    detail: str = ""
    since: float = 0.0
    owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenVolume:
    """A PersistentVolumeClaim of a member.

    ``phase`` is Pending, Bound or Lost; ``node`` the only Node that can mount it, if any; ``requested`` the size that it
    asks for and ``capacity`` the size that it has, in bytes, 0 if not known; ``owners`` are the uids of the Clusters that it
    is deleted with; ``since`` is the unix time of its creation.
    """

    name: str
    uid: str
    version: str
    ordinal: int
    phase: str = "Bound"
    is_deleting: bool = False
    node: str = ""
    requested: int = 0
    capacity: int = 0
    owners: frozenset[str] = frozenset()
    since: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenMember:
    """A member as the cluster's nodes report it (``GET /v1/cluster/members``).

    ``since`` is when its state began, unix time.
    """

    name: str
    state: str
    storage_id: str
    boot_id: str = ""
    zone: str = ""
    weight: float = 1.0
    draining: bool = False
    copies: int = 0
    primaries: int = 0
    since: float = 0.0
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenNode:
    """What the node in a pod says of itself; only pods that answered are listed."""

    name: str
    storage_id: str
    peer: str
    url: str
    cluster_id: str = ""
    has_left: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenPlan:
    """What is left of the leader's plan (``GET /v1/cluster/plan``), and what it waits for."""

    copies: int = 0
    primaries: int = 0
    bytes: int = 0
    copies_total: int = 0
    copies_done: int = 0
    opinion: str = "none"
    waiting: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenCluster:
    """The data plane as its members see it now; None as a whole where no member could be asked.

    ``voters`` are not needed: whether a member may go is judged by the ``leave`` entry. ``term`` 0: no leader known.
    ``shards_*`` are ``ringkeep_operator.shards.counts_of(shard_map, members)``.
    """

    shard_map: ShardMap
    members: tuple[SeenMember, ...] = ()
    leader: str = ""
    term: int = 0
    plan: SeenPlan = SeenPlan()
    shards_ok: int = 0
    shards_moving: int = 0
    shards_under_replicated: int = 0
    shards_unavailable: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """A change of the wanted state that was refused (409).

    ``asked`` is its ``SetWanted.asked``, ``code`` as in plans.refusal_of.
    """

    asked: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Everything that one pass looked at.

    ``children`` are the live objects that carry the cluster's label, by (kind, name), the Secret too (its metadata is
    enough); ``foreign`` those that have a name we need (``naming.Names.all``) but are not ours. ``zones`` by Kubernetes
    Node name, from the label ``spec.placement.zoneKey``; ``nodes_gone`` are names of Kubernetes Nodes that pods or volumes
    refer to and that do not exist any more, ``nodes_down`` those NotReady. ``not_made``: why pods that are missing cannot be
    made (a quota, an admission rule), by pod, in the words of the StatefulSet's controller.
    ``refusal`` is the leader's last word on a change of the wanted state, kept for some seconds: the same is not asked again
    meanwhile, and everything else goes on. ``failures`` are sentences about what this very pass was refused, by the API
    server or a member, ``hindrances`` about what members refused that may be over in a moment.
    """

    resource: ClusterResource
    now: float
    children: Mapping[tuple[str, str], Manifest] = field(default_factory=dict)
    foreign: frozenset[tuple[str, str]] = frozenset()
    pods: tuple[SeenPod, ...] = ()
    volumes: tuple[SeenVolume, ...] = ()
    zones: Mapping[str, str] = field(default_factory=dict)
    nodes_gone: frozenset[str] = frozenset()
    nodes_down: frozenset[str] = frozenset()
    not_made: Mapping[str, str] = field(default_factory=dict)
    answering: tuple[SeenNode, ...] = ()
    cluster: SeenCluster | None = None
    refusal: Refusal | None = None
    failures: tuple[str, ...] = ()
    hindrances: tuple[str, ...] = ()
    has_storage_class: bool = True


# --- what is done ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Apply:
    """Apply a child object on the server (server-side apply, our field manager, forced): creates it or repairs its drift.

    ``part`` names a part of the object that is applied by itself: each has a field manager of its own, so that applying one
    takes nothing of the others away.
    """

    manifest: Manifest
    part: str = ""


@dataclass(frozen=True, slots=True)
class CreateSecret:
    """Create the Secret with the administration token, never overwrite it: that it exists already is success.

    ``manifest`` has no data. Whoever carries this out adds ``stringData[key]``: 32 random bytes as text, made there,
    because nothing pure can make a secret.
    """

    manifest: Manifest
    key: str


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete an object, only if it is still the one that was seen. ``grace_s`` None: the object's own; 0: at once."""

    target: ObjectId
    why: str
    grace_s: int | None = None


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Found the cluster on these nodes (``POST /v1/cluster/bootstrap`` at ``url``), in this order: voters first."""

    url: str
    members: tuple[SeenNode, ...]
    shards: int
    replication_factor: int
    min_in_sync: int


@dataclass(frozen=True, slots=True)
class SetWanted:
    """Change the wanted state by compare-and-set on ``revision`` (``PUT /v1/cluster/wanted``).

    ``body`` is the whole JSON body, with the digest of the target and the map's version it was made from. A refusal
    (409 ``conflict``) changes nothing: it is decided again in the same pass, with it as ``Seen.refusal``. ``asked`` names
    what is asked (a digest of members and settings, without the revision), so that a refusal can be recognised.
    """

    body: Mapping[str, object]
    asked: str
    why: str


@dataclass(frozen=True, slots=True)
class Leave:
    """Let a drained member go (``POST /v1/cluster/members/{name}/leave``): that it commits is the proof of emptiness."""

    name: str
    storage_id: str


@dataclass(frozen=True, slots=True)
class TransferLeader:
    """Hand Raft leadership to another voter before its pod is replaced; "" leaves the choice to the leader."""

    to: str = ""


@dataclass(frozen=True, slots=True)
class Tell:
    """A Kubernetes event on the Cluster. ``reason`` is from a closed set of CamelCase words; ``kind`` Normal or Warning."""

    reason: str
    message: str
    kind: str = "Normal"


Action: TypeAlias = Apply | CreateSecret | Delete | Bootstrap | SetWanted | Leave | TransferLeader | Tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to do now, in this order, the status to show (written only if it differs), and when to look again at the latest.

    Actions after one that failed are not carried out: the next pass decides anew. The status is written all the same: it
    says what was seen, and a step that waits until something is written down must not wait for one that fails for ever.
    """

    actions: tuple[Action, ...]
    status: ClusterStatus
    look_again_s: float = 30.0
