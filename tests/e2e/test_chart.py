"""What the chart promises before any cluster sees it: what it refuses, and what it makes of its values.

Only Helm is needed, and Helm is where these tests run; none of them asks for a fixture that needs a cluster.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # it has no types, and its stubs are not worth a dependency

from ringkeep_operator.settings import OperatorSettings, settings_from
from ringkeep_testing.kind_cluster import CHART, Failed, Json, command

RELEASE, NAMESPACE = "demo", "ns"
FULLNAME = "demo-ringkeep-operator"
HOOK = f"{FULLNAME}-cluster"
# The oldest that the chart takes: without a cluster Helm supposes the one that it was built with.
KUBERNETES = "1.29.0"
# All kinds of the chart whose objects have no namespace: with any other, an object without one is a mistake.
CLUSTERWIDE = {"CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding"}
CRD = ("CustomResourceDefinition", "clusters.ringkeep.dev")
HOOK_KINDS = ["Job", "Role", "RoleBinding", "ServiceAccount"]
CREATED: Json = {"cluster": {"create": True}}
RESTRICTED: Json = {
    "crds": {"install": False},
    "rbac": {"namespaced": True, "readNodes": False, "aggregate": False},
}
"""For whoever may make nothing but what is in a namespace, as the chart's README says."""
SCHEDULING: Json = {
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "dedicated", "operator": "Equal", "value": "ringkeep", "effect": "NoSchedule"}],
    "priorityClassName": "important",
    "imagePullSecrets": [{"name": "registry"}, {"name": "mirror"}],
}


def every_setting() -> Json:
    """Return all settings that the schema lets through, each with the most that it may be."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    return {name: row["maximum"] for name, row in schema["properties"]["settings"]["properties"].items()}


def everything() -> Json:
    """Return values with which each template renders all that it can, and no key is given in two places."""
    return {
        **SCHEDULING,
        "commonLabels": {"team": "storage", "example.com/cost": "7"},
        "podLabels": {"mesh": "off"},
        "podAnnotations": {"example.com/note": "true"},
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [{"maxSkew": 1}],
        "replicas": 2,
        "watchNamespaces": ["other", NAMESPACE],
        "settings": every_setting(),
        "serviceAccount": {"annotations": {"example.com/role": "1"}},
        "metrics": {"serviceMonitor": {"enabled": True, "additionalLabels": {"release": "prometheus"}}},
        "monitoring": {"rules": True, "rulesLabels": {"release": "prometheus"}, "dashboard": True},
        "cluster": {
            "create": True,
            "adminToken": "not-a-secret",
            "servicesToken": "neither",
            "spec": {"replicationFactor": 2, "storage": {"size": "1Gi"}},
        },
    }


def merged(*values: Json) -> Json:
    """Return values laid over each other, as Helm does it: the last one wins, objects are joined."""
    result: Json = {}
    for layer in values:
        for key, value in copy.deepcopy(layer).items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if both else value
    return result


class Strict(yaml.CSafeLoader):  # type: ignore[misc]  # yaml has no types
    """Reads YAML, and refuses an object that has a key twice: whoever else reads it may take the one, the other or none."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        counts = Counter(self.construct_object(key, deep=True) for key, _ in node.value)
        twice = [key for key, count in counts.items() if count > 1]
        assert twice == [], f"{twice} more than once, {node.start_mark}"
        return super().construct_mapping(node, deep)


def rendered(values: Json, *arguments: str, release: str = RELEASE, namespace: str = NAMESPACE) -> list[Json]:
    """Return every object that the chart makes of these values, hooks and test too."""
    text = command(
        "helm", "template", release, str(CHART), "--namespace", namespace, "--kube-version", KUBERNETES,
        "--values", "-", *arguments, given=json.dumps(values),
    )  # fmt: skip
    return [one for one in yaml.load_all(text, Loader=Strict) if one is not None]


def refusal(values: Json, *, release: str = RELEASE, namespace: str = NAMESPACE) -> str:
    """Return what Helm says when it refuses these values."""
    with pytest.raises(Failed) as refused:
        rendered(values, release=release, namespace=namespace)
    return refused.value.said


def identity(document: Json) -> tuple[str, str]:
    """Return kind and name of an object."""
    return document["kind"], document["metadata"]["name"]


def of_kind(documents: list[Json], kind: str) -> list[Json]:
    """Return the objects of a kind."""
    return [one for one in documents if one["kind"] == kind]


def hooks(documents: list[Json]) -> list[Json]:
    """Return what applies the Cluster, sorted by kind; the test is a hook too, but runs only when asked for."""
    found = [one for one in documents if one["metadata"].get("annotations", {}).get("helm.sh/hook", "test") != "test"]
    return sorted(found, key=identity)


def pods(documents: list[Json]) -> dict[str, Json]:
    """Return the specs of the pods of operator, hook and test."""
    made = {
        "operator": [one["spec"]["template"]["spec"] for one in of_kind(documents, "Deployment")],
        "hook": [one["spec"]["template"]["spec"] for one in of_kind(documents, "Job")],
        "test": [one["spec"] for one in of_kind(documents, "Pod")],
    }
    return {who: spec for who, (spec,) in made.items()}


def environment(pod: Json) -> list[Json]:
    """Return the variables of a pod's only container."""
    (container,) = pod["containers"]
    variables: list[Json] = container["env"]
    return variables


def applied(documents: list[Json]) -> Json:
    """Return the Cluster that the hook applies."""
    (text,) = (one["value"] for one in environment(pods(documents)["hook"]) if one["name"] == "CLUSTER")
    cluster: Json = json.loads(text)
    return cluster


# -- refused by the schema -----------------------------------------------------------------------------------------


def in_spec(**spec: object) -> Json:
    """Return values with a Cluster of this spec."""
    return merged(CREATED, {"cluster": {"spec": spec}})


WRONG = [
    (in_spec(replicationFaktor=2), "cluster.spec", "replicationFaktor"),
    (in_spec(replicas=3), "cluster.spec", "replicas"),
    (in_spec(storage={"classNme": "fast"}), "cluster.spec.storage", "classNme"),
    (in_spec(storage={"className": 7}), "cluster.spec.storage.className", ""),
    (in_spec(storage={"size": None}), "cluster.spec.storage.size", ""),
    (in_spec(storage={"retain": {"whenScaled": "Keep"}}), "cluster.spec.storage.retain.whenScaled", "Retain"),
    (in_spec(shards="many"), "cluster.spec.shards", ""),
    (in_spec(suspend="false"), "cluster.spec.suspend", ""),
    (in_spec(pods={"env": [{"name": "TZ", "valu": "UTC"}]}), "cluster.spec.pods.env.0", "valu"),
    (in_spec(pods={"tolerations": [{"operator": "Perhaps"}]}), "cluster.spec.pods.tolerations.0.operator", "Exists"),
    (in_spec(resources={"limits": {"memory": "much"}}), "cluster.spec.resources.limits.memory", ""),
    (in_spec(settings=[{"name": "log_level", "value": "debug"}]), "cluster.spec.settings.0.name", ""),
    ({"settings": {"PORT": 1}}, "settings", "PORT"),
    ({"settings": {"RESYNC_S": "60"}}, "settings.RESYNC_S", ""),
    ({"settings": {"PASSES": 0}}, "settings.PASSES", ""),
    ({"commonLabels": {"app.kubernetes.io/name": "mine"}}, "commonLabels", "app.kubernetes.io"),
    ({"commonLabels": {"helm.sh/chart": "mine"}}, "commonLabels", "helm.sh"),
    ({"commonLabels": {"ringkeep.dev/cluster": "mine"}}, "commonLabels", "ringkeep.dev"),
    ({"commonLabels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}}, "commonLabels", "rbac.authorization"),
    ({"commonLabels": {"cost": 7}}, "commonLabels.cost", ""),
    ({"imagePullSecrets": [{}]}, "imagePullSecrets.0", "name"),
    ({"podLabels": {"app.kubernetes.io/component": "mine"}}, "podLabels", "app.kubernetes.io"),
    ({"podLabels": {"helm.sh/chart": "mine"}}, "podLabels", "helm.sh"),
    ({"podLabels": {"cost": 7}}, "podLabels.cost", ""),
]


@pytest.mark.parametrize(("values", "path", "word"), WRONG, ids=lambda value: str(value)[:60])
def test_a_value_that_makes_no_sense_is_refused_with_its_path(values: Json, path: str, word: str) -> None:
    said = refusal(values)

    assert "schema" in said
    # Some releases of Helm write /cluster/spec, others cluster.spec.
    assert path in said.replace("/", ".") and word in said, said


SPEC: Json = {
    "replicationFactor": 2,
    "minInSync": 1,
    "shards": 1024,
    "image": "registry.example/node:1",
    "storage": {"size": "2Gi", "className": "", "retain": {"whenScaled": "Retain", "whenDeleted": "Delete"}},
    "gateways": 0,
    "resources": {"requests": {"cpu": 1}, "limits": {"memory": "1Gi"}},
    "placement": {"zoneKey": "zone", "antiAffinity": "required"},
    "pods": {
        "labels": {"team": "storage"},
        "tolerations": [{"key": "dedicated", "operator": "Exists", "tolerationSeconds": 0}],
        "imagePullSecrets": [],
        "env": [{"name": "TZ", "value": ""}],
        "envFrom": [{"secretRef": {"name": "tracing"}}],
    },
    "recovery": {"replaceAfter": "61s"},
    "moves": {"concurrentPerNode": 1, "bytesPerSecond": "0"},
    "suspend": False,
    "paused": True,
    "monitoring": {"serviceMonitor": False, "labels": {}},
    "networkPolicy": {"enabled": False},
    "settings": [{"name": "LOG_LEVEL", "value": "debug"}],
}


def test_a_spec_reaches_the_cluster_as_it_was_given() -> None:
    """With what is false, nothing or empty: that is said on purpose."""
    cluster = applied(rendered(merged(in_spec(**SPEC), {"cluster": {"replicas": 5}})))

    assert cluster["spec"] == {**SPEC, "replicas": 5}


def test_a_class_may_be_null_so_that_a_value_can_be_taken_back() -> None:
    by_file = applied(rendered(in_spec(storage={"className": None})))
    by_flag = applied(rendered(CREATED, "--set", "cluster.spec.storage.className=null"))
    over = applied(rendered(in_spec(storage={"className": "fast"}), "--set", "cluster.spec.storage.className=null"))

    assert [one["spec"]["storage"].get("className") for one in (by_file, by_flag, over)] == [None, None, None]


@pytest.mark.parametrize("where", ["commonLabels", "podLabels"])
def test_labels_of_ones_own_are_taken(where: str) -> None:
    labels = {"team": "storage", "example.com/app.kubernetes.io": "x", "app": "y", "helm.sh": "z"}
    (operator,) = of_kind(rendered({where: labels}), "Deployment")

    assert labels.items() <= operator["spec"]["template"]["metadata"]["labels"].items()


# -- refused by the templates --------------------------------------------------------------------------------------


def no_name(name: str) -> str:
    return (
        f"a Cluster cannot be called {name}: set cluster.name to a lower-case label of at most 44 characters that begins "
        "with a letter"
    )


def taken(name: str) -> str:
    return (
        f"{name} is the name of an object of the operator, and the Cluster needs it for one of its own: "
        "set cluster.name to another"
    )


def elsewhere(watched: str) -> str:
    return (
        f"the operator looks after {watched} alone, and the Cluster would be in {NAMESPACE}: "
        "add that to watchNamespaces, or leave cluster.create off"
    )


NO_ACCOUNT = (
    "without rbac.create the chart's Cluster needs hook.serviceAccountName: "
    "an account that may get, create and patch it"
)


def called(name: str, **values: object) -> Json:
    """Return values with a Cluster of this name."""
    return merged(CREATED, {"cluster": {"name": name}}, values)


REFUSED = [
    (RELEASE, called(FULLNAME), taken(FULLNAME)),
    (RELEASE, called(FULLNAME, serviceAccount={"name": "another"}), taken(FULLNAME)),
    (RELEASE, merged(CREATED, {"fullnameOverride": RELEASE}), taken(RELEASE)),
    (RELEASE, merged(CREATED, {"fullnameOverride": f"{RELEASE}-nodes"}), taken(f"{RELEASE}-nodes")),
    (RELEASE, called(HOOK), taken(HOOK)),
    (RELEASE, called("ops", serviceAccount={"name": "ops"}), taken("ops")),
    (RELEASE, called("ops", serviceAccount={"create": False, "name": "ops"}), taken("ops")),
    (RELEASE, called("default", serviceAccount={"create": False}), taken("default")),
    *((RELEASE, called(name), no_name(name)) for name in ("9lives", "Upper", "a-", "-a", "a.b", "a_b", "a" * 45)),
    ("r" * 45, CREATED, no_name("r" * 45)),
    ("1st", CREATED, no_name("1st")),
    (RELEASE, merged(CREATED, {"watchNamespaces": ["other"]}), elsewhere("other")),
    (RELEASE, merged(CREATED, {"watchNamespaces": [f"{NAMESPACE}-b", "other"]}), elsewhere(f"{NAMESPACE}-b,other")),
    (RELEASE, merged(CREATED, RESTRICTED, {"watchNamespaces": ["other"]}), elsewhere("other")),
    (RELEASE, merged(CREATED, {"rbac": {"create": False}}), NO_ACCOUNT),
]


@pytest.mark.parametrize(("release", "values", "sentence"), REFUSED, ids=lambda value: str(value)[:60])
def test_a_cluster_that_no_operator_could_act_on_is_refused_with_a_sentence(
    release: str, values: Json, sentence: str
) -> None:
    assert sentence in refusal(values, release=release)


@pytest.mark.parametrize(("release", "values", "sentence"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_is_refused_for_a_cluster_does_not_matter_without_one(release: str, values: Json, sentence: str) -> None:
    documents = rendered(merged(values, {"cluster": {"create": False}}), release=release)

    assert sentence and len(of_kind(documents, "Deployment")) == 1
    assert hooks(documents) == [] == of_kind(documents, "Pod")


NEIGHBOURS = [
    (RELEASE, CREATED, RELEASE),
    (RELEASE, called(f"{FULLNAME}s"), f"{FULLNAME}s"),
    (RELEASE, called(FULLNAME, fullnameOverride="other", serviceAccount={"name": "another"}), FULLNAME),
    (RELEASE, called("ops", serviceAccount={"name": "operator"}), "ops"),
    (RELEASE, called("default"), "default"),
    (RELEASE, called("default", serviceAccount={"create": False, "name": "ops"}), "default"),
    *((RELEASE, called(name), name) for name in ("a", "a9", "a--9", "a" * 44)),
    ("r" * 44, CREATED, "r" * 44),
    ("r" * 53, called("short"), "short"),
    ("1st", called("first"), "first"),
    (RELEASE, merged(CREATED, {"watchNamespaces": ["other", NAMESPACE]}), RELEASE),
    (RELEASE, merged(CREATED, RESTRICTED), RELEASE),
    (RELEASE, merged(CREATED, RESTRICTED, {"watchNamespaces": [NAMESPACE]}), RELEASE),
    (RELEASE, merged(CREATED, {"rbac": {"create": False}, "hook": {"serviceAccountName": "mine"}}), RELEASE),
]


@pytest.mark.parametrize(("release", "values", "name"), NEIGHBOURS, ids=lambda value: str(value)[:60])
def test_what_is_next_to_a_refusal_is_rendered(release: str, values: Json, name: str) -> None:
    documents = rendered(values, release=release)
    cluster = applied(documents)
    (url,) = environment(pods(documents)["test"])

    assert (cluster["metadata"]["name"], cluster["metadata"]["namespace"]) == (name, NAMESPACE)
    assert url == {"name": "URL", "value": f"http://{name}.{NAMESPACE}.svc:8080"}


# -- pods and the Cluster ------------------------------------------------------------------------------------------


def test_where_pods_may_run_and_with_which_secrets_reaches_operator_hook_and_test() -> None:
    given, usual = (pods(rendered(merged(CREATED, values))) for values in (SCHEDULING, {}))

    assert {who: {key: spec.get(key) for key in SCHEDULING} for who, spec in given.items()} == {
        "operator": SCHEDULING,
        "hook": SCHEDULING,
        "test": SCHEDULING,
    }
    assert {who: SCHEDULING.keys() & spec.keys() for who, spec in usual.items()} == {
        "operator": set(),
        "hook": set(),
        "test": set(),
    }


SECRETS = SCHEDULING["imagePullSecrets"]
PULLING = [
    ({}, {"imagePullSecrets": SECRETS}),
    ({"pods": {}}, {"imagePullSecrets": SECRETS}),
    ({"pods": {"labels": {"a": "b"}}}, {"labels": {"a": "b"}, "imagePullSecrets": SECRETS}),
    ({"pods": {"imagePullSecrets": [{"name": "own"}]}}, {"imagePullSecrets": [{"name": "own"}]}),
    ({"pods": {"imagePullSecrets": []}}, {"imagePullSecrets": []}),
]


@pytest.mark.parametrize(("spec", "shown"), PULLING, ids=str)
def test_the_clusters_pods_pull_with_the_charts_secrets_unless_its_spec_says_otherwise(spec: Json, shown: Json) -> None:
    assert applied(rendered(merged(in_spec(**spec), SCHEDULING)))["spec"]["pods"] == shown


def test_without_secrets_of_the_chart_the_spec_of_the_cluster_has_none() -> None:
    assert "pods" not in applied(rendered(CREATED))["spec"]


def test_the_cluster_has_the_common_labels_and_none_by_which_a_tool_would_prune_it() -> None:
    labels = {"team": "storage", "example.com/cost": "7"}
    with_labels, without = (applied(rendered(merged(CREATED, one))) for one in ({"commonLabels": labels}, {}))

    part_of = {"app.kubernetes.io/part-of": "ringkeep"}
    assert with_labels["metadata"]["labels"] == {**part_of, **labels}
    assert without["metadata"]["labels"] == part_of


def test_every_object_and_every_pod_has_the_common_labels() -> None:
    values = everything()
    documents = rendered(values)
    templates = [one["spec"]["template"] for one in documents if one["kind"] in ("Deployment", "Job")]
    lacking = [
        identity(one) for one in documents if not values["commonLabels"].items() <= one["metadata"]["labels"].items()
    ]

    assert lacking == []
    assert all(values["commonLabels"].items() <= one["metadata"]["labels"].items() for one in templates)


# -- namespaces ----------------------------------------------------------------------------------------------------


TWO = [
    (("demo", "east"), ("demo", "west")),
    # A namespace may end like one of the chart's own suffixes,
    *((("demo", "team"), ("demo", f"team-{end}")) for end in ("nodes", "view", "edit")),
    # or begin like the end of another release's name.
    (("demo", "operator-east"), ("demo-ringkeep-operator", "east")),
]


@pytest.mark.parametrize(("one", "other"), TWO, ids=str)
def test_two_releases_in_two_namespaces_share_nothing_but_the_crd(one: tuple[str, str], other: tuple[str, str]) -> None:
    """The CRD is left out where it is there already; without a cluster Helm cannot know, and renders it for both."""
    wide = []
    for release, namespace in (one, other):
        values = merged(everything(), {"watchNamespaces": [namespace]})
        documents = rendered(values, release=release, namespace=namespace)
        wide.append([identity(document) for document in documents if "namespace" not in document["metadata"]])

    assert [len(names) for names in wide] == [len(set(names)) for names in wide] == [7, 7]
    assert set(wide[0]) & set(wide[1]) == {CRD}


@pytest.mark.parametrize("namespaced", [False, True])
def test_what_has_a_namespace_is_in_that_of_the_release(namespaced: bool) -> None:
    documents = rendered(merged(everything(), {"watchNamespaces": [NAMESPACE], "rbac": {"namespaced": namespaced}}))
    bindings = [one for one in documents if one["kind"].endswith("RoleBinding")]

    assert [
        identity(one)
        for one in documents
        if one["metadata"].get("namespace") != (None if one["kind"] in CLUSTERWIDE else NAMESPACE)
    ] == []
    assert {subject["namespace"] for one in bindings for subject in one["subjects"]} == {NAMESPACE}


def test_roles_of_a_namespaced_operator_are_where_it_looks_and_nowhere_else() -> None:
    documents = rendered(merged(RESTRICTED, {"watchNamespaces": ["one", "two"]}))
    at = [(*identity(one), one["metadata"]["namespace"]) for one in documents if one["kind"].startswith("Role")]

    assert sorted(at) == sorted(
        (kind, name, where)
        for kind in ("Role", "RoleBinding")
        for name, where in ((FULLNAME, "one"), (FULLNAME, "two"), (f"{FULLNAME}-lease", NAMESPACE))
    )


def test_who_may_make_nothing_outside_of_a_namespace_can_install_it() -> None:
    documents = rendered(merged(everything(), RESTRICTED, {"watchNamespaces": []}))

    assert [identity(one) for one in documents if one["kind"] in CLUSTERWIDE] == []
    assert {one["metadata"].get("namespace") for one in documents} == {NAMESPACE}
    assert len(hooks(documents)) == 4 and len(of_kind(documents, "Deployment")) == 1


@pytest.mark.parametrize(
    ("values", "marks"),
    [({}, ["all"]), ({"watchNamespaces": ["one"]}, []), ({"rbac": {"namespaced": True}}, [])],
    ids=str,
)
def test_only_an_operator_of_all_namespaces_is_marked_as_one(values: Json, marks: list[str]) -> None:
    """By this mark another release would be refused, so whoever looks after a few must not have it."""
    bindings = of_kind(rendered(values), "ClusterRoleBinding")
    found = [one["metadata"].get("annotations", {}).get("ringkeep.dev/watches") for one in bindings]

    assert [mark for mark in found if mark is not None] == marks


# -- the hook ------------------------------------------------------------------------------------------------------


def test_the_cluster_is_applied_after_install_upgrade_and_rollback_with_an_account_made_before() -> None:
    found = {one["kind"]: one["metadata"]["annotations"] for one in hooks(rendered(CREATED))}

    after = {"post-install", "post-upgrade", "post-rollback"}
    assert {kind: set(one["helm.sh/hook"].split(",")) for kind, one in found.items()} == dict.fromkeys(
        HOOK_KINDS, after
    )
    assert {kind: one["helm.sh/hook-weight"] for kind, one in found.items()} == {
        **dict.fromkeys(HOOK_KINDS, "-1"),
        "Job": "0",
    }


@pytest.mark.parametrize("rbac", [True, False])
def test_with_an_account_of_ones_own_the_hook_brings_none(rbac: bool) -> None:
    usual = rendered(merged(CREATED, {"rbac": {"create": rbac}}, {} if rbac else {"cluster": {"create": False}}))
    documents = rendered(
        merged(CREATED, {"rbac": {"create": rbac}, "hook": {"serviceAccountName": "deployer"}}),
    )

    assert [identity(one) for one in hooks(documents)] == [("Job", HOOK)]
    assert pods(documents)["hook"]["serviceAccountName"] == "deployer"
    # All else is the same.
    left = {("Job", HOOK), ("Pod", f"{FULLNAME}-test")} | {(kind, HOOK) for kind in HOOK_KINDS}
    assert {identity(one) for one in documents} - left == {identity(one) for one in usual} - left


def test_the_hooks_own_account_may_apply_this_cluster_and_nothing_else() -> None:
    documents = rendered(called("first"))
    of_hook = {one["kind"]: one for one in hooks(documents)}

    assert {kind: one["metadata"]["name"] for kind, one in of_hook.items()} == dict.fromkeys(HOOK_KINDS, HOOK)
    assert of_hook["Role"]["rules"] == [
        {"apiGroups": ["ringkeep.dev"], "resources": ["clusters"], "verbs": ["create"]},
        {
            "apiGroups": ["ringkeep.dev"],
            "resources": ["clusters"],
            "resourceNames": ["first"],
            "verbs": ["get", "patch"],
        },
    ]
    assert of_hook["RoleBinding"]["roleRef"]["name"] == pods(documents)["hook"]["serviceAccountName"] == HOOK
    assert of_hook["RoleBinding"]["subjects"] == [{"kind": "ServiceAccount", "name": HOOK, "namespace": NAMESPACE}]


# -- the operator and what watches it ------------------------------------------------------------------------------


def test_the_operator_gets_each_setting_once_and_understands_it() -> None:
    given = {"settings": every_setting(), "watchNamespaces": ["one", "two"], "logLevel": "debug"}
    (operator,) = of_kind(rendered(given), "Deployment")
    variables = environment(operator["spec"]["template"]["spec"])
    names = [one["name"] for one in variables]
    known = settings_from({one["name"]: one.get("value", "from-the-pod") for one in variables})

    assert len(names) == len(set(names)), names
    assert known == OperatorSettings(
        namespaces=("one", "two"), resync_s=600.0, silence_s=600.0, passes=64, lease_s=60.0, log_level="debug",
        lease_namespace="from-the-pod", lease_name=FULLNAME, identity="from-the-pod",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("service", "monitor", "kinds"),
    [
        (True, False, {"Service"}),
        (False, True, {"Service", "ServiceMonitor"}),
        (True, True, {"Service", "ServiceMonitor"}),
        (False, False, set()),
    ],
)
def test_a_service_monitor_has_a_service_to_find(service: bool, monitor: bool, kinds: set[str]) -> None:
    documents = rendered({"metrics": {"service": service, "serviceMonitor": {"enabled": monitor}}})
    found = {one["kind"]: one for one in documents if one["kind"].startswith("Service") and "spec" in one}

    assert found.keys() == kinds
    for one in of_kind(documents, "ServiceMonitor"):
        assert one["spec"]["selector"]["matchLabels"].items() <= found["Service"]["metadata"]["labels"].items()
        ports = [port["name"] for port in found["Service"]["spec"]["ports"]]
        assert [row["port"] for row in one["spec"]["endpoints"]] == ports


@pytest.mark.parametrize("address", ["", "https://wiki.example/run?book=ringkeep"])
def test_every_alert_points_to_its_chapter_at_the_address_of_the_values(address: str) -> None:
    monitoring = {"rules": True, **({"runbooks": address} if address else {})}
    (made,) = of_kind(rendered({"monitoring": monitoring}), "PrometheusRule")
    alerts = [rule for group in made["spec"]["groups"] for rule in group["rules"] if "alert" in rule]
    # Counted in the files that it is made from: a rule that was lost on the way would be missed by nobody.
    written = sum(file.read_text().count("- alert:") for file in (CHART / "rules").glob("*.yaml"))

    assert len(alerts) == written > 0
    assert {rule["alert"]: rule["annotations"]["runbook_url"] for rule in alerts} == {
        rule["alert"]: f"{address or 'docs/runbooks.md'}#{rule['alert'].lower()}" for rule in alerts
    }


# -- the notes -----------------------------------------------------------------------------------------------------


def notes(values: Json, folder: Path) -> str:
    """Return the notes of an installation.

    Helm shows them only to who installs, so a copy of the chart renders the same text as an object of its own.
    """
    copied = folder / "chart"
    shutil.copytree(CHART, copied)
    templates = copied / "templates"
    text = (templates / "NOTES.txt").read_text()
    (templates / "_notes.tpl").write_text('{{- define "test.notes" -}}' + text + "{{- end -}}")
    (templates / "notes.yaml").write_text('text: {{ include "test.notes" . | toJson }}\n')
    shown = command(
        "helm", "template", RELEASE, str(copied), "--namespace", NAMESPACE, "--kube-version", KUBERNETES,
        "--show-only", "templates/notes.yaml", "--values", "-", given=json.dumps(values),
    )  # fmt: skip
    return str(yaml.load(shown, Loader=Strict)["text"])


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({}, "default"),
        (RESTRICTED, NAMESPACE),
        ({"watchNamespaces": ["one", "two"]}, "one"),
        ({"image": {"registry": "registry.example:5000", "node": {"digest": f"sha256:{'0' * 64}"}}}, "default"),
    ],
    ids=str,
)
def test_the_command_in_the_notes_that_makes_a_cluster_can_be_pasted_into_a_shell(
    values: Json, where: str, tmp_path: Path
) -> None:
    (pasted,) = (part for part in notes(values, tmp_path).split("\n\n") if "<<END" in part)
    # A real shell finds the end of the here-document. In the place of kubectl stands what shows how it was called.
    script = 'kubectl() { echo "# $*"; case "$*" in *" apply "*) cat;; esac; }\n' + pasted
    shown = command("sh", "-c", script)
    image = values.get("image", {})
    reference = f"{image['registry']}/ringkeep-node@{image['node']['digest']}" if image else "ringkeep-node:0.1.0"

    assert yaml.load(shown, Loader=Strict) == {
        "apiVersion": "ringkeep.dev/v1alpha1",
        "kind": "Cluster",
        "metadata": {"name": "demo"},
        "spec": {"replicas": 3, "image": reference},
    }
    assert [line for line in shown.splitlines() if line.startswith("#")] == [
        f"# -n {where} apply -f -",
        f"# -n {where} wait --for=condition=Ready cluster/demo --timeout=2m",
    ]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (CREATED, "`helm uninstall` keeps the Cluster and its data"),
        (merged(CREATED, {"crds": {"keep": False}}), "`helm uninstall` deletes the CRD and so EVERY Cluster"),
    ],
    ids=str,
)
def test_the_notes_say_what_uninstalling_would_delete(values: Json, says: str, tmp_path: Path) -> None:
    text = notes(values, tmp_path)
    (crd,) = of_kind(rendered(values), "CustomResourceDefinition")
    is_kept = crd["metadata"].get("annotations") == {"helm.sh/resource-policy": "keep"}

    assert says in text and text.count("`helm uninstall`") == 1
    assert is_kept == ("keeps" in says)


# -- YAML ----------------------------------------------------------------------------------------------------------

SAME = {"team": "other"}
VALUES: dict[str, Json] = {
    "defaults": {},
    "everything": everything(),
    "continuous integration": yaml.safe_load((CHART / "ci" / "two-operators-values.yaml").read_text()),
    "restricted": merged(everything(), RESTRICTED, {"watchNamespaces": []}),
    "no roles, accounts of one's own": {
        "rbac": {"create": False},
        "serviceAccount": {"create": False, "name": "mine"},
        "hook": {"serviceAccountName": "mine"},
        **CREATED,
    },
    "a label of pods that all objects have": merged(everything(), {"podLabels": SAME}),
    "a label of the ServiceMonitor that all objects have": merged(
        everything(), {"metrics": {"serviceMonitor": {"additionalLabels": SAME}}}
    ),
    "a label of the rules that all objects have": merged(everything(), {"monitoring": {"rulesLabels": SAME}}),
    "a label of the dashboard that all objects have": merged(everything(), {"monitoring": {"dashboardLabels": SAME}}),
    "an annotation of pods that the chart makes": {"podAnnotations": {"prometheus.io/scrape": "false"}},
}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES.keys())
def test_every_object_is_yaml_in_which_no_key_stands_twice(values: Json) -> None:
    documents = rendered(values)
    counts = Counter((*identity(one), one["metadata"].get("namespace")) for one in documents)

    assert [who for who, count in counts.items() if count > 1] == []
    assert all(isinstance(one["apiVersion"], str) for one in documents)


AWKWARD = [("123", "ns", "first"), ("demo", "2024", "first"), ("demo", "ns", "true"), ("demo", "ns", "null")]


@pytest.mark.parametrize(("release", "namespace", "name"), AWKWARD, ids=str)
def test_a_name_that_yaml_could_take_for_something_else_stays_a_text(release: str, namespace: str, name: str) -> None:
    """Kubernetes and Helm allow such names; a label, a name or a namespace that is no text is refused."""

    def texts(release: str, namespace: str, name: str) -> list[str]:
        documents = [
            document
            for namespaced in (False, True)
            for document in rendered(
                merged(
                    everything(), called(name), {"watchNamespaces": [namespace], "rbac": {"namespaced": namespaced}}
                ),
                release=release,
                namespace=namespace,
            )
        ]
        return sorted(json.dumps(one, sort_keys=True) for one in documents)

    plain = texts("the-release", "the-namespace", "the-cluster")
    for before, after in (("the-release", release), ("the-namespace", namespace), ("the-cluster", name)):
        plain = [text.replace(before, after) for text in plain]

    assert texts(release, namespace, name) == sorted(plain)
