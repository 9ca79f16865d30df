"""What is generated for Kubernetes is as it would be generated now, and the files agree with each other."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # it has no types, and its stubs are not worth a dependency

from ringkeep_core.resource import decode_cluster
from ringkeep_operator.view import Reason

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "helm" / "ringkeep"


def manifests() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tools_manifests", ROOT / "tools" / "manifests.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_crd_of_the_chart_is_the_one_of_the_resource() -> None:
    tool = manifests()

    assert tool.CRD_FILE.read_text() == tool.crd_template()


def test_the_documentation_lists_every_field_of_the_resource_as_it_is() -> None:
    tool = manifests()
    text = tool.DOC_FILE.read_text()

    assert text == tool.documented(text)
    assert "| `storage.retain.whenDeleted` | `Delete`, `Retain` | `Retain` |" in text


def test_the_documentation_lists_every_reason_and_no_other() -> None:
    _, _, text = (ROOT / "docs" / "kubernetes.md").read_text().partition("### Conditions")
    table = "".join(line.split("|")[1] for line in text.splitlines() if line.startswith("| `"))
    told = re.findall(r"`([A-Za-z]+)`", table) + re.findall(r"`([A-Za-z]+)`", text.partition("as events: ")[2][:120])

    known = {str(reason) for reason in Reason} | {"Ready", "Available", "Progressing", "Degraded"}
    assert set(told) == known


def test_the_plain_manifests_were_made_from_this_chart() -> None:
    tool = manifests()
    text = tool.PLAIN_FILE.read_text()
    helm = shutil.which("helm")

    assert f"sha256 {tool.checksum()}\n" in text
    assert helm is None or text == tool.plain_manifests(helm)


def test_the_plain_manifests_hold_no_wildcard_and_nothing_of_helm() -> None:
    documents = [one for one in yaml.safe_load_all((ROOT / "deploy" / "operator.yaml").read_text()) if one]
    rules = [rule for one in documents for rule in one.get("rules", ())]

    assert not any("*" in values for rule in rules for values in rule.values())
    assert "helm.sh" not in json.dumps(documents)
    assert not [rule for rule in rules if "secrets" in rule["resources"] and {"list", "watch"} & set(rule["verbs"])]


def test_the_sample_is_a_cluster_that_the_operator_understands() -> None:
    sample = yaml.safe_load((ROOT / "deploy" / "cluster.yaml").read_text())

    assert decode_cluster(sample).spec.image == f"ringkeep-node:{version()}"


def version() -> str:
    found = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def test_the_chart_has_the_version_of_the_product() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())

    assert (chart["version"], chart["appVersion"]) == (version(), version())


def paths(values: dict[str, Any], before: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in values.items():
        found |= paths(value, f"{before}{key}.") if isinstance(value, dict) and value else {before + key}
    return found


def schema_of(path: str) -> dict[str, Any]:
    schema = json.loads((CHART / "values.schema.json").read_text())
    here = schema
    for key in path.split("."):
        if "$ref" in here:
            here = schema["definitions"][here["$ref"].rpartition("/")[2]]
        here = here["properties"][key] if key in here.get("properties", {}) else here["additionalProperties"]
        assert here, f"{path} is not in the schema"
    return dict(here)


def test_every_value_of_the_chart_is_in_its_schema_and_in_its_readme() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    table = "\n".join(line for line in (CHART / "README.md").read_text().splitlines() if line.startswith("| `"))
    told = set(re.findall(r"`([A-Za-z.]+)`", table))
    missing = {
        path
        for path in paths(values) - {"monitoring.dashboardLabels.grafana_dashboard"}
        if not re.search(r"resources\.(requests|limits)\.", path)
        and path not in told
        and f".{path.rpartition('.')[2]}" not in told
    }

    assert missing == set()
    assert all(schema_of(path) for path in paths(values) if "resources." not in path)


def entries(file: str) -> dict[str, str]:
    found: dict[str, str] = {}
    name = ""
    for line in (ROOT / file).read_text().splitlines():
        if not line.startswith(" "):
            name = line.split(" ")[0]
            found[name] = ""
        else:
            found[name] += line.strip(" \\")
    return found


@pytest.mark.parametrize("part", ["build", "node", "operator"])
def test_what_an_image_installs_is_part_of_the_lock(part: str) -> None:
    whole, some = entries("requirements.txt"), entries(f"requirements-{part}.txt")

    assert some and {name: hashes for name, hashes in some.items() if whole.get(name) != hashes} == {}
