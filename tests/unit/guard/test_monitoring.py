"""What people watch a cluster with agrees with the code: documentation, rules, runbooks and dashboard."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # it has no types, and its stubs are not worth a dependency
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ringkeep_node.http.problems import STATUS_OF_CODE
from ringkeep_node.http.routing import KNOWN_METHODS, METHODS
from ringkeep_node.metrics import PREFIX, NodeMetrics, NodeNumbers, NodePage, described
from ringkeep_operator.metrics import RESULTS, WRITES, OperatorMetrics
from ringkeep_testing.promql import Family, mistakes
from ringkeep_testing.promtool import asked, check_metrics

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "helm" / "ringkeep"
RULES = CHART / "rules"
RUNBOOKS = ROOT / "docs" / "runbooks.md"


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tools_{name}", ROOT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rules() -> list[dict[str, Any]]:
    return [
        rule
        for file in sorted(RULES.glob("*.yaml"))
        for group in yaml.safe_load(file.read_text())["groups"]
        for rule in group["rules"]
    ]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def recorded() -> list[str]:
    return [rule["record"] for rule in rules() if "record" in rule]


def operator_metrics() -> OperatorMetrics:
    metrics = OperatorMetrics()
    metrics.show_ages(lambda: {"Pod": 1.0})
    metrics.wrote("apply", "Pod")
    metrics.restarts.labels("Pod").inc()
    return metrics


def pages() -> tuple[bytes, bytes]:
    metrics = NodeMetrics()
    metrics.requests.observe("document", "PUT", 201, 0.002)
    problems = dict.fromkeys(STATUS_OF_CODE, 0)
    page = NodePage(metrics, numbers=NodeNumbers, problems=lambda: problems, dropped=lambda: 0, version="1.2.3")
    return page(), generate_latest(operator_metrics().registry)


def families() -> dict[str, Family]:
    """Return what a node and an operator really expose; the values of labels where the code says that there are no more."""
    closed: dict[tuple[str, str], tuple[str, ...]] = {
        (PREFIX + one.name, label): values for one in described() for label, values in one.labels
    }
    closed["ringkeep_node_problems_total", "error"] = tuple(STATUS_OF_CODE)
    closed["ringkeep_node_request_duration_seconds", "route"] = (*METHODS, "unknown")
    closed["ringkeep_node_request_duration_seconds", "method"] = (*KNOWN_METHODS, "other")
    closed["ringkeep_operator_pass_duration_seconds", "result"] = RESULTS
    closed["ringkeep_operator_writes_total", "verb"] = WRITES
    found = {}
    for page in pages():
        for family in text_string_to_metric_families(page.decode()):
            name = family.name + ("_total" if family.type == "counter" else "")
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            found[name] = Family(family.type, {label: closed.get((name, label), ()) for label in labels})
    return found


def test_the_list_of_metrics_is_the_one_of_the_code() -> None:
    assert tool("metrics_doc").FILE.read_text() == tool("metrics_doc").document()


def test_the_dashboard_is_the_one_of_its_table() -> None:
    assert tool("dashboard").FILE.read_text() == tool("dashboard").text()


def test_promtool_has_nothing_to_say_about_the_rules() -> None:
    code, said = asked("check", "rules", *(str(file) for file in sorted(RULES.glob("*.yaml"))), folder=ROOT)

    assert (code, said.count("SUCCESS")) == (0, len(list(RULES.glob("*.yaml")))), said


def test_promtool_has_nothing_to_say_about_the_page_of_the_operator() -> None:
    assert check_metrics(pages()[1]) == ""


def test_every_alert_says_what_is_wrong_how_bad_and_where_its_runbook_is() -> None:
    wrong = [
        rule["alert"]
        for rule in alerts()
        if set(rule["annotations"]) != {"summary", "description", "runbook_url"}
        or rule["labels"].get("severity") not in ("critical", "warning", "info")
        or rule["annotations"]["runbook_url"] != f"docs/runbooks.md#{rule['alert'].lower()}"
        or not re.fullmatch(r"Ringkeep([A-Z][a-z]+)+", rule["alert"])
    ]

    assert wrong == []


def test_every_alert_has_a_chapter_that_says_what_to_do_and_no_other_thing_has() -> None:
    chapters = re.split(r"^## ", RUNBOOKS.read_text(), flags=re.MULTILINE)[1:]
    parts = [re.findall(r"^- \*\*([A-Za-z ]+)\*\*: \S", chapter, re.MULTILINE) for chapter in chapters]

    assert sorted(chapter.split("\n")[0] for chapter in chapters) == sorted(rule["alert"] for rule in alerts())
    assert [one for one in parts if one != ["Means", "Users notice", "Look", "Do"]] == []


def test_every_link_of_the_runbooks_leads_somewhere() -> None:
    text = RUNBOOKS.read_text()
    anchors = {line.removeprefix("## ").lower() for line in text.splitlines() if line.startswith("## ")}
    links = re.findall(r"\]\(([^)]+)\)", text)

    assert [link for link in links if link.startswith("#") and link[1:] not in anchors] == []
    assert [link for link in links if not link.startswith("#") and not (ROOT / "docs" / link).exists()] == []


def test_rules_ask_only_for_metrics_labels_and_values_that_exist() -> None:
    wrong = {
        rule.get("alert") or rule["record"]: found
        for rule in rules()
        if (found := mistakes(rule["expr"], families(), recorded()))
    }

    assert wrong == {}


def test_the_dashboard_asks_only_for_metrics_labels_and_values_that_exist() -> None:
    wrong = {query: found for query in tool("dashboard").queries() if (found := mistakes(query, families()))}

    assert wrong == {}


def test_descriptions_of_alerts_use_only_labels_that_their_series_have() -> None:
    allowed = {"namespace", "cluster", "job", "instance", "pod", "kind"}
    used = {
        label: rule["alert"]
        for rule in alerts()
        for text in rule["annotations"].values()
        for label in re.findall(r"\$labels\.(\w+)", text)
        if label not in allowed or (label not in rule["expr"] and " by " in rule["expr"] and "on (" not in rule["expr"])
    }

    assert used == {}


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("sum by (state) (ringkeep_node_members)", []),
        ('ringkeep_node_members{state="dead",job="x"} > 0', []),
        ('ringkeep_node_members{state="ded"}', ["ringkeep_node_members{state=ded}"]),
        ('ringkeep_node_members{stat="dead"}', ["ringkeep_node_members{stat}"]),
        ("sum by (user) (ringkeep_node_members)", ["user"]),
        ("rate(ringkeep_node_member[5m])", ["ringkeep_node_member"]),
        ("rate(rinkeep_node_members[5m])", ["rinkeep_node_members"]),
        ("ringkeep_node_loop_lag_seconds", ["ringkeep_node_loop_lag_seconds"]),
        ("histogram_quantil(0.9, ringkeep_node_loop_lag_seconds_bucket)", ["histogram_quantil"]),
    ],
)
def test_a_query_that_names_what_does_not_exist_is_noticed(query: str, wrong: list[str]) -> None:
    assert mistakes(query, families()) == wrong


def helm() -> str:
    program = shutil.which("helm")
    if program is None:
        pytest.skip("needs helm on this machine")
    return program


def rendered(*values: str) -> list[dict[str, Any]]:
    arguments = [part for value in values for part in ("--set", value)]
    command = [helm(), "template", "demo", str(CHART), "--namespace", "ns", "--kube-version", "1.34.0", *arguments]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return [one for one in yaml.safe_load_all(text) if one]


def test_the_chart_ships_rules_and_dashboard_only_when_asked() -> None:
    kinds = {(one["kind"], one["metadata"]["name"]) for one in rendered()}

    assert not [name for kind, name in kinds if kind in ("PrometheusRule", "ConfigMap")]


def test_the_chart_ships_the_rules_as_they_are() -> None:
    found = [
        one for one in rendered("monitoring.rules=true", "monitoring.rulesLabels.release=kps") if "Rule" in one["kind"]
    ]

    assert [one["kind"] for one in found] == ["PrometheusRule"]
    assert found[0]["metadata"]["labels"]["release"] == "kps"
    assert [rule for group in found[0]["spec"]["groups"] for rule in group["rules"]] == rules()


def test_the_chart_ships_the_dashboard_where_grafana_s_sidecar_finds_it() -> None:
    found = [one for one in rendered("monitoring.dashboard=true") if one["kind"] == "ConfigMap"]

    assert [one["metadata"]["labels"]["grafana_dashboard"] for one in found] == ["1"]
    assert json.loads(found[0]["data"]["ringkeep.json"]) == tool("dashboard").dashboard()
