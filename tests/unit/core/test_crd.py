"""The CustomResourceDefinition says what the types say, in a form that the API server takes."""

from collections.abc import Iterator
from typing import Any

from ringkeep_core import resource
from ringkeep_core.crd import crd
from ringkeep_core.resource import ClusterSpec, decode_spec


def _version() -> dict[str, Any]:
    (version,) = crd()["spec"]["versions"]
    assert isinstance(version, dict)
    return version


def _root() -> dict[str, Any]:
    root = _version()["schema"]["openAPIV3Schema"]
    assert isinstance(root, dict)
    return root


def _parts(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from _parts(part, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from _parts(schema[key], f"{path}[]")


def _filled(schema: dict[str, Any], value: Any) -> Any:
    """Fill in defaults as the API server does: from the outside in."""
    if schema.get("type") != "object" or "properties" not in schema:
        return value
    filled = dict(value)
    for name, part in schema["properties"].items():
        if name not in filled and "default" in part:
            filled[name] = part["default"]
        if name in filled:
            filled[name] = _filled(part, filled[name])
    return filled


def test_it_is_named_and_scoped_as_people_know_it() -> None:
    made = crd()

    assert made["metadata"]["name"] == "clusters.ringkeep.dev"
    assert made["spec"]["names"] == {
        "kind": "Cluster",
        "listKind": "ClusterList",
        "plural": "clusters",
        "singular": "cluster",
        "shortNames": ["rk"],
        "categories": ["ringkeep"],
    }
    assert (made["spec"]["scope"], _version()["name"]) == ("Namespaced", "v1alpha1")


def test_scalers_find_what_they_need() -> None:
    assert _version()["subresources"] == {
        "status": {},
        "scale": {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    }


def test_the_columns_are_the_promised_ones_and_show_fields_that_exist() -> None:
    columns = _version()["additionalPrinterColumns"]
    known = {path for path, _ in _parts(_root())}

    assert [c["name"] for c in columns] == ["Desired", "Ready", "Leader", "Shards-OK", "Moving", "Map", "Age"]
    assert {c["jsonPath"] for c in columns} - known == {".metadata.creationTimestamp"}


def test_the_defaults_of_the_schema_are_those_of_the_types() -> None:
    filled = _filled(_root(), {})

    assert decode_spec(filled["spec"]) == ClusterSpec()
    assert set(filled["spec"]) == set(_root()["properties"]["spec"]["properties"])


def test_every_field_of_the_spec_is_described_and_every_text_and_list_is_bounded() -> None:
    spec = _root()["properties"]["spec"]
    bare = [path for path, part in _parts(spec) if "description" not in part and "[]" not in path]
    endless = [
        path
        for path, part in _parts(spec)
        if (part.get("type") == "string" and "maxLength" not in part and "enum" not in part)
        or (part.get("type") == "array" and "maxItems" not in part)
        or ("additionalProperties" in part and "maxProperties" not in part)
    ]

    assert (bare, endless) == ([], [])


def test_the_schema_is_structural() -> None:
    loose = [
        path
        for path, part in _parts(_root())
        if ("type" not in part and not part.get("x-kubernetes-int-or-string"))
        or "$ref" in part
        or "nullable" in part
        or "x-kubernetes-preserve-unknown-fields" in part
    ]

    assert loose == []


def test_the_rules_say_the_same_sentences_as_the_operator() -> None:
    rules = {
        (path, rule["message"]) for path, part in _parts(_root()) for rule in part.get("x-kubernetes-validations", [])
    }

    assert rules == {
        ("", resource.NAME_RULE),
        (".spec", resource.MIN_IN_SYNC_RULE),
        (".spec.shards", resource.SHARDS_RULE),
        (".spec.shards", resource.SHARDS_IMMUTABLE),
        (".spec.storage", resource.CLASS_IMMUTABLE),
        (".spec.storage.size", resource.SIZE_RULE),
        (".spec.storage.size", resource.SIZE_SHRINKS),
        (".spec.moves.bytesPerSecond", resource.SPEED_RULE),
        (".spec.settings", resource.SETTINGS_RULE),
        (".spec.pods.labels", resource.LABELS_RULE),
        (".spec.monitoring.labels", resource.MONITORING_LABELS_RULE),
        (".spec.pods.env", resource.ENV_RULE),
    }


def test_a_setting_a_variable_and_a_secret_are_named_once() -> None:
    fields = _root()["properties"]["spec"]["properties"]
    settings, variables = fields["settings"], fields["pods"]["properties"]["env"]
    named = (settings, variables, fields["pods"]["properties"]["imagePullSecrets"])

    assert [(one["x-kubernetes-list-type"], one["x-kubernetes-list-map-keys"]) for one in named] == [
        ("map", ["name"])
    ] * 3
    assert settings["items"]["required"] == variables["items"]["required"] == ["name", "value"]


def test_what_may_not_change_is_compared_with_what_it_was() -> None:
    changes = {
        path
        for path, part in _parts(_root())
        for rule in part.get("x-kubernetes-validations", [])
        if "oldSelf" in rule["rule"]
    }

    assert changes == {".spec.shards", ".spec.storage", ".spec.storage.size"}


def test_conditions_are_a_map_by_type_whose_key_is_required() -> None:
    conditions = _root()["properties"]["status"]["properties"]["conditions"]

    assert (conditions["x-kubernetes-list-type"], conditions["x-kubernetes-list-map-keys"]) == ("map", ["type"])
    assert "type" in conditions["items"]["required"]


def test_it_is_the_same_each_time() -> None:
    assert crd() == crd()
