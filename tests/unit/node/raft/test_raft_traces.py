"""The scenario tables of the Raft core: tests/traces/raft_*.txt, command line -> expected output."""

from pathlib import Path

import pytest

from ringkeep_testing.raft_traces import render

TRACES = sorted((Path(__file__).parents[3] / "traces").glob("raft_*.txt"))


@pytest.mark.parametrize("path", TRACES, ids=lambda path: path.stem)
def test_a_scenario_gives_exactly_the_output_it_names(path: Path) -> None:
    script = path.read_text()

    assert render(script) == script


def test_there_are_scenarios() -> None:
    assert len(TRACES) >= 20
