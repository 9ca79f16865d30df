"""Metrics: the cheap histogram counts right, the page is what the format wants, names and labels are closed sets."""

from __future__ import annotations

import re

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from ringkeep_node.metrics import (
    LABELLED,
    SCALARS,
    Durations,
    NodeMetrics,
    NodeNumbers,
    NodePage,
    described,
)
from ringkeep_testing.promtool import check_metrics


def page_of(numbers: NodeNumbers | None = None, metrics: NodeMetrics | None = None) -> NodePage:
    return NodePage(
        metrics or NodeMetrics(),
        numbers=lambda: numbers or NodeNumbers(),
        problems=lambda: {"not_found": 2, "internal": 0},
        dropped=lambda: 4,
        version="1.2.3",
    )


def exposed(numbers: NodeNumbers | None = None, metrics: NodeMetrics | None = None) -> list[Metric]:
    text = page_of(numbers, metrics)().decode()
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

    assert values(families, "ringkeep_node_request_duration_seconds_count") == {("document", "PUT", "201"): 2.0}
    assert values(families, "ringkeep_node_request_duration_seconds_sum") == {("document", "PUT", "201"): 0.006}
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


def test_every_family_is_shown_as_it_is_described_and_no_other() -> None:
    metrics = NodeMetrics()
    metrics.requests.observe("document", "PUT", 201, 0.002)
    shown = [
        (
            family.name + ("_total" if family.type == "counter" else ""),
            family.type,
            {label for sample in family.samples for label in sample.labels} - {"le"},
            family.documentation,
        )
        for family in exposed(metrics=metrics)
    ]

    assert shown == [
        (f"ringkeep_node_{one.name}", one.kind, {label for label, _ in one.labels}, one.text) for one in described()
    ]


def test_every_value_of_a_described_label_is_shown_from_the_start() -> None:
    families = {family.name: family for family in exposed()}
    missing = [
        (one.name, label, value)
        for one in described()
        for label, values in one.labels
        for value in values
        if not any(
            sample.labels[label] == value
            for sample in families[f"ringkeep_node_{one.name.removesuffix('_total')}"].samples
        )
    ]

    assert missing == []


def test_no_name_or_label_or_text_needs_escaping() -> None:
    words = [
        word
        for one in described()
        for word in (
            one.name,
            *(label for label, _ in one.labels),
            *(value for _, values in one.labels for value in values),
        )
    ]

    assert [word for word in words if not re.fullmatch(r"[a-z_]+", word)] == []
    assert [one.text for one in described() if "\\" in one.text or "\n" in one.text] == []


def test_problems_are_counted_by_their_code() -> None:
    assert values(exposed(), "ringkeep_node_problems_total") == {("internal",): 0.0, ("not_found",): 2.0}


def test_promtool_has_nothing_to_say_about_the_page() -> None:
    metrics = NodeMetrics()
    metrics.requests.observe("document", "PUT", 201, 0.002)

    assert check_metrics(page_of(metrics=metrics)()) == ""


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
