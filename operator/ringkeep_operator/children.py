"""Which objects to apply, which to remove, and which are not ours to touch.

An object is applied only if it lacks something (``drift``). What another owner has under a name that we need is said in
the conditions and left alone, whatever stands still because of it.

Source: Kubernetes, "Server-Side Apply"; docs/kubernetes.md, "What belongs to a cluster".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ringkeep_operator import manifests
from ringkeep_operator.drift import is_as_wanted
from ringkeep_operator.naming import TOKEN_KEY
from ringkeep_operator.reading import owners_of, uid_of
from ringkeep_operator.scaling import grown_volumes, owned_volumes, set_size
from ringkeep_operator.state import Action, Apply, CreateSecret, Delete, ObjectId
from ringkeep_operator.view import Note, Outcome, Reason, View


def foundations(view: View) -> Outcome:
    """Return the objects that pods need before they start, then the pods' sets."""
    actions: list[Action] = []
    secret = ("Secret", view.names.secret)
    if secret not in view.seen.children and secret not in view.seen.foreign:
        actions.append(CreateSecret(manifests.secret(view.resource), TOKEN_KEY))
    constants = manifests.constants_of(view.resource)
    actions += _applied(view, constants)
    actions += _removed(view, "PodDisruptionBudget", is_wanted=manifests.wants_budget(view.resource))
    actions += _removed(view, "NetworkPolicy", is_wanted=view.spec.network_policy.enabled)
    actions += _applied(view, sets_of(view))
    notes = (Note(Reason.APPLYING, f"applying {', '.join(_named(actions))}"),) if actions else ()
    return Outcome(actions=tuple(actions), under_way=notes, wrong=_foreign(view), soon_s=1.0 if actions else None)


def former_objects(view: View) -> list[str]:
    """Return what belongs to a deleted Cluster of this name, and goes soon; what has no owner is people's, and ours.

    Its Secret has a token that new pods must not begin with, its pods say that they have a cluster, and its volumes are
    about to be deleted: a new Cluster that took any of them over would lose it again.
    """
    uid = view.resource.uid
    found = [
        f"{kind} {name}"
        for (kind, name), live in sorted(view.seen.children.items())
        if (owners := owners_of(live)) and uid not in owners
    ]
    found += [f"volume {one.name}" for one in view.volumes.values() if one.owners and uid not in one.owners]
    if not view.status.cluster_id:
        made_by = {uid_of(live) for group in view.groups if (live := view.live_set(group)) is not None}
        found += [f"pod {pod.name}" for pod in view.pods.values() if pod.owner and pod.owner not in made_by]
    return found


def extras(view: View) -> Outcome:
    """Return what the cluster works without, and what may fail for a reason that is not ours: it comes last."""
    actions: list[Action] = []
    if view.spec.monitoring.service_monitor:
        actions += _applied(view, [manifests.service_monitor(view.resource)])
    actions += _removed(view, "ServiceMonitor", is_wanted=view.spec.monitoring.service_monitor)
    is_owned = view.spec.storage.retain.when_deleted == "Delete"
    actions += [
        Apply(manifests.owned_claim(view.resource, volume.name, volume.uid, is_owned=is_owned), part="owner")
        for volume in owned_volumes(view)
    ]
    growing = grown_volumes(view)
    actions += [Apply(manifests.grown_claim(view.resource, volume.name)) for volume in growing]
    notes = (Note(Reason.APPLYING, f"growing {', '.join(volume.name for volume in growing)}"),) if growing else ()
    return Outcome(actions=tuple(actions), under_way=notes)


def sets_of(view: View) -> list[manifests.Json]:
    """Return the StatefulSets; that of gateways only if there are, or were, any."""
    nodes, gateways = view.groups
    wanted = [manifests.nodes_set(view.resource, set_size(view, nodes), _live_claim(view))]
    if view.spec.gateways or view.live_set(gateways) is not None:
        wanted.append(manifests.gateways_set(view.resource, set_size(view, gateways)))
    return wanted


def set_is_applied(view: View, component: str) -> bool:
    """Return whether a group's live StatefulSet is as wanted: before that its revision says nothing of the spec."""
    for wanted in sets_of(view):
        name = str(wanted["metadata"]["name"])
        if name == next(group.set_name for group in view.groups if group.component == component):
            return is_as_wanted(wanted, view.seen.children.get(("StatefulSet", name)))
    return True


def _live_claim(view: View) -> manifests.Json | None:
    """Return the live template of the volumes, which cannot be changed."""
    live: Any = view.live_set(view.names.nodes) or {}
    templates = (live.get("spec") or {}).get("volumeClaimTemplates") or ()
    return dict(templates[0]) if templates else None


def _applied(view: View, wanted: list[manifests.Json]) -> list[Action]:
    actions: list[Action] = []
    for manifest in wanted:
        key = (str(manifest["kind"]), str(manifest["metadata"]["name"]))
        if key not in view.seen.foreign and not is_as_wanted(manifest, view.seen.children.get(key)):
            actions.append(Apply(manifest))
    return actions


def _removed(view: View, kind: str, *, is_wanted: bool) -> list[Action]:
    live: Any = view.seen.children.get((kind, view.names.cluster))
    if is_wanted or live is None or (live.get("metadata") or {}).get("deletionTimestamp"):
        return []
    metadata: Mapping[str, Any] = live.get("metadata") or {}
    target = ObjectId(kind, view.names.cluster, str(metadata.get("uid", "")), str(metadata.get("resourceVersion", "")))
    return [Delete(target, "it is wanted no more")]


def _named(actions: list[Action]) -> list[str]:
    names = []
    for action in actions:
        if isinstance(action, Apply | CreateSecret):
            metadata: Any = action.manifest["metadata"]
            names.append(f"{action.manifest['kind']} {metadata['name']}")
        elif isinstance(action, Delete):
            names.append(f"removal of {action.target.kind} {action.target.name}")
    return names


def _foreign(view: View) -> tuple[Note, ...]:
    """Complain of what others have under our names; only of kinds that are needed now."""
    optional = {
        "PodDisruptionBudget": manifests.wants_budget(view.resource),
        "NetworkPolicy": view.spec.network_policy.enabled,
        "ServiceMonitor": view.spec.monitoring.service_monitor,
    }
    in_the_way = [
        f"{kind} {name}"
        for kind, name in view.names.all()
        if (kind, name) in view.seen.foreign
        and optional.get(kind, True)
        and (name != view.names.gateways.set_name or view.spec.gateways)
    ]
    if not in_the_way:
        return ()
    text = f"{', '.join(in_the_way)} exists and is not ours: rename or remove it; it is left as it is"
    return (Note(Reason.FOREIGN_OBJECT, text),)
