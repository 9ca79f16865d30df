"""The objects of a cluster as they should be: the same spec gives the same bytes.

    spec, how many pods now, the live volume template -> manifests, each with a hash of itself as an annotation

What a pod is made from depends on the spec alone, never on the operator's release or on how many pods there are: a newer
operator, or a scale-up, restarts nothing. Everything is owned by the Cluster, so the garbage collector removes it without
any finalizer.

Updates are ours to pace: ``OnDelete``, because the built-in rollout stops at a bad pod until somebody deletes it
(kubernetes #67250). Volumes are never deleted by the StatefulSet: a suspended cluster shrinks it to nothing, and people
delete it by hand. The operator deletes a volume after its member has left; with ``whenDeleted: Delete`` the claims are owned
by the Cluster, so that they go with it and with nothing else.

Source: Kubernetes, "StatefulSets", "Pod Security Standards", KEP-1847 (what deletes volumes).
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
from xxhash import xxh3_64_hexdigest

from ringkeep_core.quantities import are_equal_amounts
from ringkeep_core.resource import API_VERSION, GROUP, KIND, ClusterResource, Pods
from ringkeep_operator.naming import (
    API_PORT,
    CLUSTER_LABEL,
    DATA_CLAIM,
    GATEWAY,
    INSTANCE_LABEL,
    NODE,
    PEER_PORT,
    TOKEN_KEY,
    Group,
    Names,
    labels_of,
    selector_of,
)

HASH_ANNOTATION = f"{GROUP}/desired-hash"
SERVICE_LABEL = f"{GROUP}/service"
USER = 65532
STOP_S = 60
STOP_NOTICE_S = 3
"""A pod that ends says that it is not ready for so long and serves: load balancers need a moment to see it."""
SEED_ORDINALS = 5
"""Seeds are the first ordinals, whether they exist or not: a list that follows the size would restart every pod."""
HOSTNAME = "kubernetes.io/hostname"
Json = dict[str, Any]


def names_of(resource: ClusterResource) -> Names:
    """Return the names of a cluster's objects."""
    return Names(resource.name, resource.namespace)


def constants_of(resource: ClusterResource) -> list[Json]:
    """Return the objects that depend on nothing but the spec and that the pods need: account, services, budget."""
    names, wanted = names_of(resource), []
    wanted.append(_account(resource))
    wanted.append(_headless(resource, names))
    wanted.append(_client_service(resource))
    if resource.spec.network_policy.enabled:
        wanted.append(_network_policy(resource))
    if wants_budget(resource):
        wanted.append(_budget(resource))
    return wanted


def wants_budget(resource: ClusterResource) -> bool:
    """Return whether evictions are held back: with one member that would only make its Node impossible to drain."""
    return resource.spec.replicas > 1 and not resource.spec.suspend


def hashed(manifest: Json) -> Json:
    """Return the manifest with the hash of itself: so that a field that is wanted no more is noticed."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), HASH_ANNOTATION: xxh3_64_hexdigest(text.encode())}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def _object(resource: ClusterResource, api: str, kind: str, name: str, component: str = NODE, **rest: Any) -> Json:
    metadata: Json = {
        "name": name,
        "namespace": resource.namespace,
        "labels": rest.pop("labels", {}) | labels_of(resource.name, component),
        "ownerReferences": [_owner(resource, is_controller=True)],
    }
    if annotations := rest.pop("annotations", None):
        metadata["annotations"] = annotations
    return hashed({"apiVersion": api, "kind": kind, "metadata": metadata, **rest})


def _owner(resource: ClusterResource, *, is_controller: bool) -> Json:
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": resource.name,
        "uid": resource.uid,
        "controller": is_controller,
        "blockOwnerDeletion": False,
    }


# --- what the pods need ------------------------------------------------------------------------------------------


def _account(resource: ClusterResource) -> Json:
    return _object(resource, "v1", "ServiceAccount", resource.name, automountServiceAccountToken=False)


def secret(resource: ClusterResource) -> Json:
    """Return the Secret of the administration token without the token, which is made by whoever creates it."""
    return _object(resource, "v1", "Secret", names_of(resource).secret, type="Opaque")


def _headless(resource: ClusterResource, names: Names) -> Json:
    """Pods that are not ready are published as well: they find each other before any of them can be."""
    return _object(
        resource,
        "v1",
        "Service",
        names.headless,
        labels={SERVICE_LABEL: "nodes"},
        spec={
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": selector_of(resource.name),
            "ports": [_port("http", API_PORT), _port("peer", PEER_PORT), _port("gossip", PEER_PORT, "UDP")],
        },
    )


def _client_service(resource: ClusterResource) -> Json:
    return _object(
        resource,
        "v1",
        "Service",
        resource.name,
        labels={SERVICE_LABEL: "clients"},
        spec={"type": "ClusterIP", "selector": selector_of(resource.name), "ports": [_port("http", API_PORT)]},
    )


def _port(name: str, port: int, protocol: str = "TCP") -> Json:
    return {"name": name, "port": port, "targetPort": name, "protocol": protocol}


def _budget(resource: ClusterResource) -> Json:
    """One pod at a time; one that is not ready may always be evicted, or a broken pod would block its Node's drain."""
    return _object(
        resource,
        "policy/v1",
        "PodDisruptionBudget",
        resource.name,
        spec={
            "maxUnavailable": 1,
            "selector": {"matchLabels": selector_of(resource.name, NODE)},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    )


def _network_policy(resource: ClusterResource) -> Json:
    """Anybody may use REST; only members of this cluster may use the links between members."""
    peers = {"podSelector": {"matchLabels": selector_of(resource.name)}}
    return _object(
        resource,
        "networking.k8s.io/v1",
        "NetworkPolicy",
        resource.name,
        spec={
            "podSelector": {"matchLabels": selector_of(resource.name)},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"ports": [{"port": API_PORT, "protocol": "TCP"}]},
                {
                    "from": [peers],
                    "ports": [{"port": PEER_PORT, "protocol": "TCP"}, {"port": PEER_PORT, "protocol": "UDP"}],
                },
            ],
        },
    )


def service_monitor(resource: ClusterResource) -> Json:
    """Return the ServiceMonitor; its kind exists only where the Prometheus operator is installed."""
    return _object(
        resource,
        "monitoring.coreos.com/v1",
        "ServiceMonitor",
        resource.name,
        labels=resource.spec.monitoring.labels,
        spec={
            "selector": {"matchLabels": {CLUSTER_LABEL: resource.name, SERVICE_LABEL: "nodes"}},
            "endpoints": [{"port": "http", "path": "/metrics"}],
        },
    )


# --- the pods ----------------------------------------------------------------------------------------------------


def nodes_set(resource: ClusterResource, replicas: int, live: Json | None = None) -> Json:
    """Return the StatefulSet of the members that hold data.

    Args:
        resource: the cluster.
        replicas: pods that should exist now; not ``spec.replicas``, which a scale-down reaches only in the end.
        live: the live template of the volumes, whose size and labels cannot be changed any more; None if there is none yet.
    """
    spec, names = resource.spec, names_of(resource)
    claim: Json = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": _live_size(live, spec.storage.size)}},
    }
    if spec.storage.class_name is not None:
        claim["storageClassName"] = spec.storage.class_name
    return _set(
        resource,
        names.nodes,
        replicas,
        # Not for whenDeleted either: a StatefulSet that is deleted by hand would take all data with it.
        persistentVolumeClaimRetentionPolicy={"whenDeleted": "Retain", "whenScaled": "Retain"},
        volumeClaimTemplates=[
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": DATA_CLAIM, "labels": _claim_labels(resource, live)},
                "spec": claim,
            }
        ],
    )


def _live_size(live: Json | None, wanted: str) -> str:
    size = str((((live or {}).get("spec") or {}).get("resources") or {}).get("requests", {}).get("storage", ""))
    return wanted if not size or are_equal_amounts(size, wanted) else size


def _claim_labels(resource: ClusterResource, live: Json | None) -> Json:
    """Nothing that says ``instance``: Argo CD may track by it, and would delete volumes, which no chart renders.

    What else of ours has that label is owned by the Cluster, and left alone for that.
    """
    if live is not None:
        return dict((live.get("metadata") or {}).get("labels") or {})
    labels = labels_of(resource.name, NODE)
    return {label: value for label, value in labels.items() if label != INSTANCE_LABEL}


def gateways_set(resource: ClusterResource, replicas: int) -> Json:
    """Return the StatefulSet of the gateways: they hold nothing, so their disk may end with the pod."""
    return _set(resource, names_of(resource).gateways, replicas)


def _set(resource: ClusterResource, group: Group, replicas: int, **rest: Any) -> Json:
    spec = {
        "replicas": replicas,
        "serviceName": names_of(resource).headless,
        "podManagementPolicy": "Parallel",
        "updateStrategy": {"type": "OnDelete"},
        "revisionHistoryLimit": 3,
        "selector": {"matchLabels": selector_of(resource.name, group.component)},
        "template": _pod_template(resource, group),
        **rest,
    }
    return _object(resource, "apps/v1", "StatefulSet", group.set_name, group.component, spec=spec)


def _pod_template(resource: ClusterResource, group: Group) -> Json:
    names, pods = names_of(resource), resource.spec.pods
    volumes: list[Json] = [{"name": "tmp", "emptyDir": {}}]
    if group.component == GATEWAY:
        volumes.append({"name": DATA_CLAIM, "emptyDir": {}})
    return {
        "metadata": {
            "labels": {**pods.labels, **labels_of(resource.name, group.component)},
            "annotations": {
                "prometheus.io/scrape": "true",
                "prometheus.io/port": str(API_PORT),
                "prometheus.io/path": "/metrics",
                **pods.annotations,
            },
        },
        "spec": {
            "serviceAccountName": resource.name,
            "automountServiceAccountToken": False,
            # Variables of services are named after them: one called ringkeep would be taken for our own settings.
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": STOP_S,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "affinity": {"podAntiAffinity": _anti_affinity(resource, group)},
            "topologySpreadConstraints": [
                _spread(resource, group, key) for key in dict.fromkeys((resource.spec.placement.zone_key, HOSTNAME))
            ],
            "containers": [_container(resource, group, names)],
            "volumes": volumes,
            **_wishes(pods),
        },
    }


def _wishes(pods: Pods) -> Json:
    """Return the fields of a pod that people chose. What they did not is not there: a newer operator restarts nothing."""
    fields = {
        "nodeSelector": pods.node_selector,
        "tolerations": [msgspec.to_builtins(one) for one in pods.tolerations],
        "priorityClassName": pods.priority_class_name,
        "imagePullSecrets": [msgspec.to_builtins(one) for one in pods.image_pull_secrets],
    }
    return {name: value for name, value in fields.items() if value}


def _anti_affinity(resource: ClusterResource, group: Group) -> Json:
    term = {
        "topologyKey": HOSTNAME,
        "labelSelector": {"matchLabels": selector_of(resource.name, group.component)},
    }
    # Gateways hold nothing: two of them on one Node are no danger to anything.
    if resource.spec.placement.anti_affinity == "required" and group.component == NODE:
        return {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
    return {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": term}]}


def _spread(resource: ClusterResource, group: Group, key: str) -> Json:
    """Spread as well as possible, but never leave a pod out: copies are placed by zone whatever the pods' places are."""
    return {
        "maxSkew": 1,
        "topologyKey": key,
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": selector_of(resource.name, group.component)},
    }


def _container(resource: ClusterResource, group: Group, names: Names) -> Json:
    container: Json = {
        "name": "node",
        "image": resource.spec.image,
        "env": _environment(resource, group, names),
        "ports": [
            {"name": "http", "containerPort": API_PORT, "protocol": "TCP"},
            {"name": "peer", "containerPort": PEER_PORT, "protocol": "TCP"},
            {"name": "gossip", "containerPort": PEER_PORT, "protocol": "UDP"},
        ],
        "startupProbe": _probe("/livez", period_s=2, failures=60),
        "livenessProbe": _probe("/livez", period_s=10, failures=6),
        "readinessProbe": _probe("/readyz", period_s=2, failures=2),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": DATA_CLAIM, "mountPath": "/data"}, {"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
    }
    if sources := resource.spec.pods.env_from:
        container["envFrom"] = [msgspec.to_builtins(one) for one in sources]
    resources = resource.spec.resources
    if resources.requests or resources.limits:
        both = {"requests": dict(resources.requests), "limits": dict(resources.limits)}
        container["resources"] = {key: amounts for key, amounts in both.items() if amounts}
    return container


def _environment(resource: ClusterResource, group: Group, names: Names) -> list[Json]:
    """The own address is the pod's IP, told anew at each start: a name's old answer may be cached for half a minute.

    It stands in brackets because it may be an IPv6 address; a node takes an IPv4 address in brackets as well.
    """
    seeds = [
        f"{names.nodes.member(ordinal)}.{names.headless}.{names.namespace}.svc:{PEER_PORT}"
        for ordinal in range(SEED_ORDINALS)
    ]
    return [
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "RINGKEEP_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "RINGKEEP_DATA", "value": "/data"},
        {"name": "RINGKEEP_API", "value": f"0.0.0.0:{API_PORT}"},
        {"name": "RINGKEEP_PEER", "value": f"0.0.0.0:{PEER_PORT}"},
        {"name": "RINGKEEP_ADVERTISE", "value": f"[$(POD_IP)]:{PEER_PORT}"},
        {"name": "RINGKEEP_SEEDS", "value": ",".join(seeds)},
        {"name": "RINGKEEP_WEIGHT", "value": "0" if group.component == GATEWAY else "1"},
        {"name": "RINGKEEP_LEFT_DATA", "value": "empty"},
        {"name": "RINGKEEP_STOP_NOTICE_S", "value": str(STOP_NOTICE_S)},
        {
            "name": "RINGKEEP_ADMIN_TOKEN",
            "valueFrom": {"secretKeyRef": {"name": names.secret, "key": TOKEN_KEY}},
        },
        {
            "name": "RINGKEEP_SERVICES_TOKEN",
            "valueFrom": {"secretKeyRef": {"name": names.services_secret, "key": TOKEN_KEY, "optional": True}},
        },
        *(_variable(f"RINGKEEP_{one.name}", one.value) for one in resource.spec.settings),
        *(_variable(one.name, one.value) for one in resource.spec.pods.env),
    ]


def _variable(name: str, value: str) -> Json:
    """Return a variable; the API server drops an empty value, and what it drops must not be wanted."""
    return {"name": name, "value": _as_it_is(value)} if value else {"name": name}


def _as_it_is(value: str) -> str:
    """Return a value in which the kubelet puts nothing in the place of $(NAME), which could be the token.

    The kubelet makes one $ of two wherever it finds them, so each is doubled, not only those before a bracket.
    """
    return value.replace("$", "$$")


def _probe(path: str, *, period_s: int, failures: int) -> Json:
    return {
        "httpGet": {"path": path, "port": "http"},
        "periodSeconds": period_s,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


# --- volumes and the map -----------------------------------------------------------------------------------------


def grown_claim(resource: ClusterResource, name: str) -> Json:
    """Return the part of a volume's claim that makes it as large as is wanted now; nothing else of it is ours."""
    return _claim_part(resource, name, {}, spec={"resources": {"requests": {"storage": resource.spec.storage.size}}})


def owned_claim(resource: ClusterResource, name: str, uid: str, *, is_owned: bool) -> Json:
    """Return the part of this very claim that lets it be deleted with the Cluster, or that keeps it."""
    owners = {"ownerReferences": [_owner(resource, is_controller=False)]} if is_owned else {}
    return _claim_part(resource, name, {"uid": uid, **owners})


def _claim_part(resource: ClusterResource, name: str, metadata: Json, **rest: Any) -> Json:
    named = {"name": name, "namespace": resource.namespace, **metadata}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": named, **rest}


def config_map(resource: ClusterResource, data: dict[str, str], annotations: dict[str, str]) -> Json:
    """Return the ConfigMap that shows the map."""
    return _object(resource, "v1", "ConfigMap", names_of(resource).shard_map, annotations=annotations, data=data)
