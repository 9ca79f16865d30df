"""Every rule whose absence loses data has a test that notices: each planted bug is caught by the test it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringkeep_testing.planting import CAUGHT, PlantedBug, PlantFailed, copy_tree, plant, read_bugs, run_test

ROOT = Path(__file__).resolve().parents[2]
PLANTED = ROOT / "tests" / "planted"
TIMEOUT_S = 300.0


@pytest.mark.slow
@pytest.mark.parametrize("bug", read_bugs(PLANTED), ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught_by_the_test_that_it_names(bug: PlantedBug, tmp_path: Path) -> None:
    copy_tree(ROOT, tmp_path)
    plant(bug, tmp_path)

    code, output = run_test(tmp_path, bug.test, TIMEOUT_S)

    assert code == CAUGHT, f"{bug.title}: {bug.test} did not fail (exit code {code})\n{output[-2000:]}"


def test_a_bug_whose_text_is_gone_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("a = 1\n", encoding="utf-8")
    bug = PlantedBug("gone", "", "", "code.py", "b = 2", "b = 3", "L1", "")

    with pytest.raises(PlantFailed, match="occurs 0 times"):
        plant(bug, tmp_path)
