"""Every rule whose absence loses data has a test that notices: each planted bug is caught by the test it names."""

from __future__ import annotations

from pathlib import Path

import pytest

from ringkeep_testing.planting import CAUGHT, PlantedBug, PlantFailed, copy_tree, is_defined, plant, read_bugs, run_test

ROOT = Path(__file__).resolve().parents[2]
PLANTED = ROOT / "tests" / "planted"
TIMEOUT_S = 300.0
BUGS = read_bugs(PLANTED)
SENTENCES = {
    "every change is a compare-and-set on the shard's revision": ["map_compare_and_set_on_epoch"],
    "an epoch belongs to one boot": ["map_epoch_resumed_after_a_restart", "shard_epoch_resumed_after_a_restart"],
    "what writes nothing is a read": ["shard_refuse_from_pending_state", "shard_refuse_without_confirmation"],
    "every member of in_sync, eligible and being added confirms": [
        "shard_confirm_with_a_majority",
        "shard_confirm_without_eligible",
        "shard_confirm_without_members_being_added",
    ],
    "the entry after which in_sync suffices empties eligible": ["map_eligible_kept_at_need"],
    "proposed only when it has acknowledged what was there before": ["shard_propose_before_acknowledged"],
    "a damaged copy leaves both sets before anything of it is discarded": [
        "shard_damaged_copy_discarded_at_once",
        "shard_damaged_log_cut_where_it_is_damaged",
    ],
    "only a committed map with a higher revision settles a proposal": ["shard_drop_a_proposed_member"],
    "the commit of a leave is the proof of emptiness": ["map_leave_without_the_apply_check"],
    "a shard is handed over with all it awaits, and the old primary neither serves on nor calls anything not applied": [
        "shard_handoff_drained_without_the_added",
        "shard_handoff_old_primary_serves_its_queue",
        "shard_handoff_pending_write_called_not_applied",
    ],
}
"""The sentences of the rules without which an acknowledged write is lost or a stale read is served."""


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught_by_the_test_that_it_names(bug: PlantedBug, tmp_path: Path) -> None:
    copy_tree(ROOT, tmp_path)
    plant(bug, tmp_path)

    code, output = run_test(tmp_path, bug.test, TIMEOUT_S)

    assert code == CAUGHT, f"{bug.title}: {bug.test} did not fail (exit code {code})\n{output[-2000:]}"


@pytest.mark.slow
@pytest.mark.parametrize("bug", [bug for bug in BUGS if bug.simulation], ids=lambda bug: bug.name)
def test_a_planted_bug_is_caught_by_the_random_seeds_of_the_simulation_that_it_names(
    bug: PlantedBug, tmp_path: Path
) -> None:
    copy_tree(ROOT, tmp_path)
    plant(bug, tmp_path)

    code, output = run_test(tmp_path, bug.simulation, TIMEOUT_S)

    assert code == CAUGHT, f"{bug.title}: no seed of {bug.simulation} failed (exit code {code})\n{output[-2000:]}"


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_sentence_that_safety_hangs_on_is_planted_against_random_seeds(sentence: str) -> None:
    caught = {bug.name for bug in BUGS if bug.simulation}

    assert set(SENTENCES[sentence]) <= caught


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_names_a_text_that_occurs_once_and_tests_that_exist(bug: PlantedBug) -> None:
    tests = [test for test in (bug.test, bug.simulation) if test]

    assert (ROOT / bug.file).read_text(encoding="utf-8").count(bug.old) == 1
    assert [test for test in tests if not is_defined(ROOT, test)] == []


def test_a_bug_whose_text_is_gone_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("a = 1\n", encoding="utf-8")
    bug = PlantedBug("gone", "", "", "code.py", "b = 2", "b = 3", "L1", "")

    with pytest.raises(PlantFailed, match="occurs 0 times"):
        plant(bug, tmp_path)
