"""The Cluster resource: defaults, and every offence as a sentence."""

from typing import Any

import pytest

from ringkeep_core.resource import (
    CLASS_IMMUTABLE,
    ENV_RULE,
    LABELS_RULE,
    MIN_IN_SYNC_RULE,
    MONITORING_LABELS_RULE,
    NAME_MAX,
    NAME_RULE,
    SETTINGS_FIXED,
    SETTINGS_RULE,
    SHARDS_IMMUTABLE,
    SHARDS_RULE,
    SIZE_RULE,
    SIZE_SHRINKS,
    SPEED_RULE,
    ClusterSpec,
    ClusterStatus,
    Condition,
    InvalidSpec,
    StorageStatus,
    decode_cluster,
    decode_spec,
    decode_status,
    offences_of,
    status_json,
    time_text,
)


def _cluster(spec: dict[str, Any], name: str = "demo") -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "ns", "uid": "u", "generation": 4}, "spec": spec}


def _offences(spec: dict[str, Any], name: str = "demo") -> tuple[str, ...]:
    with pytest.raises(InvalidSpec) as raised:
        decode_cluster(_cluster(spec, name))
    return raised.value.offences


def test_an_empty_spec_is_three_members_with_three_copies() -> None:
    spec = decode_cluster(_cluster({})).spec

    assert (spec.replicas, spec.replication_factor, spec.min_in_sync, spec.shards) == (3, 3, 2, 256)
    assert (spec.storage_bytes, spec.storage.class_name, spec.storage.retain.when_scaled) == (1 << 30, None, "Delete")
    assert (spec.replace_after_s, spec.grace_s, spec.move_bytes_per_s) == (60.0, 300.0, 50 << 20)


def test_a_null_is_as_if_it_were_absent() -> None:
    spec = decode_spec({"storage": {"className": None, "size": None}, "gateways": None})

    assert spec == ClusterSpec()


def test_the_metadata_is_taken_over() -> None:
    manifest = _cluster({"replicas": 5})
    manifest["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "resourceVersion": "7"}

    resource = decode_cluster(manifest)

    assert (resource.name, resource.namespace, resource.uid, resource.generation) == ("demo", "ns", "u", 4)
    assert (resource.version, resource.is_deleting, resource.spec.replicas) == ("7", True, 5)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"replicas": 0}, "spec.replicas: expected int >= 1"),
        ({"replicas": 201}, "spec.replicas: expected int <= 200"),
        ({"replicas": "3"}, "spec.replicas: expected int, got str"),
        ({"replicationFactor": 8}, "spec.replicationFactor: expected int <= 7"),
        ({"image": ""}, "spec.image: expected str of length >= 1"),
        (
            {"storage": {"retain": {"whenScaled": "Never"}}},
            "spec.storage.retain.whenScaled: invalid enum value 'Never'",
        ),
        ({"gateways": -1}, "spec.gateways: expected int >= 0"),
    ],
)
def test_a_wrong_type_or_bound_is_told_with_its_field(spec: dict[str, Any], sentence: str) -> None:
    assert _offences(spec) == (sentence,)


def test_durations_and_amounts_have_one_form() -> None:
    assert _offences({"recovery": {"replaceAfter": "1 minute"}})[0].startswith("spec.recovery.replaceAfter: ")
    assert _offences({"settings": [{"name": "services", "value": ""}]})[0].startswith("spec.settings[0].name: ")
    assert _offences({"storage": {"size": "lots"}})[0].startswith("spec.storage.size: ")


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"minInSync": 3, "replicationFactor": 2}, MIN_IN_SYNC_RULE),
        ({"shards": 100}, SHARDS_RULE),
        ({"storage": {"size": "1Mi"}}, SIZE_RULE),
        ({"storage": {"size": "100.5"}}, SIZE_RULE),
        ({"moves": {"bytesPerSecond": "2Ti"}}, SPEED_RULE),
        ({"moves": {"bytesPerSecond": "500m"}}, SPEED_RULE),
        *(({"settings": [{"name": name, "value": "x"}]}, SETTINGS_RULE) for name in SETTINGS_FIXED),
        ({"pods": {"labels": {"ringkeep.dev/cluster": "x"}}}, LABELS_RULE),
        ({"pods": {"labels": {"app.kubernetes.io/name": "x"}}}, LABELS_RULE),
        ({"monitoring": {"labels": {"ringkeep.dev/cluster": "x"}}}, MONITORING_LABELS_RULE),
        ({"pods": {"env": [{"name": "RINGKEEP_DATA", "value": "/"}]}}, ENV_RULE),
        ({"pods": {"env": [{"name": "POD_IP", "value": "::1"}]}}, ENV_RULE),
    ],
)
def test_a_rule_between_fields_is_told(spec: dict[str, Any], sentence: str) -> None:
    assert _offences(spec) == (sentence,)


@pytest.mark.parametrize("name", ["9lives", "Demo", "a.b", "a" * (NAME_MAX + 1), "a-"])
def test_a_name_that_pods_or_services_could_not_have_is_told(name: str) -> None:
    assert _offences({}, name) == (NAME_RULE,)


def test_every_offence_is_told_at_once() -> None:
    assert _offences({"minInSync": 7, "shards": 17}, "A") == (NAME_RULE, MIN_IN_SYNC_RULE, SHARDS_RULE)


def test_what_may_not_change_is_told() -> None:
    before = decode_spec({"storage": {"size": "2Gi", "className": "fast"}})
    after = decode_spec({"shards": 512, "storage": {"size": "1Gi"}})

    assert offences_of("demo", after, before) == (SHARDS_IMMUTABLE, SIZE_SHRINKS, CLASS_IMMUTABLE)
    assert offences_of("demo", decode_spec({"storage": {"size": "2048Mi", "className": "fast"}}), before) == ()


def test_a_status_is_read_as_it_was_written() -> None:
    condition = Condition(
        type="Ready", status="True", reason="AsWanted", observed_generation=3, last_transition_time="t"
    )
    status = ClusterStatus(
        cluster_id="c", storages=(StorageStatus(name="demo-0", storage_id="s"),), conditions=(condition,)
    )

    assert decode_status(status_json(status)) == status
    assert status_json(status)["conditions"][0]["observedGeneration"] == 3


@pytest.mark.parametrize("status", [None, {}, {"members": "nonsense"}])
def test_no_status_or_one_that_is_not_ours_is_an_empty_one(status: Any) -> None:
    assert decode_status(status) == ClusterStatus()


def test_times_are_written_as_kubernetes_does() -> None:
    assert time_text(1_700_000_000.9) == "2023-11-14T22:13:20Z"
