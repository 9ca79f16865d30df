"""One look at a cluster: everything that a pass decides from, read anew.

    API server: the resource, its labelled children, pods, claims, then what these refer to (Nodes, volumes, classes)
    nodes:      who answers, and the cluster as the leader, or whoever knows most, sees it
                                                                                 --> Observed(seen, where to ask changes)

Lists are by label and live (no cache), so a pass never decides from anything older than its own last write. What is not
of the cluster's namespace may be forbidden to us; then zones, lost Nodes and classes are simply not known.

Source: Kubernetes API concepts ("Resource versions"); Sieve (OSDI 2022): operators fail by what they saw too early.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ringkeep_core.resource import ClusterResource, decode_cluster
from ringkeep_operator.kube import Api, Denied, Json, Missing
from ringkeep_operator.naming import CLUSTER_LABEL, TOKEN_KEY, Names
from ringkeep_operator.nodes import Answering, Nodes
from ringkeep_operator.queueing import Key
from ringkeep_operator.reading import (
    HOSTNAME,
    condition_of,
    has_default_class,
    only_node_of,
    pods_of,
    volume_name,
    volumes_of,
    why_not_made,
)
from ringkeep_operator.state import Refusal, Seen, SeenPod, SeenVolume

CHILD_KINDS = ("StatefulSet", "Service", "ServiceAccount", "ConfigMap", "PodDisruptionBudget", "NetworkPolicy")
MONITOR_KIND = "ServiceMonitor"
WATCHED_KINDS = (*CHILD_KINDS, "Pod", "PersistentVolumeClaim")
KEPT_S = 10.0
"""So long what a Node or a class said is taken for true."""
TOLD_KEPT_S = 3.0
"""So long what events say of pods that are missing: the API server goes through all of a namespace for an answer."""
KEPT_MAX = 5_000


def cluster_of(manifest: Mapping[str, Any]) -> Key | None:
    """Return the cluster that an object belongs to by its label, or None."""
    metadata = manifest.get("metadata") or {}
    name = (metadata.get("labels") or {}).get(CLUSTER_LABEL)
    return (str(metadata.get("namespace", "")), str(name)) if name else None


@dataclass(frozen=True, slots=True)
class Observed:
    """What a pass saw. ``answering`` are the nodes that can be asked for changes, the best first; ``raw`` the resource.

    ``at`` is when, on the observer's clock.
    """

    seen: Seen
    raw: Json
    answering: tuple[Answering, ...]
    token: str
    at: float = 0.0

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
        if len(self._known) >= KEPT_MAX:
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
        self._api, self._nodes, self._now, self._clock = api, nodes, now, clock
        self._machines, self._classes, self._installed = Kept(clock), Kept(clock), Kept(clock)
        self._told = Kept(clock, kept_s=TOLD_KEPT_S)
        self._volumes = Kept(clock, kept_s=float("inf"))  # A volume's Node never changes.

    async def resource(self, key: Key) -> Json | None:
        """Return the resource as it is now, or None if there is none."""
        return await self._api.get("Cluster", *key)

    async def observe(self, raw: Json, refusal: Refusal | None) -> Observed:
        """Look at everything. Raises ``InvalidSpec`` if the spec breaks a rule, ``ApiError`` if something cannot be read."""
        resource = decode_cluster(raw)
        # One that is wanted no more must be seen to be removed.
        kinds = [*CHILD_KINDS, MONITOR_KIND]
        listed = await _all([self._list(kind, resource) for kind in (*kinds, "Pod", "PersistentVolumeClaim")])
        *lists, pod_list, claims = listed
        children = {
            (kind, str(child["metadata"]["name"])): child
            for kind, found in zip(kinds, lists, strict=True)
            for child in found
        }
        pods = pods_of(pod_list)
        answering, machines, volumes, foreign, has_class = await _all(
            [
                self._nodes.answering(pods),
                self._machines_of(resource.spec.placement.zone_key, pods),
                self._volumes_of(claims),
                self._look_up(resource, children, kinds if resource.spec.monitoring.service_monitor else CHILD_KINDS),
                self._has_class(resource),
            ]
        )
        lost, not_made, cluster = await _all(
            [
                self._machines_of("", volumes),
                self._not_made(resource, children, {pod.name for pod in pods}),
                self._nodes.cluster(answering, resource.status.cluster_id),
            ]
        )
        secret = children.get(("Secret", Names(resource.name, resource.namespace).secret), {})
        seen = Seen(
            resource=resource,
            now=self._now(),
            children=children,
            foreign=foreign,
            pods=pods,
            volumes=volumes,
            zones=machines.zones,
            nodes_gone=machines.gone | lost.gone,
            nodes_down=machines.down | lost.down,
            not_made=not_made,
            answering=tuple(one.node for one in answering),
            cluster=cluster,
            refusal=refusal,
            has_storage_class=has_class,
        )
        return Observed(seen, raw, answering, token_of(secret), self._clock())

    async def _list(self, kind: str, resource: ClusterResource) -> tuple[Json, ...]:
        is_wanted = kind != MONITOR_KIND or resource.spec.monitoring.service_monitor
        if not is_wanted and self._installed.get(kind) == (True, False):
            return ()
        try:
            found = (await self._api.list(kind, resource.namespace, f"{CLUSTER_LABEL}={resource.name}")).items
        except Missing:
            self._installed.put(kind, False)
            return ()
        self._installed.put(kind, True)
        return found

    async def _look_up(
        self, resource: ClusterResource, children: dict[tuple[str, str], Json], kinds: Sequence[str]
    ) -> frozenset[tuple[str, str]]:
        """Return which of the names that we may need belong to somebody else; add the Secret, which is never listed."""
        names = Names(resource.name, resource.namespace).all()
        wanted = [one for one in names if one not in children and one[0] in (*kinds, "Secret")]
        found = await _all([self._api.get(kind, resource.namespace, name) for kind, name in wanted])
        foreign = set()
        for who, manifest in zip(wanted, found, strict=True):
            if manifest is None:
                continue
            if cluster_of(manifest) != (resource.namespace, resource.name):
                foreign.add(who)
            else:
                children[who] = manifest
        return frozenset(foreign)

    async def _not_made(
        self, resource: ClusterResource, children: Mapping[tuple[str, str], Json], there: set[str]
    ) -> Mapping[str, str]:
        """Return why pods that should be there cannot be made. Only who misses one asks, and not too often."""
        found: dict[str, str] = {}
        for (kind, name), child in children.items():
            replicas = (child.get("spec") or {}).get("replicas") or 0
            missing = {f"{name}-{ordinal}" for ordinal in range(replicas)} - there if kind == "StatefulSet" else set()
            if missing:
                told = await self._told_of(resource.namespace, str(child["metadata"].get("uid", "")))
                found |= {pod: why for pod, why in told.items() if pod in missing}
        return found

    async def _told_of(self, namespace: str, uid: str) -> Mapping[str, str]:
        is_known, told = self._told.get(uid)
        if not is_known:
            try:
                events = await self._api.list("Event", namespace, fields=f"involvedObject.uid={uid}")
                told = why_not_made(events.items)
            except Denied:
                told = {}
            self._told.put(uid, told)
        return dict(told)

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

    async def _node(self, name: str) -> _Node | str | None:
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
            is_known, place = self._volumes.get(name)
            if not is_known:
                is_known, place = self._classes.get(f"volume {name}")
            if not is_known:
                try:
                    volume = await self._api.get("PersistentVolume", "", name)
                except Denied:
                    volume = None
                place = only_node_of(volume or {})
                if volume is not None:
                    self._volumes.put(name, place)
                else:
                    # None yet, or none for us: a right may be given later.
                    self._classes.put(f"volume {name}", place)
            nodes[name] = place.name or await self._name_of(place.hostname)
        return volumes_of(claims, nodes)

    async def _name_of(self, hostname: str) -> str:
        """Return the name of the Node with this host name: the host name itself if there is none, "" if nobody says."""
        if not hostname:
            return ""
        is_known, name = self._machines.get(f"host {hostname}")
        if not is_known:
            try:
                found = (await self._api.list("Node", selector=f"{HOSTNAME}={hostname}", metadata_only=True)).items
                name = str(found[0]["metadata"]["name"]) if found else hostname
            except Denied:
                name = ""
            self._machines.put(f"host {hostname}", name)
        return str(name)

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


def token_of(secret: Mapping[str, Any]) -> str:
    """Return the administration token in a Secret, "" if there is none."""
    data = secret.get("data") or {}
    try:
        return b64decode(data.get(TOKEN_KEY) or "").decode().strip()
    except ValueError:
        return ""


async def _all(reads: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Wait for all of them; when one fails, end the others and raise its error as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(read) for read in reads]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return [task.result() for task in tasks]
