"""From the API server's JSON to what the planner sees. Pure: nothing here asks anybody.

A field that is missing is as if it were not set, and an object that cannot be understood is left out: the API server has
checked the shapes, but pods of ours may be edited by anybody.

Source: Kubernetes API reference (Pod, PersistentVolumeClaim, PersistentVolume, Node, Event).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ringkeep_core.quantities import parse_bytes
from ringkeep_core.resource import GROUP, KIND
from ringkeep_operator.state import ObjectId, SeenPod, SeenVolume

DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
HOSTNAME = "kubernetes.io/hostname"
DETAIL_MAX = 512
# "create Pod demo-1 in StatefulSet demo failed error: ...", "... successful"; of its claim "... success".
_MADE = re.compile(r"create (?:Claim \S+ )?Pod (\S+) in StatefulSet \S+ (?:failed error: (.+)|success)", re.DOTALL)


def identity(kind: str, manifest: Mapping[str, Any]) -> ObjectId:
    """Return which object this is, in which state."""
    metadata = manifest.get("metadata") or {}
    return ObjectId(
        kind, str(metadata.get("name", "")), str(metadata.get("uid", "")), str(metadata.get("resourceVersion", ""))
    )


def ordinal_of(name: str) -> int | None:
    """Return the number at the end of a name that a StatefulSet gave, or None."""
    _, dash, digits = name.rpartition("-")
    return int(digits) if dash and digits.isdigit() and len(digits) <= 6 else None


def pods_of(manifests: Iterable[Mapping[str, Any]]) -> tuple[SeenPod, ...]:
    """Return the pods that have an ordinal, by name."""
    seen = (_pod(manifest) for manifest in manifests)
    return tuple(sorted((pod for pod in seen if pod is not None), key=lambda pod: pod.name))


def _pod(manifest: Mapping[str, Any]) -> SeenPod | None:
    metadata, status = manifest.get("metadata") or {}, manifest.get("status") or {}
    who = identity("Pod", manifest)
    ordinal = ordinal_of(who.name)
    if ordinal is None:
        return None
    waiting, detail = _why_it_waits(status)
    return SeenPod(
        name=who.name,
        uid=who.uid,
        version=who.version,
        ordinal=ordinal,
        node=str((manifest.get("spec") or {}).get("nodeName") or ""),
        ip=str(status.get("podIP") or ""),
        phase=str(status.get("phase") or "Pending"),
        is_ready=condition_of(status, "Ready") == "True",
        is_deleting=bool(metadata.get("deletionTimestamp")),
        revision=str((metadata.get("labels") or {}).get("controller-revision-hash", "")),
        waiting=waiting,
        detail=detail[:DETAIL_MAX],
        since=seconds_of(str(metadata.get("creationTimestamp") or "")),
        owner=next((str(one.get("uid")) for one in metadata.get("ownerReferences") or () if one.get("controller")), ""),
    )


def _why_it_waits(status: Mapping[str, Any]) -> tuple[str, str]:
    containers = [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]
    for container in containers:
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason = str(waiting.get("reason") or "")
        # A container that is being made waits for nothing that could be told.
        if reason and reason not in ("ContainerCreating", "PodInitializing"):
            return reason, str(waiting.get("message") or "")
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return str(condition.get("reason") or "Unschedulable"), str(condition.get("message") or "")
    return "", ""


def why_not_made(events: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return why pods cannot be made, by pod: from what a StatefulSet's controller said last about making each."""
    last: dict[str, tuple[float, str]] = {}
    for event in events:
        said = _MADE.search(str(event.get("message") or ""))
        if said is None:
            continue
        pod, why, at = said[1], said[2] or "", _told_at(event)
        if at >= last.get(pod, (0.0, ""))[0]:
            last[pod] = (at, why)
    return {pod: why[:DETAIL_MAX] for pod, (_, why) in last.items() if why}


def _told_at(event: Mapping[str, Any]) -> float:
    """Return when an event was told last; one that is told often is one object with a count."""
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    return max(seconds_of(str(time or "")) for time in times)


def condition_of(status: Mapping[str, Any], type_: str) -> str:
    """Return the status of a condition: True, False or Unknown; "" if there is none."""
    for condition in status.get("conditions") or ():
        if condition.get("type") == type_:
            return str(condition.get("status") or "")
    return ""


def volumes_of(manifests: Iterable[Mapping[str, Any]], nodes: Mapping[str, str]) -> tuple[SeenVolume, ...]:
    """Return the claims that have an ordinal, by name; ``nodes``: the only Node that can mount it, by PersistentVolume."""
    seen = []
    for manifest in manifests:
        who = identity("PersistentVolumeClaim", manifest)
        ordinal = ordinal_of(who.name)
        if ordinal is None:
            continue
        seen.append(
            SeenVolume(
                name=who.name,
                uid=who.uid,
                version=who.version,
                ordinal=ordinal,
                phase=str((manifest.get("status") or {}).get("phase") or "Pending"),
                is_deleting=bool((manifest.get("metadata") or {}).get("deletionTimestamp")),
                node=nodes.get(volume_name(manifest), ""),
                requested=_bytes_of((manifest.get("spec") or {}).get("resources") or {}, "requests"),
                capacity=_bytes_of(manifest.get("status") or {}, "capacity"),
                owners=owners_of(manifest),
                since=seconds_of(str((manifest.get("metadata") or {}).get("creationTimestamp") or "")),
            )
        )
    return tuple(sorted(seen, key=lambda volume: volume.name))


def uid_of(manifest: Mapping[str, Any]) -> str:
    """Return an object's uid, "" if it says none."""
    return str((manifest.get("metadata") or {}).get("uid", ""))


def owners_of(manifest: Mapping[str, Any]) -> frozenset[str]:
    """Return the uids of the Clusters that an object is deleted with."""
    owners = (manifest.get("metadata") or {}).get("ownerReferences") or ()
    ours = [owner for owner in owners if owner.get("kind") == KIND and _group_of(owner) == GROUP]
    return frozenset(str(owner.get("uid", "")) for owner in ours)


def _group_of(owner: Mapping[str, Any]) -> str:
    return str(owner.get("apiVersion", "")).partition("/")[0]


def _bytes_of(part: Mapping[str, Any], field: str) -> int:
    try:
        return parse_bytes(str((part.get(field) or {}).get("storage") or "0"))
    except ValueError:
        return 0


def volume_name(claim: Mapping[str, Any]) -> str:
    """Return the PersistentVolume of a claim, "" while it has none."""
    return str((claim.get("spec") or {}).get("volumeName") or "")


@dataclass(frozen=True, slots=True)
class OnlyNode:
    """The one Node that can mount a volume: by its name, or by its label ``kubernetes.io/hostname``, which may differ."""

    name: str = ""
    hostname: str = ""


def only_node_of(volume: Mapping[str, Any]) -> OnlyNode:
    """Return the one Node that can mount a PersistentVolume; nothing if several can."""
    required = ((volume.get("spec") or {}).get("nodeAffinity") or {}).get("required") or {}
    terms = list(required.get("nodeSelectorTerms") or ())
    if len(terms) != 1:
        return OnlyNode()
    for rule in terms[0].get("matchFields") or ():
        if rule.get("key") == "metadata.name" and (name := _only_value(rule)):
            return OnlyNode(name=name)
    for rule in terms[0].get("matchExpressions") or ():
        if rule.get("key") == HOSTNAME and (hostname := _only_value(rule)):
            return OnlyNode(hostname=hostname)
    return OnlyNode()


def _only_value(rule: Mapping[str, Any]) -> str:
    values = list(rule.get("values") or ())
    return str(values[0]) if rule.get("operator") == "In" and len(values) == 1 else ""


def has_default_class(classes: Iterable[Mapping[str, Any]]) -> bool:
    """Return whether volumes that name no class get one."""
    return any(((one.get("metadata") or {}).get("annotations") or {}).get(DEFAULT_CLASS) == "true" for one in classes)


def seconds_of(text: str) -> float:
    """Return a time as Kubernetes writes it as unix seconds, 0 if it is none."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0
