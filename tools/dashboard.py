"""Write the Grafana dashboard of the chart, helm/ringkeep/files/dashboard.json, from the table of panels below.

usage: python tools/dashboard.py [--check]

Every query is limited to the cluster that is chosen at the top; tests execute all of them on a real Prometheus.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parent.parent
FILE: Final = ROOT / "helm" / "ringkeep" / "files" / "dashboard.json"
WHERE: Final = 'namespace=~"$namespace",cluster=~"$cluster"'
HEIGHT: Final = 8
PER_ROW: Final = 3
WIDTH: Final = 24 // PER_ROW


class Panel(NamedTuple):
    """A graph: its queries with the legend of each. ``W`` in a query stands for the chosen cluster."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    text: str = ""


def share(family: str, quantile: float, by: str = "", matchers: str = "") -> str:
    """Return the query of a quantile of a histogram."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({quantile}, sum by ({labels}) (rate({family}_bucket{{{matchers}W}}[$__rate_interval])))"


def rate(counter: str, by: str, matchers: str = "") -> str:
    """Return the query of the rate of a counter."""
    return f"sum by ({by}) (rate({counter}{{{matchers}W}}[$__rate_interval]))"


REQUESTS: Final = "ringkeep_node_request_duration_seconds"
STAGES: Final = "ringkeep_node_commit_stage_seconds"
PASSES: Final = "ringkeep_operator_pass_duration_seconds"
DOCUMENT: Final = 'route="document",'

ROWS: Final[tuple[tuple[str, tuple[Panel, ...]], ...]] = (
    (
        "What users see",
        (
            Panel("Requests", "reqps", ((rate(f"{REQUESTS}_count", "route, method"), "{{route}} {{method}}"),)),
            Panel(
                "Problems",
                "reqps",
                ((rate("ringkeep_node_problems_total", "error") + " > 0", "{{error}}"),),
                "Answers with a problem document, by its code. not_found and version_mismatch are answers like others.",
            ),
            Panel(
                "Latency of single documents",
                "s",
                tuple((share(REQUESTS, q, "method", DOCUMENT), f"{{{{method}}}} p{q * 100:g}") for q in (0.5, 0.99)),
            ),
            Panel(
                "In flight",
                "short",
                (("sum by (instance) (ringkeep_node_requests_in_flight{W})", "{{instance}}"),),
                "Refused as overloaded when a node has as many as it may.",
            ),
            Panel(
                "Forwards, retries, shed",
                "reqps",
                (
                    (rate("ringkeep_node_forwards_total", "job"), "forwards"),
                    (rate("ringkeep_node_retries_total", "job"), "retries"),
                    (rate("ringkeep_node_requests_shed_total", "job"), "shed"),
                ),
            ),
            Panel(
                "Committed and read",
                "ops",
                (
                    (rate("ringkeep_node_writes_committed_total", "job"), "writes"),
                    (rate("ringkeep_node_reads_answered_total", "consistency"), "reads, {{consistency}}"),
                ),
            ),
        ),
    ),
    (
        "The cluster",
        (
            Panel(
                "Shards by state",
                "short",
                (("max by (state) (ringkeep_node_cluster_shards{W})", "{{state}}"),),
                "As the node sees them that sees most in that state.",
            ),
            Panel("Members by state", "short", (("max by (state) (ringkeep_node_members{W})", "{{state}}"),)),
            Panel(
                "Primaries",
                "short",
                (('sum by (instance) (ringkeep_node_shards{role="primary",W})', "{{instance}}"),),
            ),
            Panel(
                "Leader and term",
                "short",
                (
                    ("max by (instance) (ringkeep_node_raft_leader{W}) > 0", "leader {{instance}}"),
                    ("max(ringkeep_node_raft_term{W})", "term"),
                ),
            ),
            Panel(
                "Elections, verdicts, refutes",
                "short",
                (
                    ("sum(increase(ringkeep_node_raft_elections_total{W}[5m]))", "elections"),
                    ("max by (state) (increase(ringkeep_node_failure_verdicts_total{W}[5m]))", "called {{state}}"),
                    ("sum(increase(ringkeep_node_suspicion_refutes_total{W}[5m]))", "refuted"),
                ),
            ),
            Panel(
                "Map version",
                "short",
                (("max by (instance) (ringkeep_node_map_version{W})", "{{instance}}"),),
                "All the same, but for moments.",
            ),
        ),
    ),
    (
        "Where the time goes",
        (
            Panel(
                "Stages of a commit, p50 and p99",
                "s",
                tuple((share(STAGES, q, "stage"), f"{{{{stage}}}} p{q * 100:g}") for q in (0.5, 0.99)),
            ),
            Panel(
                "Sync of the log, p99 by node",
                "s",
                ((share(STAGES, 0.99, "instance", 'stage="fsync",'), "{{instance}}"),),
            ),
            Panel(
                "Lateness of the loop, p99 by node",
                "s",
                ((share("ringkeep_node_loop_lag_seconds", 0.99, "instance"), "{{instance}}"),),
            ),
            Panel(
                "Processor",
                "percentunit",
                (
                    (
                        "sum by (instance) (rate(process_cpu_seconds_total{W}[$__rate_interval])"
                        " and on (instance) ringkeep_node_info{W})",
                        "{{instance}}",
                    ),
                ),
            ),
            Panel(
                "Memory",
                "bytes",
                (
                    (
                        "sum by (instance) (process_resident_memory_bytes{W} and on (instance) ringkeep_node_info{W})",
                        "{{instance}}",
                    ),
                ),
            ),
            Panel(
                "Waiting for log and store",
                "bytes",
                (
                    ("sum by (instance) (ringkeep_node_log_queued_bytes{W})", "log {{instance}}"),
                    ("sum by (instance) (ringkeep_node_store_queued_bytes{W})", "store {{instance}}"),
                ),
            ),
        ),
    ),
    (
        "Moves and disks",
        (
            Panel(
                "Copies still to move",
                "short",
                (
                    ("sum(ringkeep_node_plan_copies_left{W})", "left"),
                    (rate("ringkeep_node_copies_moved_total", "job"), "moved a second"),
                ),
            ),
            Panel(
                "Snapshots",
                "Bps",
                ((rate("ringkeep_node_snapshot_bytes_total", "direction"), "{{direction}}"),),
            ),
            Panel(
                "Pause of a hand-over, p99",
                "s",
                ((share("ringkeep_node_hand_over_pause_seconds", 0.99), "p99"),),
            ),
            Panel(
                "Free on the volume",
                "percentunit",
                (
                    (
                        "max by (instance) (ringkeep_node_disk_free_bytes{W} / ringkeep_node_disk_volume_bytes{W})",
                        "{{instance}}",
                    ),
                ),
            ),
            Panel(
                "Copies and log on disk",
                "bytes",
                (
                    ("sum by (instance) (ringkeep_node_copy_bytes{W})", "copies {{instance}}"),
                    ("sum by (instance) (ringkeep_node_log_bytes{W})", "log {{instance}}"),
                ),
            ),
            Panel(
                "Between nodes",
                "Bps",
                (
                    (rate("ringkeep_node_peer_bytes_total", "direction"), "frames {{direction}}"),
                    (rate("ringkeep_node_gossip_bytes_total", "direction"), "gossip {{direction}}"),
                ),
            ),
        ),
    ),
    (
        "Services",
        (
            Panel("Instances by status", "short", (("max by (status) (ringkeep_node_services{W})", "{{status}}"),)),
            Panel("What happened", "ops", ((rate("ringkeep_node_service_events_total", "event"), "{{event}}"),)),
            Panel(
                "Waiting queries", "short", (("sum by (instance) (ringkeep_node_service_waits{W})", "{{instance}}"),)
            ),
        ),
    ),
    (
        "The operator (of all clusters)",
        (
            Panel(
                "Passes by result",
                "ops",
                ((f"sum by (result) (rate({PASSES}_count[$__rate_interval]))", "{{result}}"),),
            ),
            Panel(
                "Duration of a pass, p99",
                "s",
                ((f"histogram_quantile(0.99, sum by (le) (rate({PASSES}_bucket[$__rate_interval])))", "p99"),),
            ),
            Panel(
                "Writes",
                "ops",
                (
                    (
                        "sum by (verb, kind) (rate(ringkeep_operator_writes_total[$__rate_interval]))",
                        "{{verb}} {{kind}}",
                    ),
                ),
            ),
        ),
    ),
)


def queries() -> list[str]:
    """Return every query as the dashboard asks it."""
    return [query.replace("W}", WHERE + "}") for _, panels in ROWS for panel in panels for query, _ in panel.queries]


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana takes it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS:
        panels.append(
            _place({"type": "row", "title": title, "collapsed": False, "panels": []}, len(panels), top, 0, 24, 1)
        )
        top += 1
        for number, panel in enumerate(row):
            left = number % PER_ROW * WIDTH
            panels.append(_place(_graph(panel), len(panels), top + number // PER_ROW * HEIGHT, left, WIDTH, HEIGHT))
        top += -(-len(row) // PER_ROW) * HEIGHT
    return {
        "uid": "ringkeep",
        "title": "Ringkeep",
        "tags": ["ringkeep"],
        "schemaVersion": 36,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [_source(), _variable("namespace", ""), _variable("cluster", 'namespace=~"$namespace"')]
        },
        "panels": panels,
    }


def _place(panel: dict[str, Any], number: int, top: int, left: int, width: int, height: int) -> dict[str, Any]:
    return {"id": number + 1, "gridPos": {"x": left, "y": top, "w": width, "h": height}, **panel}


def _graph(panel: Panel) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "$source"}
    return {
        "type": "timeseries",
        "title": panel.title,
        "description": panel.text,
        "datasource": source,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {
                "refId": chr(ord("A") + at),
                "datasource": source,
                "expr": query.replace("W}", WHERE + "}"),
                "legendFormat": legend,
            }
            for at, (query, legend) in enumerate(panel.queries)
        ],
    }


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _variable(label: str, matchers: str) -> dict[str, Any]:
    # Without a label for it in the scrape configuration there is nothing to choose from: then "all" is everything.
    query = f"label_values(ringkeep_node_info{{{matchers}}}, {label})"
    return {
        "name": label,
        "label": label.capitalize(),
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "$source"},
        "query": {"query": query, "refId": label},
        "refresh": 2,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "sort": 1,
    }


def text() -> str:
    """Return the file."""
    return json.dumps(dashboard(), indent=1) + "\n"


def main(arguments: list[str]) -> int:
    """Write the file, or with --check say whether it is as it should be."""
    if arguments == ["--check"]:
        if FILE.read_text() == text():
            return 0
        print("dashboard: helm/ringkeep/files/dashboard.json is old: run tools/dashboard.py", file=sys.stderr)
        return 1
    FILE.write_text(text())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
