"""Every alert fires when it should, and keeps quiet when it should: promtool plays series against the chart's rules.

Each alert has a case of both kinds below. Series are in promtool's notation ("0+5x60": 0, 5, 10, ..., one a minute);
what follows after a series is quiet again is not tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # it has no types, and its stubs are not worth a dependency
from msgspec import Struct

from ringkeep_testing.promtool import asked

RULES = Path(__file__).parents[3] / "helm" / "ringkeep" / "rules"
NODES = ("n1", "n2", "n3")


class Case(Struct, frozen=True):
    """``fires`` and ``quiet`` are series by name with labels; both are judged at ``at`` (minutes)."""

    fires: Mapping[str, str]
    quiet: Mapping[str, str]
    at: int = 30


def on(name: str, *values: str, labels: str = "") -> dict[str, str]:
    """Return a series for each node: all the same, or one value each."""
    comma = f",{labels}" if labels else ""
    each = values * len(NODES) if len(values) == 1 else values
    return {f'{name}{{job="r",instance="{node}"{comma}}}': value for node, value in zip(NODES, each, strict=True)}


def buckets(name: str, upper: Mapping[str, int], labels: str = "") -> dict[str, str]:
    """Return a histogram that grows each minute by so many in and below each bucket."""
    comma = f",{labels}" if labels else ""
    return {
        f'{name}_bucket{{job="r",instance="n1",le="{bound}"{comma}}}': f"0+{count}x120"
        for bound, count in upper.items()
    }


def requests(good: int, bad: int) -> dict[str, str]:
    """Return so many requests for documents a minute, for seven hours."""
    name = 'ringkeep_node_request_duration_seconds_count{job="r",instance="n1",route="document",method="PUT"'
    return {f'{name},code="200"}}': f"0+{good}x420", f'{name},code="503"}}': f"0+{bad}x420"}


def passes(**per_minute: int) -> dict[str, str]:
    """Return passes of the operator by result."""
    name = "ringkeep_operator_pass_duration_seconds_count"
    return {
        f'{name}{{job="o",instance="o1",result="{result}"}}': f"0+{count}x120" for result, count in per_minute.items()
    }


KNOWN = "ringkeep_node_leader_known"
STATES = "ringkeep_node_cluster_shards"
CASES: dict[str, Case] = {
    "RingkeepErrorsFast": Case(requests(97, 3), requests(990, 10), 90),
    "RingkeepErrorsSlow": Case(requests(99, 1), requests(999, 5), 400),
    "RingkeepRequestsSlow": Case(
        buckets("ringkeep_node_request_duration_seconds", {"1.0": 95, "2.5": 100, "+Inf": 100}, 'route="document"'),
        buckets("ringkeep_node_request_duration_seconds", {"1.0": 100, "2.5": 100, "+Inf": 100}, 'route="document"')
        | buckets("ringkeep_node_request_duration_seconds", {"1.0": 0, "2.5": 100, "+Inf": 100}, 'route="import"'),
    ),
    "RingkeepRequestsShed": Case(
        on("ringkeep_node_requests_shed_total", "0+5x60"), on("ringkeep_node_requests_shed_total", "7x60")
    ),
    "RingkeepWritesRefused": Case(
        on("ringkeep_node_problems_total", "0+5x60", labels='error="not_enough_copies"'),
        on("ringkeep_node_problems_total", "0+5x60", labels='error="not_found"'),
    ),
    "RingkeepInternalErrors": Case(
        on("ringkeep_node_problems_total", "0x25 1x30", labels='error="internal"'),
        on("ringkeep_node_problems_total", "0 1x60", labels='error="internal"'),
    ),
    "RingkeepNoLeader": Case(on(KNOWN, "1x20 0x20"), on(KNOWN, "0x60", "1x60", "0x60")),
    "RingkeepNodeCutOff": Case(on(KNOWN, "1x60", "0x60", "1x60"), on(KNOWN, "1x29 0x30", "1x60", "1x60")),
    "RingkeepShardsWithoutPrimary": Case(
        on(STATES, "3x60", "3x60", "0x60", labels='state="without_primary"'),
        on(STATES, "256x60", "0x60", "0x60", labels='state="without_primary"')
        | on(STATES, "9x60", labels='state="moving"'),
    ),
    "RingkeepShardsBelowNeed": Case(
        on(STATES, "3x60", labels='state="unavailable"'), on(STATES, "0x29 3x30", labels='state="unavailable"')
    ),
    "RingkeepUnderReplicated": Case(
        on(STATES, "3x60", labels='state="under_replicated"'),
        on(STATES, "0x20 3x30", labels='state="under_replicated"'),
    ),
    "RingkeepNodeDead": Case(
        on("ringkeep_node_members", "1x60", "1x60", "0x60", labels='state="dead"'),
        on("ringkeep_node_members", "2x60", "0x60", "0x60", labels='state="dead"'),
    ),
    "RingkeepNodeSuspected": Case(
        on("ringkeep_node_suspicion_refutes_total", "0x60", "0+1x60", "0x60"),
        on("ringkeep_node_suspicion_refutes_total", "0x24 4x60"),
    ),
    "RingkeepNodesFlapping": Case(
        on("ringkeep_node_failure_verdicts_total", "0+1x60", labels='state="dead"'),
        on("ringkeep_node_failure_verdicts_total", "0x10 3x60", labels='state="dead"'),
        40,
    ),
    "RingkeepElections": Case(
        on("ringkeep_node_raft_elections_total", "0+1x60"), on("ringkeep_node_raft_elections_total", "0x25 1x60")
    ),
    "RingkeepMapBehind": Case(
        on("ringkeep_node_map_version", "9x60", "7x60", "9x60"),
        on("ringkeep_node_map_version", "0+2x60", "0+2x60", "0 0+2x60"),
    ),
    "RingkeepPeersRefused": Case(
        on("ringkeep_node_peers_refused_total", "0+1x60"), on("ringkeep_node_peers_refused_total", "5x60")
    ),
    "RingkeepPlanStuck": Case(
        on("ringkeep_node_plan_copies_left", "40-1x10 30x60", "0x60", "0x60"),
        on("ringkeep_node_plan_copies_left", "40-1x60", "0x60", "0x60"),
        40,
    ),
    "RingkeepSnapshotLong": Case(
        on("ringkeep_node_snapshot_streams", "1x120", labels='direction="received"'),
        on("ringkeep_node_snapshot_streams", "1x60 0 1x60", labels='direction="received"'),
        90,
    ),
    "RingkeepHandOverPauseLong": Case(
        buckets("ringkeep_node_hand_over_pause_seconds", {"0.25": 1, "0.5": 10, "+Inf": 10}),
        buckets("ringkeep_node_hand_over_pause_seconds", {"0.25": 10, "0.5": 10, "+Inf": 10}),
    ),
    "RingkeepHotShards": Case(
        on("ringkeep_node_busiest_load_share", "0.8x120"), on("ringkeep_node_busiest_load_share", "0.5x120"), 60
    ),
    "RingkeepServicesDiffer": Case(
        on("ringkeep_node_services", "5x60", "5x60", "4x60", labels='status="passing"'),
        on("ringkeep_node_services", "5x60", labels='status="passing"')
        | on("ringkeep_node_services", "0x25 1x60", "0x60", "0x60", labels='status="critical"'),
    ),
    "RingkeepServiceFlood": Case(
        on("ringkeep_node_service_events_total", "0+5x60", "0x60", "0x60", labels='event="refused"'),
        on("ringkeep_node_service_events_total", "0+5x60", labels='event="woken"'),
    ),
    "RingkeepFsyncSlow": Case(
        buckets("ringkeep_node_commit_stage_seconds", {"0.1": 90, "0.25": 100, "+Inf": 100}, 'stage="fsync"'),
        buckets("ringkeep_node_commit_stage_seconds", {"0.1": 100, "0.25": 100, "+Inf": 100}, 'stage="fsync"')
        | buckets("ringkeep_node_commit_stage_seconds", {"0.1": 0, "0.25": 100, "+Inf": 100}, 'stage="log_wait"'),
    ),
    "RingkeepDiskStalled": Case(
        on("ringkeep_node_disk_stalled", "0x60", "1x60", "0x60"), on("ringkeep_node_disk_stalled", "0x29 1x0 0x60")
    ),
    "RingkeepDiskNearlyFull": Case(
        on("ringkeep_node_disk_volume_bytes", "1000x60") | on("ringkeep_node_disk_free_bytes", "90x60"),
        on("ringkeep_node_disk_volume_bytes", "1000x60") | on("ringkeep_node_disk_free_bytes", "110x60"),
    ),
    "RingkeepDiskFull": Case(
        on("ringkeep_node_disk_full", "0x60", "0x60", "1x60"), on("ringkeep_node_disk_full", "0x60")
    ),
    "RingkeepBacklog": Case(
        on("ringkeep_node_log_queued_bytes", "20000000x60") | on("ringkeep_node_store_queued_bytes", "20000000x60"),
        on("ringkeep_node_log_queued_bytes", "20000000x28 0x60")
        | on("ringkeep_node_store_queued_bytes", "20000000x60"),
    ),
    "RingkeepLoopLag": Case(
        buckets("ringkeep_node_loop_lag_seconds", {"0.2": 90, "0.5": 100, "+Inf": 100}),
        buckets("ringkeep_node_loop_lag_seconds", {"0.2": 100, "0.5": 100, "+Inf": 100}),
    ),
    "RingkeepLogLinesDropped": Case(
        on("ringkeep_node_log_lines_dropped_total", "0x25 10x60"), on("ringkeep_node_log_lines_dropped_total", "10x60")
    ),
    "RingkeepOperatorDown": Case(
        {'ringkeep_operator_leading{job="o",instance="o1"}': "0x60"},
        {
            'ringkeep_operator_leading{job="o",instance="o1"}': "0x60",
            'ringkeep_operator_leading{job="o",instance="o2"}': "1x60",
        },
    ),
    "RingkeepOperatorFailing": Case(passes(failed=2, converged=0), passes(failed=2, acted=1)),
    "RingkeepOperatorRefuses": Case(passes(refused=1), passes(refused=0, converged=5), 60),
    "RingkeepOperatorPassesSlow": Case(
        buckets("ringkeep_operator_pass_duration_seconds", {"10.0": 1, "30.0": 10, "+Inf": 10}, 'result="acted"'),
        buckets("ringkeep_operator_pass_duration_seconds", {"10.0": 10, "30.0": 10, "+Inf": 10}, 'result="acted"'),
        60,
    ),
    "RingkeepOperatorWatchStale": Case(
        {'ringkeep_operator_watch_age_seconds{job="o",kind="Pod"}': "0+60x60"},
        {'ringkeep_operator_watch_age_seconds{job="o",kind="Pod"}': "60x60"},
    ),
    "RingkeepOperatorWatchRestarts": Case(
        {'ringkeep_operator_watch_restarts_total{job="o",kind="Pod"}': "0+5x60"},
        {'ringkeep_operator_watch_restarts_total{job="o",kind="Pod"}': "0+1x60"},
    ),
    "RingkeepOperatorWritesWhenIdle": Case(
        {'ringkeep_operator_writes_total{job="o",verb="apply",kind="StatefulSet"}': "0+1x200"},
        {
            'ringkeep_operator_writes_total{job="o",verb="apply",kind="StatefulSet"}': "0+1x30 30x200",
            'ringkeep_operator_writes_total{job="o",verb="replace",kind="Lease"}': "0+6x200",
        },
        120,
    ),
}


def groups() -> list[dict[str, Any]]:
    """Return every group of rules."""
    return [group for file in sorted(RULES.glob("*.yaml")) for group in yaml.safe_load(file.read_text())["groups"]]


def only(alert: str) -> dict[str, Any]:
    """Return the group of an alert with nothing else in it but what is recorded: all rules together take seconds."""
    for group in groups():
        if any(rule.get("alert") == alert for rule in group["rules"]):
            return {**group, "rules": [rule for rule in group["rules"] if rule.get("alert", alert) == alert]}
    raise AssertionError(f"there is no alert {alert}")


def test_every_alert_has_its_cases() -> None:
    alerts = [rule["alert"] for group in groups() for rule in group["rules"] if "alert" in rule]

    assert sorted(alerts) == sorted(CASES)


@pytest.mark.parametrize("alert", CASES)
def test_an_alert_fires_when_it_should_and_not_otherwise(alert: str, tmp_path: Path) -> None:
    case = CASES[alert]
    query = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}} > 0) > bool 0 or vector(0)'
    tests = [
        {
            "name": f"{alert}, {said}",
            "interval": "1m",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "promql_expr_test": [
                {"expr": query, "eval_time": f"{case.at}m", "exp_samples": [{"labels": "{}", "value": float(fires)}]}
            ],
        }
        for said, series, fires in (("fires", case.fires, True), ("keeps quiet", case.quiet, False))
    ]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [only(alert)]}))
    whole = {"rule_files": ["rules.yaml"], "evaluation_interval": "30s", "tests": tests}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(whole))

    assert asked("test", "rules", "tests.yaml", folder=tmp_path) == (0, "Unit Testing:  tests.yaml\n  SUCCESS\n\n")
