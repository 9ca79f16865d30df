"""One look at a cluster: everything that a pass decides from, read anew.

    API server: the resource, its labelled children, pods, claims, then what these refer to (Nodes, volumes, classes)
    nodes:      who answers, and the cluster as the leader, or whoever knows most, sees it
                                                                                 --> Observed(seen, where to ask changes)

Lists are by label and live (no cache), so a pass never decides from anything older than its own last write. What is not
of the cluster's namespace may be forbidden to us; then zones, lost Nodes and classes are simply not known.

Source: reference/operator.md (b): level-based; findings 4, 10.
"""

from __future__ import annotations

import asyncio
import secrets
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ringkeep_core.resource import ClusterResource, decode_cluster
from ringkeep_operator.kube import Api, Changed, Denied, Json, Missing
from ringkeep_operator.nodes import Answering, Nodes
from ringkeep_operator.queueing import Key
from ringkeep_operator.reading import condition_of, has_default_class, only_node_of, pods_of, volume_name, volumes_of
from ringkeep_operator.state import Refusal, Seen, SeenPod, SeenVolume

CLUSTER_LABEL = "ringkeep.dev/cluster"
CHILD_KINDS = ("StatefulSet", "Service", "ServiceAccount", "ConfigMap", "PodDisruptionBudget", "NetworkPolicy")
KEPT_S = 10.0
"""So long what a Node or a class said is taken for true."""
NODES_KEPT_MAX = 5_000
TOKEN_KEY = "token"  # noqa: S105 - the name of a field
T = TypeVar("T")


def selector_of(name: str) -> str:
    """Return the label selector of everything that belongs to a cluster."""
    return f"{CLUSTER_LABEL}={name}"


def cluster_of(manifest: Mapping[str, Any]) -> Key | None:
    """Return the cluster that an object belongs to by its label, or None."""
    metadata = manifest.get("metadata") or {}
    name = (metadata.get("labels") or {}).get(CLUSTER_LABEL)
    return (str(metadata.get("namespace", "")), str(name)) if name else None


def token_secret_of(name: str) -> str:
    """Return the name of the Secret with the administration token of a cluster's nodes."""
    return f"{name}-admin"


@dataclass(frozen=True, slots=True)
class Observed:
    """What a pass saw. ``answering`` are the nodes that can be asked for changes, the best first; ``raw`` the resource."""

    seen: Seen
    raw: Json
    answering: tuple[Answering, ...]
    token: str

    @property
    def resource(self) -> ClusterResource:
        """The resource as a value."""
        return self.seen.resource


class Kept:
    """What was read of objects that are not ours, for some seconds. ``None`` is kept too: there is none, or none for us."""

    def __init__(self, clock: Callable[[], float], kept_s: float = KEPT_S) -> None:
        self._clock, self._kept_s = clock, kept_s
        self._known: dict[str, tuple[float, Any]] = {}

    def get(self, name: str) -> tuple[bool, Any]:
        """Return whether this is known, and what."""
        at, value = self._known.get(name, (float("-inf"), None))
        return self._clock() - at < self._kept_s, value

    def put(self, name: str, value: Any) -> None:
        """Keep this."""
        if len(self._known) >= NODES_KEPT_MAX:
            self._known.clear()
        self._known[name] = (self._clock(), value)


@dataclass(frozen=True, slots=True)
class _Node:
    """What a pass needs of a Kubernetes Node; its images and the rest are forgotten at once."""

    labels: Mapping[str, str]
    is_ready: bool


@dataclass(frozen=True, slots=True)
class _Machines:
    zones: Mapping[str, str]
    gone: frozenset[str]
    down: frozenset[str]


class Observer:
    """Looks at clusters. ``now`` is unix time, ``clock`` monotonic."""

    def __init__(self, api: Api, nodes: Nodes, *, now: Callable[[], float], clock: Callable[[], float]) -> None:
        self._api, self._nodes, self._now = api, nodes, now
        self._machines, self._classes = Kept(clock), Kept(clock)
        self._volumes = Kept(clock, kept_s=float("inf"))  # A volume's Node never changes.

    async def resource(self, key: Key) -> Json | None:
        """Return the resource as it is now, or None if there is none."""
        return await self._api.get("Cluster", *key)

    async def observe(self, raw: Json, refusal: Refusal | None, foreign: frozenset[tuple[str, str]]) -> Observed:
        """Look at everything. Raises ``InvalidSpec`` if the spec breaks a rule, ``ApiError`` if something cannot be read."""
        resource = decode_cluster(raw)
        namespace, selector = resource.namespace, selector_of(resource.name)
        kinds = [*CHILD_KINDS, *(["ServiceMonitor"] if resource.spec.monitoring.service_monitor else [])]
        lists = await _all([self._list(kind, namespace, selector) for kind in (*kinds, "Pod", "PersistentVolumeClaim")])
        *children, pod_list, claims = lists
        pods = pods_of(pod_list)
        answering, machines, volumes, token, has_class = await asyncio.gather(
            self._nodes.answering(pods),
            self._machines_of(resource.spec.placement.zone_key, pods),
            self._volumes_of(claims),
            self._token(resource),
            self._has_class(resource),
        )
        lost = await self._machines_of("", volumes)
        cluster = await self._nodes.cluster(answering)
        seen = Seen(
            resource=resource,
            now=self._now(),
            children={
                (kind, child["metadata"]["name"]): {"kind": kind, **child}
                for kind, found in zip(kinds, children, strict=True)
                for child in found
            },
            foreign=await self._still_foreign(foreign, namespace, resource.name),
            pods=pods,
            volumes=volumes,
            zones=machines.zones,
            nodes_gone=machines.gone | lost.gone,
            nodes_down=machines.down | lost.down,
            answering=tuple(one.node for one in answering),
            cluster=cluster,
            refusal=refusal,
            has_storage_class=has_class,
        )
        return Observed(seen, raw, answering, token)

    async def _list(self, kind: str, namespace: str, selector: str) -> tuple[Json, ...]:
        try:
            return (await self._api.list(kind, namespace, selector)).items
        except Missing:
            return ()  # The kind is not installed (ServiceMonitor).

    async def is_foreign(self, kind: str, namespace: str, name: str, cluster: str) -> bool:
        """Return whether there is an object of this name that does not belong to the cluster."""
        found = await self._api.get(kind, namespace, name)
        return found is not None and cluster_of(found) != (namespace, cluster)

    async def _still_foreign(
        self, names: Iterable[tuple[str, str]], namespace: str, cluster: str
    ) -> frozenset[tuple[str, str]]:
        return frozenset(
            [(kind, name) for kind, name in names if await self.is_foreign(kind, namespace, name, cluster)]
        )

    # --- what is not of our namespace

    async def _machines_of(self, zone_key: str, seen: Sequence[SeenPod | SeenVolume]) -> _Machines:
        zones, gone, down = {}, set(), set()
        for name in sorted({one.node for one in seen if one.node}):
            is_known, node = self._machines.get(name)
            if not is_known:
                node = await self._node(name)
                self._machines.put(name, node)
            if node == "denied":
                continue
            if node is None:
                gone.add(name)
                continue
            if not node.is_ready:
                down.add(name)
            if zone_key and node.labels.get(zone_key):
                zones[name] = node.labels[zone_key]
        return _Machines(zones, frozenset(gone), frozenset(down))

    async def _node(self, name: str) -> _Node | None | str:
        try:
            found = await self._api.get("Node", "", name)
        except Denied:
            return "denied"
        if found is None:
            return None
        labels = dict(found["metadata"].get("labels") or {})
        return _Node(labels, condition_of(found.get("status") or {}, "Ready") == "True")

    async def _volumes_of(self, claims: Sequence[Json]) -> tuple[SeenVolume, ...]:
        nodes: dict[str, str] = {}
        for name in sorted({volume_name(claim) for claim in claims} - {""}):
            is_known, node = self._volumes.get(name)
            if not is_known:
                try:
                    volume = await self._api.get("PersistentVolume", "", name)
                except Denied:
                    volume = None
                node = only_node_of(volume or {})
                self._volumes.put(name, node)
            nodes[name] = node
        return volumes_of(claims, nodes)

    async def _has_class(self, resource: ClusterResource) -> bool:
        wanted = resource.spec.storage.class_name
        if wanted == "":
            return True  # Asks for volumes that somebody made by hand.
        is_known, has = self._classes.get(wanted or "")
        if is_known:
            return bool(has)
        try:
            if wanted is not None:
                has = await self._api.get("StorageClass", "", wanted) is not None
            else:
                has = has_default_class((await self._api.list("StorageClass")).items)
        except Denied:
            has = True
        self._classes.put(wanted or "", has)
        return bool(has)

    # --- the token

    async def _token(self, resource: ClusterResource) -> str:
        """Return the nodes' administration token; make one, once, if there is none yet."""
        namespace, name = resource.namespace, token_secret_of(resource.name)
        found = await self._api.get("Secret", namespace, name)
        if found is None and not resource.is_deleting and not resource.spec.paused:
            try:
                found = await self._api.create(_secret_of(resource, name, secrets.token_urlsafe(32)), namespace)
            except Changed:
                found = await self._api.get("Secret", namespace, name)
        data = (found or {}).get("data") or {}
        return b64decode(data.get(TOKEN_KEY, "")).decode().strip()


def _secret_of(resource: ClusterResource, name: str, token: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": resource.namespace,
            "labels": {CLUSTER_LABEL: resource.name},
            "ownerReferences": [owner_reference(resource)],
        },
        "type": "Opaque",
        "data": {TOKEN_KEY: b64encode(token.encode()).decode()},
    }


def owner_reference(resource: ClusterResource) -> Json:
    """Return what makes an object of the namespace go with the resource."""
    return {
        "apiVersion": "ringkeep.dev/v1alpha1",
        "kind": "Cluster",
        "name": resource.name,
        "uid": resource.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


async def _all(reads: Sequence[Any]) -> list[Any]:
    """Wait for all, and leave none running when one fails."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(read) for read in reads]
    return [task.result() for task in tasks]
