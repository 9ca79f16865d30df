"""The ``Cluster`` resource of Kubernetes as values: what people want, and what the operator shows of it.

    API JSON --decode_cluster--> ClusterResource(spec, status) --plan--> ClusterStatus --status_json--> API JSON

The same types make the schema that the API server checks (``ringkeep_core.crd``), so that both know the same bounds and
defaults. What a schema cannot say (relations between fields) is checked in ``offences_of`` as well as by CEL rules: an
API server with an older CRD may let through what we must not act on.

Source: docs/kubernetes.md; KEP-1623 for conditions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from ringkeep_core.maprules import BYTES_PER_S_MAX, COPIES_MAX, STREAMS_PER_NODE_MAX
from ringkeep_core.quantities import DURATION_PATTERN, QUANTITY_PATTERN, parse_bytes, parse_duration

GROUP = "ringkeep.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "Cluster"
PLURAL = "clusters"
SINGULAR = "cluster"
SHORT_NAME = "rk"
CATEGORY = "ringkeep"

DEFAULT_IMAGE = "ringkeep-node:0.1.0"
REPLICAS_MAX = 200
GATEWAYS_MAX = 100
SHARDS_ALLOWED = tuple(1 << power for power in range(4, 17))
"""Powers of two, 16..65,536."""

NAME_MAX = 44
"""63 characters of a label value, less ``-<10 of a revision hash>`` that a StatefulSet adds, less ``-gateway``."""
NAME_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
"""Services are named after the cluster, and their names are RFC 1035 labels: they begin with a letter."""

STATUS_MEMBERS_MAX = REPLICAS_MAX + GATEWAYS_MAX + 100
MESSAGE_MAX = 1024
SIZE_MIN_BYTES = 64 << 20

SETTINGS_MAX = 64
SETTING_PATTERN = "^[A-Z][A-Z0-9_]*$"
SETTINGS_FIXED = (
    "ADMIN_TOKEN",
    "ADVERTISE",
    "API",
    "DATA",
    "LEFT_DATA",
    "NAME",
    "PEER",
    "SEEDS",
    "SERVICES_TOKEN",
    "STOP_NOTICE_S",
    "WEIGHT",
    "ZONE",
)
"""Settings of a node that the operator makes, or that are secret: the resource cannot say them."""

OUR_PREFIXES = ("ringkeep.dev/", "app.kubernetes.io/")
"""Labels of pods with these prefixes are the operator's own: Services and budgets choose pods by them."""
OUR_VARIABLE = "POD_IP"
"""A variable of pods that the operator makes, beside those of settings."""
VARIABLE_PATTERN = "^[A-Za-z_][A-Za-z0-9_]*$"

Quantity = Annotated[str, Meta(pattern=QUANTITY_PATTERN, max_length=32)]
Duration = Annotated[str, Meta(pattern=DURATION_PATTERN, max_length=8)]


# --- what is wanted ----------------------------------------------------------------------------------------------


class Retain(Struct, frozen=True, rename="camel", kw_only=True):
    """What becomes of volumes: ``Delete`` or ``Retain``."""

    when_scaled: Annotated[
        Literal["Delete", "Retain"],
        Meta(description="What becomes of the volume of a member that has left the cluster after a scale-down."),
    ] = "Delete"
    when_deleted: Annotated[
        Literal["Delete", "Retain"], Meta(description="What becomes of all volumes when the Cluster is deleted.")
    ] = "Retain"


class Storage(Struct, frozen=True, rename="camel", kw_only=True):
    """The volume that each member keeps its data on."""

    size: Annotated[Quantity, Meta(description="Size of each volume; it may grow, never shrink.")] = "1Gi"
    class_name: Annotated[
        Annotated[str, Meta(max_length=253)] | None,
        Meta(description="StorageClass of the volumes; absent: the default class. Immutable."),
    ] = None
    retain: Annotated[Retain, Meta(description="Which volumes outlive their member or their cluster.")] = Retain()


class Placement(Struct, frozen=True, rename="camel", kw_only=True):
    """Where pods, and the copies on them, go."""

    zone_key: Annotated[
        str,
        Meta(
            description="The Node label that names a zone; copies of a shard are spread over zones.",
            min_length=1,
            max_length=317,
        ),
    ] = "topology.kubernetes.io/zone"
    anti_affinity: Annotated[
        Literal["preferred", "required"],
        Meta(description="Whether two pods may share a Node when there is no other (preferred) or never (required)."),
    ] = "preferred"


class Recovery(Struct, frozen=True, rename="camel", kw_only=True):
    """How long to wait before something is taken for lost."""

    replace_after: Annotated[
        Duration,
        Meta(description="A pod that runs, but whose member the cluster has called dead for so long, is replaced."),
    ] = "60s"
    rereplicate_after: Annotated[
        Duration, Meta(description="A dead member keeps its copies for so long; then they are made elsewhere.")
    ] = "5m"


class Moves(Struct, frozen=True, rename="camel", kw_only=True):
    """How fast copies may move."""

    concurrent_per_node: Annotated[
        int,
        Meta(description="Copies that one node sends, and receives, at a time.", ge=1, le=STREAMS_PER_NODE_MAX),
    ] = 1
    bytes_per_second: Annotated[
        Quantity, Meta(description="Bytes per second at most that one node sends of them; 0: no limit.")
    ] = "50Mi"


class Monitoring(Struct, frozen=True, rename="camel", kw_only=True):
    """How Prometheus finds the nodes. Scrape annotations are always there."""

    service_monitor: Annotated[
        bool, Meta(description="Make a ServiceMonitor; its CRD (Prometheus operator) must be installed.")
    ] = False
    labels: Annotated[
        dict[str, Annotated[str, Meta(max_length=63)]],
        Meta(description="Further labels of the ServiceMonitor: many a Prometheus chooses by one.", max_length=32),
    ] = {}


class Networking(Struct, frozen=True, rename="camel", kw_only=True):
    """Who may reach the nodes."""

    enabled: Annotated[
        bool, Meta(description="Make a NetworkPolicy: peers may only talk to peers; the API port stays open.")
    ] = False


class Resources(Struct, frozen=True, rename="camel", kw_only=True):
    """Requests and limits of the node container, as in a pod."""

    requests: Annotated[
        dict[str, int | str], Meta(description="What is reserved, by resource name.", max_length=16)
    ] = {}
    limits: Annotated[
        dict[str, int | str], Meta(description="What may be used at most, by resource name.", max_length=16)
    ] = {}


class Setting(Struct, frozen=True, kw_only=True):
    """A setting of every node, as docs/settings.md has it."""

    name: Annotated[
        str,
        Meta(
            description="Its name without RINGKEEP_, like SERVICES_ADDRESSES.", pattern=SETTING_PATTERN, max_length=63
        ),
    ]
    value: Annotated[str, Meta(description="Its value as a text.", max_length=1024)]


class Toleration(Struct, frozen=True, rename="camel", kw_only=True, omit_defaults=True):
    """A taint that pods put up with, as in a pod."""

    key: Annotated[str, Meta(description="Key of the taint; absent: all of them.", max_length=317)] = ""
    operator: Annotated[Literal["Equal", "Exists"], Meta(description="Equal: the value too; Exists: any value.")] = (
        "Equal"
    )
    value: Annotated[str, Meta(description="Value of the taint.", max_length=63)] = ""
    effect: Annotated[
        Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None, Meta(description="Absent: every effect.")
    ] = None
    toleration_seconds: Annotated[
        Annotated[int, Meta(ge=0, le=2**31 - 1)] | None,
        Meta(description="With NoExecute: for so long; absent: for ever."),
    ] = None


class SecretName(Struct, frozen=True, kw_only=True):
    """A Secret in the namespace of the Cluster."""

    name: Annotated[str, Meta(description="Its name, in the namespace of the Cluster.", min_length=1, max_length=253)]


class EnvSource(Struct, frozen=True, rename="camel", kw_only=True):
    """Variables that are keys of a Secret. Those that the operator makes win over them."""

    secret_ref: Annotated[SecretName, Meta(description="The Secret; pods wait until it is there.")]


class Variable(Struct, frozen=True, kw_only=True):
    """A variable of the environment of every node."""

    name: Annotated[
        str, Meta(description="Like OTEL_EXPORTER_OTLP_ENDPOINT.", pattern=VARIABLE_PATTERN, max_length=128)
    ]
    value: Annotated[str, Meta(description="Its value as it is: nothing in it is replaced.", max_length=4096)]


class Pods(Struct, frozen=True, rename="camel", kw_only=True):
    """What else the pods of members and gateways get. Nothing of it is the operator's business, and all of it a pod's."""

    labels: Annotated[
        dict[str, Annotated[str, Meta(max_length=63)]], Meta(description="Further labels.", max_length=32)
    ] = {}
    annotations: Annotated[
        dict[str, Annotated[str, Meta(max_length=4096)]], Meta(description="Further annotations.", max_length=32)
    ] = {}
    node_selector: Annotated[
        dict[str, Annotated[str, Meta(max_length=63)]],
        Meta(description="Only Nodes with all of these labels.", max_length=32),
    ] = {}
    tolerations: Annotated[
        tuple[Toleration, ...], Meta(description="Taints of Nodes that are put up with.", max_length=32)
    ] = ()
    priority_class_name: Annotated[
        Annotated[str, Meta(max_length=253)] | None, Meta(description="PriorityClass; absent: the default one.")
    ] = None
    image_pull_secrets: Annotated[
        tuple[SecretName, ...], Meta(description="Secrets of the registry of the image.", max_length=16)
    ] = ()
    env: Annotated[
        tuple[Variable, ...],
        Meta(description="Further variables, for tracing for example (docs/tracing.md).", max_length=64),
    ] = ()
    env_from: Annotated[
        tuple[EnvSource, ...],
        Meta(description="Further variables that are secret: all keys of these Secrets.", max_length=16),
    ] = ()


class ClusterSpec(Struct, frozen=True, rename="camel", kw_only=True):
    """What people want of a cluster."""

    replicas: Annotated[
        int,
        Meta(description="Members that hold data. To stop all of them use suspend.", ge=1, le=REPLICAS_MAX),
    ] = 3
    replication_factor: Annotated[
        int,
        Meta(
            description="Copies of each shard. With fewer members there is one on each, and the status says so.",
            ge=1,
            le=COPIES_MAX,
        ),
    ] = 3
    min_in_sync: Annotated[
        int,
        Meta(description="Copies that must be in sync for a write to be taken.", ge=1, le=COPIES_MAX),
    ] = 2
    shards: Annotated[
        int,
        Meta(description="Shards that users are spread over: a power of two, 16..65536. Immutable.", ge=16, le=65536),
    ] = 256
    image: Annotated[
        str, Meta(description="Image of the nodes. A change restarts them one by one.", min_length=1, max_length=512)
    ] = DEFAULT_IMAGE
    storage: Annotated[Storage, Meta(description="The volume of each member.")] = Storage()
    gateways: Annotated[
        int, Meta(description="Members of weight 0: they hold no data and route requests.", ge=0, le=GATEWAYS_MAX)
    ] = 0
    resources: Annotated[Resources, Meta(description="Requests and limits of each node.")] = Resources()
    placement: Annotated[Placement, Meta(description="Where pods and copies go.")] = Placement()
    pods: Annotated[Pods, Meta(description="What else the pods get. A change restarts the nodes one by one.")] = Pods()
    recovery: Annotated[Recovery, Meta(description="When something is taken for lost.")] = Recovery()
    moves: Annotated[Moves, Meta(description="How fast copies may move.")] = Moves()
    suspend: Annotated[bool, Meta(description="Stop all pods and keep their volumes.")] = False
    paused: Annotated[bool, Meta(description="The operator does nothing but show the status.")] = False
    monitoring: Annotated[Monitoring, Meta(description="How Prometheus finds the nodes.")] = Monitoring()
    network_policy: Annotated[Networking, Meta(description="Who may reach the nodes.")] = Networking()
    settings: Annotated[
        tuple[Setting, ...],
        Meta(
            description="Further settings of the nodes (docs/settings.md). A change restarts the nodes one by one.",
            max_length=SETTINGS_MAX,
        ),
    ] = ()

    @property
    def storage_bytes(self) -> int:
        """Size of a volume."""
        return parse_bytes(self.storage.size)

    @property
    def replace_after_s(self) -> float:
        """Seconds after which a dead member's running pod is replaced."""
        return parse_duration(self.recovery.replace_after)

    @property
    def grace_s(self) -> float:
        """Seconds for which a dead member keeps its copies."""
        return parse_duration(self.recovery.rereplicate_after)

    @property
    def move_bytes_per_s(self) -> int:
        """Bytes per second that a node may send of copies; 0: no limit."""
        return parse_bytes(self.moves.bytes_per_second)


# --- what is seen ------------------------------------------------------------------------------------------------


class Condition(Struct, frozen=True, rename="camel", kw_only=True):
    """One condition (KEP-1623). ``last_transition_time`` is when ``status`` changed last."""

    type: Annotated[str, Meta(max_length=316)]
    status: Annotated[Literal["True", "False", "Unknown"], Meta(description="True, False or Unknown.")]
    reason: Annotated[str, Meta(description="One CamelCase word of a closed set.", max_length=1024)] = ""
    message: Annotated[str, Meta(description="The same for people.", max_length=32768)] = ""
    observed_generation: Annotated[
        int, Meta(description="The generation of the resource that this was judged from.", ge=0)
    ] = 0
    last_transition_time: Annotated[
        str, Meta(description="When the status changed last.", extra_json_schema={"format": "date-time"})
    ] = ""


class ShardCounts(Struct, frozen=True, rename="camel", kw_only=True):
    """Shards by state; ``total`` is the sum of the others."""

    total: int = 0
    ok: Annotated[int, Meta(description="All copies are in sync, on living members, where they should be.")] = 0
    moving: Annotated[int, Meta(description="At full strength, and a copy is on its way.")] = 0
    under_replicated: Annotated[int, Meta(description="Written to and read from, with fewer copies than wanted.")] = 0
    unavailable: Annotated[int, Meta(description="No living primary, or too few copies to take a write.")] = 0


class PlanStatus(Struct, frozen=True, rename="camel", kw_only=True):
    """The plan that the leader carries out: so many of its changes are done, and so many bytes are still to be sent."""

    step: Annotated[int, Meta(description="Changes of copies that are done.")] = 0
    total: Annotated[int, Meta(description="Changes of copies in all.")] = 0
    moved_bytes: Annotated[int, Meta(description="Bytes that are still to be sent.")] = 0


class MemberStatus(Struct, frozen=True, rename="camel", kw_only=True):
    """A member as the cluster sees it."""

    name: Annotated[str, Meta(max_length=63)]
    state: Annotated[str, Meta(description="joining, alive, suspect, dead or left.", max_length=16)] = ""
    zone: Annotated[str, Meta(max_length=63)] = ""
    copies: int = 0
    primaries: int = 0


class StorageStatus(Struct, frozen=True, rename="camel", kw_only=True):
    """The disk with which a member was last known: written down before the member gets data or may leave.

    A volume is deleted only if this very disk has left the cluster, so a crash of the operator forgets nothing.
    """

    name: Annotated[str, Meta(max_length=63)]
    storage_id: Annotated[str, Meta(description="The disk's identity.", max_length=32)]
    has_left: Annotated[bool, Meta(description="Whether it has left the cluster, for good.")] = False


class ClusterStatus(Struct, frozen=True, rename="camel", kw_only=True):
    """What became of it. ``observed_generation`` is the generation that the operator acted on last."""

    observed_generation: int = 0
    replicas: Annotated[int, Meta(description="Pods of the StatefulSet that exist.")] = 0
    ready_replicas: Annotated[int, Meta(description="Of these, pods that are ready.")] = 0
    selector: Annotated[str, Meta(description="The pods of the StatefulSet, for scalers.", max_length=512)] = ""
    cluster_id: Annotated[str, Meta(description="Identity of the data; set once.", max_length=32)] = ""
    leader: Annotated[str, Meta(description="The Raft leader.", max_length=63)] = ""
    map_version: Annotated[
        int, Meta(description="Version of the shard map.", extra_json_schema={"format": "int64"})
    ] = 0
    shards: Annotated[ShardCounts, Meta(description="Shards by state.")] = ShardCounts()
    plan: Annotated[PlanStatus, Meta(description="The plan being carried out.")] = PlanStatus()
    members: Annotated[
        tuple[MemberStatus, ...], Meta(description="Members by name.", max_length=STATUS_MEMBERS_MAX)
    ] = ()
    storages: Annotated[
        tuple[StorageStatus, ...],
        Meta(description="The disk of each member that has a volume.", max_length=STATUS_MEMBERS_MAX),
    ] = ()
    conditions: Annotated[
        tuple[Condition, ...], Meta(description="Ready, Available, Progressing and Degraded.", max_length=16)
    ] = ()

    def condition(self, type_: str) -> Condition | None:
        """Return a condition by its type."""
        return next((condition for condition in self.conditions if condition.type == type_), None)


class ClusterResource(Struct, frozen=True, kw_only=True):
    """A ``Cluster`` as it was read: who it is, what is wanted and what was shown last."""

    name: str
    namespace: str
    uid: str = ""
    generation: int = 1
    version: str = ""
    spec: ClusterSpec = ClusterSpec()
    status: ClusterStatus = ClusterStatus()
    annotations: dict[str, str] = {}
    created: str = ""
    is_deleting: bool = False


class InvalidSpec(ValueError):
    """A spec that cannot be acted on. ``offences``: one sentence for each; nothing was done about any of it."""

    def __init__(self, offences: tuple[str, ...]) -> None:
        super().__init__("; ".join(offences))
        self.offences = offences


# --- from and to API JSON ----------------------------------------------------------------------------------------


def decode_cluster(manifest: Mapping[str, Any]) -> ClusterResource:
    """Return the resource as a value. Raises ``InvalidSpec`` with every offence against the rules."""
    metadata = manifest.get("metadata") or {}
    spec = decode_spec(manifest.get("spec") or {})
    offences = offences_of(str(metadata.get("name", "")), spec)
    if offences:
        raise InvalidSpec(offences)
    return ClusterResource(
        name=metadata["name"],
        namespace=metadata.get("namespace", "default"),
        uid=metadata.get("uid", ""),
        generation=metadata.get("generation", 1),
        version=metadata.get("resourceVersion", ""),
        spec=spec,
        status=decode_status(manifest.get("status")),
        annotations=dict(metadata.get("annotations") or {}),
        created=str(metadata.get("creationTimestamp") or ""),
        is_deleting=bool(metadata.get("deletionTimestamp")),
    )


def decode_spec(spec: Mapping[str, Any]) -> ClusterSpec:
    """Return the spec as a value, defaults filled in. Raises ``InvalidSpec`` where a field has a wrong type or bound."""
    try:
        return msgspec.convert(_without_nulls(spec), ClusterSpec)
    except msgspec.ValidationError as error:
        raise InvalidSpec((_sentence(str(error)),)) from error


def decode_status(status: Mapping[str, Any] | None) -> ClusterStatus:
    """Return the status as a value. One that nobody of ours wrote is taken for none: it is made anew from what is seen."""
    try:
        return msgspec.convert(_without_nulls(status or {}), ClusterStatus)
    except msgspec.ValidationError:
        return ClusterStatus()


def status_json(status: ClusterStatus) -> dict[str, Any]:
    """Return the status as API JSON, every field there: so what is written is what is read."""
    built: dict[str, Any] = msgspec.to_builtins(status)
    return built


def time_text(now: float) -> str:
    """Return a unix time as Kubernetes writes it: UTC, whole seconds."""
    return datetime.fromtimestamp(int(now), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _without_nulls(value: Any) -> Any:
    """Leave out what is null, as the API server does before it fills in defaults."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    return value


def _sentence(error: str) -> str:
    """Make ``Expected `int` >= 1 - at `$.replicas``` a sentence that begins with the field."""
    text, _, path = error.partition(" - at ")
    field = path.strip("`").removeprefix("$").lstrip(".")
    return f"spec.{field}: {text[:1].lower()}{text[1:]}".replace("`", "") if field else f"spec: {text}".replace("`", "")


# --- rules between fields ----------------------------------------------------------------------------------------


def offences_of(name: str, spec: ClusterSpec, before: ClusterSpec | None = None) -> tuple[str, ...]:
    """Return what is wrong with a spec, one sentence for each offence; ``before`` is the spec that it replaces."""
    found = []
    if len(name) > NAME_MAX or not re.fullmatch(NAME_PATTERN, name):
        found.append(NAME_RULE)
    if spec.min_in_sync > spec.replication_factor:
        found.append(MIN_IN_SYNC_RULE)
    if spec.shards not in SHARDS_ALLOWED:
        found.append(SHARDS_RULE)
    if _amount_of(spec.storage.size) < SIZE_MIN_BYTES:
        found.append(SIZE_RULE)
    if not 0 <= _amount_of(spec.moves.bytes_per_second) <= BYTES_PER_S_MAX:
        found.append(SPEED_RULE)
    if any(setting.name in SETTINGS_FIXED for setting in spec.settings):
        found.append(SETTINGS_RULE)
    if any(label.startswith(OUR_PREFIXES) for label in spec.pods.labels):
        found.append(LABELS_RULE)
    if any(label.startswith(OUR_PREFIXES) for label in spec.monitoring.labels):
        found.append(MONITORING_LABELS_RULE)
    if any(variable.name.startswith("RINGKEEP_") or variable.name == OUR_VARIABLE for variable in spec.pods.env):
        found.append(ENV_RULE)
    if before is not None:
        if spec.shards != before.shards:
            found.append(SHARDS_IMMUTABLE)
        if _amount_of(spec.storage.size) < _amount_of(before.storage.size):
            found.append(SIZE_SHRINKS)
        if spec.storage.class_name != before.storage.class_name:
            found.append(CLASS_IMMUTABLE)
    return tuple(found)


def _amount_of(text: str) -> int:
    """Return whole bytes; -1 if it is no such amount."""
    try:
        return parse_bytes(text)
    except ValueError:
        return -1


NAME_RULE = (
    f"metadata.name must be a lower-case label of at most {NAME_MAX} characters that begins with a letter: "
    "pods and services are named after it"
)
MIN_IN_SYNC_RULE = "minInSync must not be above replicationFactor: no shard could ever take a write"
SHARDS_RULE = "shards must be a power of two, 16..65536"
SHARDS_IMMUTABLE = "shards cannot be changed: every user's place depends on it"
SIZE_RULE = "storage.size must be at least 64Mi, in whole bytes"
SIZE_SHRINKS = "storage.size must not shrink: volumes can only grow"
CLASS_IMMUTABLE = "storage.className cannot be changed: volumes stay in their class"
SPEED_RULE = "moves.bytesPerSecond must be at most 1Ti, in whole bytes"
SETTINGS_RULE = f"settings cannot name {', '.join(SETTINGS_FIXED)}: the operator makes these, or a Secret has them"
LABELS_RULE = f"pods.labels cannot begin with {' or '.join(OUR_PREFIXES)}: Services find the pods by these"
MONITORING_LABELS_RULE = f"monitoring.labels cannot begin with {' or '.join(OUR_PREFIXES)}: these are the operator's"
ENV_RULE = (
    f"pods.env cannot name RINGKEEP_* or {OUR_VARIABLE}: settings has the former, and the operator makes the latter"
)
