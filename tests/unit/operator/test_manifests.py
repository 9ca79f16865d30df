"""The objects of a cluster: the same for the same spec, and fit for a namespace with restricted Pod Security."""

import json
import re
from typing import Any

import pytest
from msgspec.structs import replace
from xxhash import xxh3_64_hexdigest

from ringkeep_core.resource import (
    OUR_PREFIXES,
    SETTINGS_FIXED,
    ClusterResource,
    ClusterSpec,
    EnvSource,
    Monitoring,
    Networking,
    Placement,
    Pods,
    Resources,
    Retain,
    SecretName,
    Setting,
    Storage,
    Toleration,
    Variable,
)
from ringkeep_operator import manifests
from ringkeep_operator.drift import hash_of
from ringkeep_operator.naming import Names

CLUSTER = ClusterResource(name="demo", namespace="ns", uid="u")


def _with(**changes: Any) -> ClusterResource:
    return replace(CLUSTER, spec=replace(ClusterSpec(), **changes))


def _everything(resource: ClusterResource) -> list[manifests.Json]:
    return [
        *manifests.constants_of(resource),
        manifests.secret(resource),
        manifests.service_monitor(resource),
        manifests.nodes_set(resource, 3),
        manifests.gateways_set(resource, 2),
    ]


def _pod(made: manifests.Json) -> dict[str, Any]:
    pod = made["spec"]["template"]["spec"]
    assert isinstance(pod, dict)
    return pod


def _environment(made: manifests.Json) -> dict[str, str]:
    return {item["name"]: str(item.get("value", item.get("valueFrom"))) for item in _pod(made)["containers"][0]["env"]}


def test_the_same_spec_gives_the_same_bytes() -> None:
    assert json.dumps(_everything(CLUSTER)) == json.dumps(_everything(replace(CLUSTER, spec=ClusterSpec())))


def test_what_a_pod_is_made_from_does_not_depend_on_how_many_there_are() -> None:
    small, large = manifests.nodes_set(_with(replicas=1), 1), manifests.nodes_set(_with(replicas=50), 50)

    assert small["spec"]["template"] == large["spec"]["template"]


def test_a_field_that_is_wanted_no_more_changes_the_hash() -> None:
    limited = _with(resources=Resources(limits={"memory": "1Gi"}))

    assert hash_of(manifests.nodes_set(limited, 3)) != hash_of(manifests.nodes_set(CLUSTER, 3))


def test_everything_is_owned_labelled_named_as_promised_and_in_the_namespace() -> None:
    known = set(Names("demo", "ns").all())
    for made in _everything(CLUSTER):
        metadata = made["metadata"]

        assert (made["kind"], metadata["name"]) in known
        assert metadata["namespace"] == "ns"
        assert [(owner["uid"], owner["controller"]) for owner in metadata["ownerReferences"]] == [("u", True)]
        assert metadata["labels"]["ringkeep.dev/cluster"] == "demo"
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "ringkeep-operator"


def test_pods_are_fit_for_a_restricted_namespace() -> None:
    for made in (manifests.nodes_set(CLUSTER, 3), manifests.gateways_set(CLUSTER, 1)):
        pod = _pod(made)
        (container,) = pod["containers"]

        assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, 65532)
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
        assert pod["terminationGracePeriodSeconds"] == 60
        writable = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert writable == {"/data", "/tmp"}


def test_the_rollout_and_the_volumes_are_ours_to_pace() -> None:
    storage = Storage(retain=Retain(when_deleted="Delete"), class_name="fast", size="3Gi")
    spec = manifests.nodes_set(_with(storage=storage), 4)["spec"]

    assert (spec["replicas"], spec["podManagementPolicy"], spec["updateStrategy"]) == (
        4,
        "Parallel",
        {"type": "OnDelete"},
    )
    assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    (claim,) = spec["volumeClaimTemplates"]
    assert claim["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "fast",
        "resources": {"requests": {"storage": "3Gi"}},
    }


def test_a_node_is_told_who_and_where_it_is() -> None:
    told = _environment(manifests.nodes_set(CLUSTER, 3))

    assert told == {
        "POD_IP": "{'fieldRef': {'fieldPath': 'status.podIP'}}",
        "RINGKEEP_NAME": "{'fieldRef': {'fieldPath': 'metadata.name'}}",
        "RINGKEEP_DATA": "/data",
        "RINGKEEP_API": "0.0.0.0:8080",
        "RINGKEEP_PEER": "0.0.0.0:7400",
        "RINGKEEP_ADVERTISE": "[$(POD_IP)]:7400",
        "RINGKEEP_SEEDS": ",".join(f"demo-{n}.demo-nodes.ns.svc:7400" for n in range(5)),
        "RINGKEEP_WEIGHT": "1",
        "RINGKEEP_LEFT_DATA": "empty",
        "RINGKEEP_STOP_NOTICE_S": "3",
        "RINGKEEP_ADMIN_TOKEN": "{'secretKeyRef': {'name': 'demo-admin', 'key': 'token'}}",
        "RINGKEEP_SERVICES_TOKEN": "{'secretKeyRef': {'name': 'demo-services', 'key': 'token', 'optional': True}}",
    }


def test_settings_of_the_resource_reach_every_node_and_gateway_and_restart_them() -> None:
    ranges, port = Setting(name="SERVICES_ADDRESSES", value="10.0.0.0/8"), Setting(name="DNS", value="0.0.0.0:8600")
    tuned = _with(settings=(ranges, port))
    usual = _environment(manifests.nodes_set(CLUSTER, 3))

    for made in (manifests.nodes_set(tuned, 3), manifests.gateways_set(tuned, 1)):
        told = _environment(made)
        assert (told["RINGKEEP_SERVICES_ADDRESSES"], told["RINGKEEP_DNS"]) == ("10.0.0.0/8", "0.0.0.0:8600")
        assert told.keys() - usual.keys() == {"RINGKEEP_SERVICES_ADDRESSES", "RINGKEEP_DNS"}
    assert manifests.nodes_set(tuned, 3) != manifests.nodes_set(CLUSTER, 3)


def test_a_setting_cannot_say_the_value_of_another_variable() -> None:
    tuned = _with(settings=(Setting(name="LOG_LEVEL", value="$(RINGKEEP_ADMIN_TOKEN)"),))

    assert _environment(manifests.nodes_set(tuned, 3))["RINGKEEP_LOG_LEVEL"] == "$$(RINGKEEP_ADMIN_TOKEN)"


@pytest.mark.parametrize("value", ["$(A)", "$$(A)", "$$$(A)", "a$", "$$", "no", "$()", "$(A", "x$(A)$(A)y"])
def test_a_value_reaches_a_node_as_it_is_in_the_resource(value: str) -> None:
    variables, settings = (Variable(name="OTEL_SERVICE_NAME", value=value),), (Setting(name="NOTE", value=value),)
    told = _environment(manifests.nodes_set(_with(settings=settings, pods=Pods(env=variables)), 3))

    assert _expanded(told["OTEL_SERVICE_NAME"]) == _expanded(told["RINGKEEP_NOTE"]) == value


def _expanded(text: str) -> str:
    """What the kubelet makes of a value where $(A) is secret: k8s.io/kubernetes/third_party/forked/golang/expansion."""
    return re.sub(r"\$\$|\$\(A\)", lambda found: {"$$": "$"}.get(found[0], "secret"), text)


def test_what_people_choose_for_pods_reaches_members_and_gateways() -> None:
    toleration = Toleration(key="storage", operator="Exists", effect="NoExecute", toleration_seconds=60)
    chosen = Pods(
        labels={"team": "data"},
        annotations={"sidecar": "no", "prometheus.io/scrape": "false"},
        node_selector={"disk": "ssd"},
        tolerations=(toleration, Toleration(key="spot", value="yes")),
        priority_class_name="databases",
        image_pull_secrets=(SecretName(name="registry"),),
        env=(Variable(name="OTEL_TRACES_EXPORTER", value="otlp"),),
        env_from=(EnvSource(secret_ref=SecretName(name="tracing")),),
    )
    for make in (manifests.nodes_set, manifests.gateways_set):
        usual, made = make(CLUSTER, 1), make(_with(pods=chosen), 1)
        before, after = usual["spec"]["template"]["metadata"], made["spec"]["template"]["metadata"]

        assert after == {
            "labels": {"team": "data", **before["labels"]},
            "annotations": {**before["annotations"], "sidecar": "no", "prometheus.io/scrape": "false"},
        }
        assert {name: field for name, field in _pod(made).items() if name not in _pod(usual)} == {
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [
                {"key": "storage", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60},
                {"key": "spot", "value": "yes"},
            ],
            "priorityClassName": "databases",
            "imagePullSecrets": [{"name": "registry"}],
        }
        assert _environment(made).items() - _environment(usual).items() == {("OTEL_TRACES_EXPORTER", "otlp")}
        assert made["spec"]["selector"] == usual["spec"]["selector"]
        assert _pod(made)["containers"][0]["envFrom"] == [{"secretRef": {"name": "tracing"}}]
        assert "envFrom" not in _pod(usual)["containers"][0]


def test_a_service_monitor_has_the_labels_that_a_prometheus_chooses_by() -> None:
    chosen = Monitoring(service_monitor=True, labels={"release": "kube-prometheus-stack"})
    usual, made = (manifests.service_monitor(one)["metadata"]["labels"] for one in (CLUSTER, _with(monitoring=chosen)))

    assert made == {**usual, "release": "kube-prometheus-stack"}


def test_volumes_have_no_label_that_argo_cd_tracks_by_and_a_live_template_stays_as_it_is() -> None:
    (fresh,) = manifests.nodes_set(CLUSTER, 3)["spec"]["volumeClaimTemplates"]
    older = {"metadata": {"name": "data", "labels": {"app.kubernetes.io/instance": "demo"}}, "spec": fresh["spec"]}
    (kept,) = manifests.nodes_set(CLUSTER, 3, older)["spec"]["volumeClaimTemplates"]

    assert "app.kubernetes.io/instance" not in fresh["metadata"]["labels"]
    assert fresh["metadata"]["labels"]["ringkeep.dev/cluster"] == "demo"
    assert kept == {"apiVersion": "v1", "kind": "PersistentVolumeClaim", **older}


def test_no_label_of_ours_can_be_replaced() -> None:
    theirs = Pods(labels=dict.fromkeys(_nodes_labels(), "theirs"))
    made = manifests.nodes_set(_with(pods=theirs), 3)["spec"]["template"]["metadata"]["labels"]

    assert made == _nodes_labels()
    assert all(label.startswith(OUR_PREFIXES) for label in made)


def test_what_the_operator_sets_no_setting_can() -> None:
    names = {name.removeprefix("RINGKEEP_") for name in _environment(manifests.nodes_set(CLUSTER, 3))} - {"POD_IP"}

    assert names <= set(SETTINGS_FIXED)


def test_the_pods_of_an_unchanged_spec_are_not_restarted_by_a_new_operator() -> None:
    """Who changes this restarts every node of every cluster with an upgrade of the operator: the changelog must say so."""
    template = manifests.nodes_set(_with(image="node:1"), 3)["spec"]["template"]

    assert xxh3_64_hexdigest(json.dumps(template, sort_keys=True).encode()) == "8b8ebaaf0f10a3f8"


def test_a_network_policy_leaves_rest_open_and_the_links_to_members() -> None:
    (policy,) = [
        made for made in _everything(_with(network_policy=Networking(enabled=True))) if made["kind"] == "NetworkPolicy"
    ]
    rest, links = policy["spec"]["ingress"]

    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert rest == {"ports": [{"port": 8080, "protocol": "TCP"}]}
    assert links["ports"] == [{"port": 7400, "protocol": "TCP"}, {"port": 7400, "protocol": "UDP"}]
    assert links["from"] == [{"podSelector": policy["spec"]["podSelector"]}]
    labels = _nodes_labels()
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()


def _nodes_labels() -> dict[str, str]:
    labels = manifests.nodes_set(CLUSTER, 3)["spec"]["template"]["metadata"]["labels"]
    assert isinstance(labels, dict)
    return labels


def test_a_gateway_has_no_weight_and_no_volume() -> None:
    made = manifests.gateways_set(CLUSTER, 1)

    assert _environment(made)["RINGKEEP_WEIGHT"] == "0"
    assert {"name": "data", "emptyDir": {}} in _pod(made)["volumes"]
    assert "volumeClaimTemplates" not in made["spec"]


def test_pods_are_spread_over_zones_and_nodes() -> None:
    pod = _pod(manifests.nodes_set(_with(placement=Placement(zone_key="rack", anti_affinity="required")), 3))

    assert [rule["topologyKey"] for rule in pod["topologySpreadConstraints"]] == ["rack", "kubernetes.io/hostname"]
    assert list(pod["affinity"]["podAntiAffinity"]) == ["requiredDuringSchedulingIgnoredDuringExecution"]


def test_peers_find_each_other_before_they_are_ready_and_clients_only_who_is() -> None:
    services = {
        made["metadata"]["name"]: made["spec"] for made in manifests.constants_of(CLUSTER) if made["kind"] == "Service"
    }

    assert (services["demo-nodes"]["clusterIP"], services["demo-nodes"]["publishNotReadyAddresses"]) == ("None", True)
    assert "publishNotReadyAddresses" not in services["demo"]


def test_the_secret_has_no_token_in_it() -> None:
    made = manifests.secret(CLUSTER)

    assert not {"data", "stringData"} & made.keys()


def test_evictions_take_one_member_at_a_time_and_a_broken_one_whenever_they_like() -> None:
    budget = next(made for made in manifests.constants_of(CLUSTER) if made["kind"] == "PodDisruptionBudget")
    labels = manifests.gateways_set(CLUSTER, 1)["spec"]["template"]["metadata"]["labels"]
    chosen = budget["spec"]["selector"]["matchLabels"]

    assert {**budget["spec"], "selector": None} == {
        "maxUnavailable": 1,
        "selector": None,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }
    # Gateways hold nothing: they may go all at once.
    assert chosen.items() <= _nodes_labels().items() and not chosen.items() <= labels.items()
