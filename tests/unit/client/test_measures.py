"""Numbers from two scrapes: rates, quantiles of bucket differences, counters that begin anew."""

from __future__ import annotations

import math
from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from ringkeep.measures import (
    Figures,
    Histogram,
    Scrape,
    added,
    figures_of,
    grown,
    histograms,
    samples_of,
    together,
    value,
)
from ringkeep_node.metrics import Durations, NodeMetrics, NodeNumbers, NodePage

BOUNDS = (0.001, 0.01, 0.1, 1.0)
DURATIONS = st.lists(st.floats(min_value=1e-4, max_value=5.0), max_size=60)


def histogram_of(durations: list[float]) -> Histogram:
    """Return the histogram that a node keeps of these durations."""
    kept = Durations(BOUNDS)
    for duration in durations:
        kept.observe(duration)
    rows = kept.buckets()
    return Histogram(tuple(float(bound) for bound, _ in rows), tuple(count for _, count in rows), kept.sum_s)


def page(metrics: NodeMetrics, numbers: NodeNumbers | None = None) -> str:
    """Return what a node with these numbers answers to a scrape."""
    shown = numbers or NodeNumbers()
    return NodePage(metrics, numbers=lambda: shown, problems=lambda: {}, dropped=lambda: 0, version="test").text()


@given(DURATIONS, DURATIONS)
def test_the_difference_of_two_histograms_is_the_histogram_of_what_came_between(
    first: list[float], second: list[float]
) -> None:
    between = histogram_of(first + second).since(histogram_of(first))
    expected = histogram_of(second)

    assert (between.bounds, between.counts) == (expected.bounds, expected.counts)
    assert math.isclose(between.sum, expected.sum, abs_tol=1e-9)


@given(DURATIONS, DURATIONS)
def test_a_histogram_that_began_anew_never_gives_a_negative_count(first: list[float], second: list[float]) -> None:
    between = histogram_of(second).since(histogram_of(first))

    assert min(between.counts) >= 0
    assert between.count <= len(second)
    assert list(between.counts) == sorted(between.counts)


@given(DURATIONS.filter(bool), st.lists(st.floats(min_value=0, max_value=1), min_size=2, max_size=6))
def test_a_quantile_lies_in_the_bucket_of_the_observation_it_stands_for_and_grows_with_its_share(
    durations: list[float], shares: list[float]
) -> None:
    held = histogram_of(durations)
    ordered = sorted(durations)
    told = [held.quantile(share) for share in sorted(shares)]

    for share, quantile in zip(sorted(shares), told, strict=True):
        assert quantile is not None
        rank = max(1, math.ceil(share * len(ordered) - 1e-9))
        place = bisect_left(BOUNDS, ordered[rank - 1])
        lower, upper = (0.0, *BOUNDS)[place], (*BOUNDS, BOUNDS[-1])[place]
        assert lower - 1e-12 <= quantile <= upper + 1e-12
    assert told == sorted(one for one in told if one is not None)


@given(st.lists(DURATIONS, max_size=5))
def test_several_nodes_together_are_as_one_node_that_saw_everything(nodes: list[list[float]]) -> None:
    whole = together(histogram_of(durations) for durations in nodes)
    expected = histogram_of([duration for durations in nodes for duration in durations])

    assert whole.counts == (expected.counts if nodes else ())
    assert math.isclose(whole.sum, expected.sum, abs_tol=1e-9)


def test_nothing_observed_has_no_quantile_and_no_mean() -> None:
    assert [Histogram().quantile(0.5), histogram_of([]).quantile(0.99), histogram_of([]).mean] == [None, None, None]


def test_what_is_above_every_bound_is_told_as_the_last_bound() -> None:
    assert histogram_of([3.0, 4.0]).quantile(0.5) == 1.0


@given(st.floats(min_value=0, max_value=1e12), st.floats(min_value=0, max_value=1e12))
def test_a_counter_never_shrinks_and_what_it_shows_after_a_new_start_is_its_growth(before: float, after: float) -> None:
    assert grown(before, after) == (after - before if after >= before else after)
    assert grown(before, after) >= 0


@given(
    st.dictionaries(st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1), st.floats(0, 1e9), max_size=5)
)
def test_the_page_of_metrics_is_read_back_with_whatever_is_in_a_label(values: dict[str, float]) -> None:
    quoted = {name: name.replace("\\", "\\\\").replace('"', '\\"') for name in values}
    lines = [f'thing{{name="{quoted[name]}"}} {number!r}' for name, number in values.items()]
    text = "\n".join(["# HELP thing a thing", "# TYPE thing gauge", *lines, "nonsense", "broken{ 1", "half 1x", ""])

    assert samples_of(text) == (
        {"thing": {(("name", name),): number for name, number in values.items()}} if values else {}
    )


def test_the_figures_of_a_node_are_those_of_the_seconds_between_two_scrapes() -> None:
    metrics = NodeMetrics()
    metrics.requests.observe("document", "GET", 200, 0.5)
    metrics.stages.fsync.observe(0.004)
    first = Scrape(10.0, samples_of(page(metrics, NodeNumbers(writes_committed=100, copy_bytes=5000))))
    for _ in range(99):
        metrics.requests.observe("document", "PUT", 201, 0.002)
    metrics.requests.observe("documents", "GET", 200, 0.2)
    for _ in range(50):
        metrics.requests.observe("metrics", "GET", 200, 0.9)
    metrics.stages.fsync.observe(0.002)
    metrics.loop_lag.observe(0.003)
    numbers = NodeNumbers(
        writes_committed=300,
        reads_answered={"strict": 40, "local": 10},
        copy_bytes=6000,
        log_bytes=70,
        disk_free_bytes=8,
    )
    figures, latencies = figures_of(first, Scrape(12.0, samples_of(page(metrics, numbers))))

    assert latencies.count == 100
    assert figures == Figures(
        requests_per_s=50.0,
        writes_per_s=100.0,
        reads_per_s=25.0,
        p50_s=latencies.quantile(0.5),
        p99_s=latencies.quantile(0.99),
        fsync_s=figures.fsync_s,
        loop_lag_s=figures.loop_lag_s,
        copy_bytes=6000.0,
        log_bytes=70.0,
        disk_free_bytes=8.0,
    )
    assert 0.001 < (figures.p50_s or 0) <= 0.0025
    assert math.isclose(figures.fsync_s or 0, 0.002)
    assert 0.001 < (figures.loop_lag_s or 0) <= 0.005


def test_one_scrape_says_how_much_is_there_and_nothing_of_rates() -> None:
    scrape = Scrape(10.0, samples_of(page(NodeMetrics(), NodeNumbers(copy_bytes=7, log_bytes=8, disk_free_bytes=9))))

    expected = Figures(copy_bytes=7.0, log_bytes=8.0, disk_free_bytes=9.0)
    assert figures_of(None, scrape) == (expected, Histogram())
    assert figures_of(scrape, scrape) == (expected, Histogram())


def test_a_process_that_started_anew_counts_from_zero_even_where_it_counts_more_than_before() -> None:
    old, young = NodeMetrics(), NodeMetrics()
    old.requests.observe("document", "GET", 200, 0.5)
    for _ in range(10):
        young.requests.observe("document", "GET", 200, 0.002)
    before = Scrape(10.0, samples_of(page(old, NodeNumbers(writes_committed=5)) + "process_start_time_seconds 1\n"))
    after = Scrape(12.0, samples_of(page(young, NodeNumbers(writes_committed=8)) + "process_start_time_seconds 9\n"))
    figures, latencies = figures_of(before, after)

    assert (figures.has_restarted, figures.requests_per_s, figures.writes_per_s) == (True, 5.0, 4.0)
    assert latencies.quantile(0.99) is not None and (latencies.quantile(0.99) or 1) <= 0.0025


def test_the_whole_cluster_adds_rates_and_bytes_and_tells_the_worst_sync_and_loop() -> None:
    one = Figures(requests_per_s=10.0, fsync_s=0.002, loop_lag_s=0.001, copy_bytes=5.0, disk_free_bytes=70.0)
    other = Figures(requests_per_s=5.0, fsync_s=0.009, copy_bytes=6.0, disk_free_bytes=30.0)
    latencies = histogram_of([0.005] * 10)

    assert added([one, other, Figures()], latencies) == Figures(
        requests_per_s=15.0,
        p50_s=latencies.quantile(0.5),
        p99_s=latencies.quantile(0.99),
        fsync_s=0.009,
        loop_lag_s=0.001,
        copy_bytes=11.0,
        disk_free_bytes=30.0,
    )
    assert added([], Histogram()) == Figures()


def test_a_metric_that_is_not_there_has_no_value() -> None:
    assert (value({}, "ringkeep_node_log_bytes"), histograms({}, "x")) == (None, {})
