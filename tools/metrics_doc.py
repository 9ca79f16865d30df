"""Write docs/metrics.md: every metric with its type, labels and meaning from the code, and the alerts that use it from the
chart's rules.

usage: python tools/metrics_doc.py [--check]
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # it has no types, and its stubs are not worth a dependency

from ringkeep_node.http.routing import KNOWN_METHODS, METHODS
from ringkeep_node.metrics import PREFIX as NODE_PREFIX
from ringkeep_node.metrics import described
from ringkeep_operator.metrics import MORE, OperatorMetrics
from ringkeep_operator.metrics import PREFIX as OPERATOR_PREFIX

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docs" / "metrics.md"
RULES = ROOT / "helm" / "ringkeep" / "rules"
HEAD = """\
# Metrics

Made by tools/metrics_doc.py from the code and from the [rules](../helm/ringkeep/rules); do not edit.

Prometheus text format: of a node at `/metrics` on its API port, of the operator on its own. Units are base units, counters
end in `_total` and count within one start of the process. Labels come from closed sets: never a user, a key, a path, the
name of a cluster or a pod; who is scraped is what the scrape configuration adds. Every series exists from the start unless
its meaning says otherwise. Beside these there are the process's own (`process_*`, `python_*`).

The alerts have their chapters in [runbooks.md](runbooks.md); `deploy/prometheus.yml` and the chart (`monitoring.rules`) load
them. The chart also ships a dashboard for Grafana (`monitoring.dashboard`).
"""
TABLE = "| metric | type | labels | meaning | alert |\n| --- | --- | --- | --- | --- |\n"
SERIES = re.compile(r"ringkeep_(?:node|operator)_[a-z_]+[a-z]")


def rules() -> list[dict[str, Any]]:
    """Return all rules of the chart, in their order."""
    return [
        rule
        for file in sorted(RULES.glob("*.yaml"))
        for group in yaml.safe_load(file.read_text())["groups"]
        for rule in group["rules"]
    ]


def family_of(series: str) -> str:
    """Return the family that a series of a histogram belongs to; any other name is its own family."""
    return re.sub(r"_(?:bucket|count|sum)$", "", series)


def alerts_by_family() -> dict[str, list[str]]:
    """Return which alerts look at each family, those of a recorded series included."""
    recorded: dict[str, set[str]] = {}
    found: dict[str, list[str]] = {}
    for rule in rules():
        families = {family_of(series) for series in SERIES.findall(rule["expr"])}
        for name, used in recorded.items():
            if name in rule["expr"]:
                families |= used
        if "record" in rule:
            recorded[rule["record"]] = families
            continue
        for family in sorted(families):
            found.setdefault(family, []).append(rule["alert"])
    return found


def row(name: str, kind: str, labels: str, meaning: str, alerts: list[str]) -> str:
    """Return one line of a table."""
    links = ", ".join(f"[{alert}](runbooks.md#{alert.lower()})" for alert in alerts)
    return f"| `{name}` | {kind} | {labels} | {meaning} | {links} |\n".replace("|  |", "| |")


def node_rows(alerts: dict[str, list[str]]) -> str:
    """Return the table of the metrics of a node."""
    told_elsewhere = {"route": (*METHODS, "unknown"), "method": (*sorted(KNOWN_METHODS), "other")}
    rows = []
    for one in described():
        labels = "; ".join(
            f"`{label}`" + (": " + ", ".join(f"`{value}`" for value in known) if known else "")
            for label, values in one.labels
            for known in [values or told_elsewhere.get(label, ())]
        )
        name = NODE_PREFIX + one.name
        rows.append(row(name, one.kind, labels, ". ".join(filter(None, (one.text, one.more))), alerts.get(name, [])))
    return "".join(rows)


def operator_rows(alerts: dict[str, list[str]]) -> str:
    """Return the table of the metrics of the operator."""
    metrics = OperatorMetrics()
    metrics.show_ages(lambda: {"Pod": 1.0})
    metrics.wrote("apply", "Pod")
    metrics.restarts.labels("Pod").inc()
    rows = []
    for family in metrics.registry.collect():
        if not family.name.startswith(OPERATOR_PREFIX):
            continue
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = dict.fromkeys(label for sample in family.samples for label in sample.labels if label != "le")
        more = MORE.get(name.removeprefix(OPERATOR_PREFIX), "")
        meaning = ". ".join(filter(None, (family.documentation, more)))
        rows.append(row(name, family.type, ", ".join(f"`{label}`" for label in labels), meaning, alerts.get(name, [])))
    return "".join(rows)


def document() -> str:
    """Return the whole file."""
    alerts = alerts_by_family()
    table = "| alert | severity | fires when | for |\n| --- | --- | --- | --- |\n"
    for rule in rules():
        if "alert" in rule:
            link = f"[{rule['alert']}](runbooks.md#{rule['alert'].lower()})"
            severity, summary = rule["labels"]["severity"], rule["annotations"]["summary"]
            table += f"| {link} | {severity} | {summary} | {rule.get('for', '')} |\n".replace("|  |", "| |")
    node = f"## A node\n\n{TABLE}{node_rows(alerts)}"
    operator = f"## The operator\n\n{TABLE}{operator_rows(alerts)}"
    return f"{HEAD}\n{node}\n{operator}\n## Alerts\n\n{table}"


def main(arguments: list[str]) -> int:
    """Write the file, or with --check say whether it is as it should be."""
    if arguments == ["--check"]:
        if FILE.read_text() == document():
            return 0
        print("metrics_doc: docs/metrics.md is old: run tools/metrics_doc.py", file=sys.stderr)
        return 1
    FILE.write_text(document())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
