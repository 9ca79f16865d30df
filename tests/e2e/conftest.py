"""One release of the chart for all end-to-end tests, the report of what they measure, and a namespace for each file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringkeep_testing.kind_cluster import (
    CHART,
    Namespace,
    Operator,
    Report,
    Settled,
    cluster_manifest,
    helm,
    kind_name,
    kubectl,
)

OPERATOR_NAMESPACE = "ringkeep-e2e"
REPORT = Path(os.environ.get("E2E_REPORT", ".ci/out/e2e.json"))


@pytest.fixture(scope="session")
def report() -> Iterator[Report]:
    """The figures of this run; the table is printed at the end."""
    made = Report(REPORT)
    yield made
    print(f"\n{made.table()}")


@pytest.fixture(scope="session")
def operator() -> Iterator[str]:
    """The namespace in which the operator runs, installed from the chart of this tree."""
    for program in ("kubectl", "helm"):
        assert shutil.which(program), f"{program} is needed for these tests"
    namespace = OPERATOR_NAMESPACE
    helm(
        "upgrade", "--install", "ringkeep", str(CHART), "--namespace", namespace, "--create-namespace",
        "--set", "image.operator.tag=dev", "--set", "image.node.tag=dev", "--wait", "--timeout", "120s",
    )  # fmt: skip
    yield namespace
    helm("uninstall", "ringkeep", "--namespace", namespace, "--wait")
    kubectl("delete", "namespace", namespace, "--timeout=120s")


@pytest.fixture(scope="session")
def process(operator: str) -> Operator:
    """The operator's process."""
    return Operator(operator)


@pytest.fixture(scope="session")
def kind() -> str:
    """The name of the kind cluster whose machines may be broken; where there is none such tests are skipped."""
    name = kind_name()
    if not name:
        pytest.skip("only the machines of a kind cluster, which docker runs here, are broken by tests")
    return name


@pytest.fixture(scope="module")
def space(operator: str, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """A namespace of restricted pods for the tests of a file."""
    with Namespace(f"e2e-{Path(str(request.path)).stem.removeprefix('test_').replace('_', '-')}") as made:
        yield made


@pytest.fixture(scope="module")
def demo(space: Namespace) -> Settled:
    """A Ready cluster ``demo`` of three members in the namespace of the file; a test leaves it Ready with three."""
    space.apply(cluster_manifest("demo"))
    space.ready("demo")
    return Settled(space, "demo")
