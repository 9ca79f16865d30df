"""Metrics: the cheap histogram counts right, names and labels are closed sets, and the documentation lists each."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from ringkeep_node.metrics import (
    LABELLED,
    SCALARS,
    Durations,
    NodeCollector,
    NodeMetrics,
    NodeNumbers,
    registry_of,
)

DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"


def exposed(numbers: NodeNumbers | None = None, metrics: NodeMetrics | None = None) -> list[Metric]:
    metrics = metrics or NodeMetrics()
    collector = NodeCollector(metrics, numbers=lambda: numbers or NodeNumbers(), dropped=lambda: 4, version="1.2.3")
    text = generate_latest(registry_of(collector)).decode()
    return [family for family in text_string_to_metric_families(text) if family.name.startswith("ringkeep_")]


def values(families: list[Metric], name: str) -> dict[tuple[str, ...], float]:
    return {
        tuple(sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
        if sample.name == name
    }


def test_the_histogram_counts_as_the_library_s_own_does() -> None:
    bounds = (0.001, 0.01, 0.1, 1.0)
    ours = Durations(bounds)
    registry = CollectorRegistry()
    theirs = Histogram("x", "x", buckets=bounds, registry=registry)
    for seconds in (0.0, 0.0005, 0.001, 0.0011, 0.01, 0.5, 1.0, 1.5, 99.0):
        ours.observe(seconds)
        theirs.observe(seconds)
    expected = [
        (float(sample.labels["le"]), sample.value)
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "x_bucket"
    ]

    assert [(float(bound), count) for bound, count in ours.buckets()] == expected
    assert (ours.count, round(ours.sum_s, 4)) == (9, 102.0126)


def test_numbers_of_the_moment_become_metrics() -> None:
    families = exposed(
        NodeNumbers(
            open_requests=3,
            shed=2,
            raft_is_leader=True,
            map_version=1_099_511_627_777,
            members={"alive": 3, "dead": 1},
            gossip_bytes={"sent": 10},
            shards={("primary", "ok"): 85, ("in_sync", "moving"): 1},
        )
    )

    assert values(families, "ringkeep_node_requests_in_flight") == {(): 3.0}
    assert values(families, "ringkeep_node_requests_shed_total") == {(): 2.0}
    assert values(families, "ringkeep_node_raft_leader") == {(): 1.0}
    assert values(families, "ringkeep_node_map_version") == {(): 1_099_511_627_777.0}
    assert values(families, "ringkeep_node_members") == {
        ("joining",): 0.0,
        ("alive",): 3.0,
        ("suspect",): 0.0,
        ("dead",): 1.0,
        ("left",): 0.0,
    }
    assert values(families, "ringkeep_node_gossip_bytes_total") == {("sent",): 10.0, ("received",): 0.0}
    assert sum(values(families, "ringkeep_node_shards").values()) == 86.0
    assert values(families, "ringkeep_node_log_lines_dropped_total") == {(): 4.0}
    assert values(families, "ringkeep_node_info") == {("1.2.3",): 1.0}


def test_what_code_observes_becomes_histograms() -> None:
    metrics = NodeMetrics()
    metrics.requests.observe("document", "PUT", 201, 0.002)
    metrics.requests.observe("document", "PUT", 201, 0.004)
    metrics.stages.fsync.observe(0.003)
    metrics.loop_lag.observe(0.5)
    families = exposed(metrics=metrics)

    assert values(families, "ringkeep_node_request_duration_seconds_count") == {("201", "PUT", "document"): 2.0}
    assert values(families, "ringkeep_node_request_duration_seconds_sum") == {("201", "PUT", "document"): 0.006}
    assert values(families, "ringkeep_node_commit_stage_seconds_count") == {
        ("log_wait",): 0.0,
        ("fsync",): 1.0,
        ("replicate",): 0.0,
    }
    assert values(families, "ringkeep_node_loop_lag_seconds_count") == {(): 1.0}


def test_every_number_of_a_node_is_shown() -> None:
    sources = {scalar.source for scalar in SCALARS} | {labelled.source for labelled in LABELLED}
    sources |= {"shards", "hand_over_pauses"}

    assert sources == set(NodeNumbers.__struct_fields__)


def test_the_documentation_lists_every_metric_with_its_type_and_labels_and_no_other() -> None:
    metrics = NodeMetrics()
    metrics.requests.observe("document", "PUT", 201, 0.002)
    shown = {}
    for family in exposed(metrics=metrics):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        shown[name] = (family.type, labels)
    rows = re.findall(r"^\| `(ringkeep_node_\w+)` \| (\w+) \|([^|]*)\|", DOCS.read_text(), re.MULTILINE)
    documented = {
        name: (kind, {part.strip().split("`")[1] for part in labels.split("; ") if "`" in part})
        for name, kind, labels in rows
    }
    documented["ringkeep_node_request_duration_seconds"] = ("histogram", {"route", "method", "code"})

    assert documented == shown


def test_the_documentation_names_every_value_of_a_label() -> None:
    text = DOCS.read_text()
    missing = [
        (labelled.name, value)
        for labelled in LABELLED
        for row in re.findall(rf"^\| `ringkeep_node_{labelled.name}` .*$", text, re.MULTILINE)
        for value in labelled.values
        if f"`{value}`" not in row
    ]

    assert missing == []


def test_hand_overs_and_their_pauses_are_shown() -> None:
    pauses = Durations((0.01, 0.03))
    pauses.observe(0.02)
    families = exposed(NodeNumbers(hand_overs={"moved": 1}, hand_over_pauses=pauses))

    assert values(families, "ringkeep_node_hand_overs_total") == {("moved",): 1.0, ("kept",): 0.0}
    assert values(families, "ringkeep_node_hand_over_pause_seconds_bucket") == {
        ("0.01",): 0,
        ("0.03",): 1,
        ("+Inf",): 1,
    }
