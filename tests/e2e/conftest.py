"""One release of the chart, one namespace and one cluster for all end-to-end tests, and the report of what they measure.

Making a cluster and taking it away costs more than most tests, so they share one and leave it Ready with three members.
"""

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
RUNS = int(os.environ.get("E2E_RUNS", "1"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Have each test as often as asked for, for figures of several runs."""
    if RUNS > 1:
        metafunc.parametrize("run", range(RUNS), indirect=True)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run all tests once, then again: no figure is of one minute. First those that install an operator of their own."""
    if RUNS > 1:
        items.sort(key=lambda item: ("operator" in _fixtures_of(item), _run_of(item)))


def _fixtures_of(item: pytest.Item) -> list[str]:
    return item.fixturenames if isinstance(item, pytest.Function) else []


def _run_of(item: pytest.Item) -> int:
    run = item.callspec.params["run"] if isinstance(item, pytest.Function) else 0
    assert isinstance(run, int), "pytest_generate_tests has put it there"
    return run


@pytest.fixture(autouse=True)
def run(request: pytest.FixtureRequest) -> int:
    """Which of the runs this is."""
    return int(getattr(request, "param", 0))


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


@pytest.fixture(scope="session")
def space(operator: str) -> Iterator[Namespace]:
    """A namespace of restricted pods."""
    with Namespace("e2e") as made:
        yield made


@pytest.fixture
def demo(space: Namespace) -> Settled:
    """A Ready cluster ``demo`` of three members; a test leaves it Ready with three, or removes it with its volumes.

    What a test that failed has left of it is put right first, so that the next one fails only for reasons of its own.
    """
    space.apply(cluster_manifest("demo", suspend=False, paused=False))
    space.settled("demo")
    return Settled(space, "demo")
