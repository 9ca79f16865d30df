"""Which test and which planted bug stand for each section of counterexamples.md that is about what a cluster does over time.

    section  what the obvious rule does                    scenario (first column) and planted bug (second)
    S3       a proposed member is given up                 see ``COVERED``: the table is data, so that it cannot get out
    S12      an empty node is deleted that is not empty    of date; this module checks that every test in it exists,
    L1-L11   safe, but stuck                               and that every planted bug in it is caught by that test

A planted bug is proof that its own ``test`` can fail: ``test_planted_bugs.py`` plants each of them. So each scenario is the
``test`` of a bug of its section, beside the bugs whose own, quicker tests show that a single rule is judged.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from ringkeep_testing.planting import read_bugs

ROOT = Path(__file__).resolve().parents[2]
BUGS = {bug.name: bug for bug in read_bugs(ROOT / "tests" / "planted")}
SECTIONS = ("S3", "S12", *(f"L{number}" for number in range(1, 12)))

COVERED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "S3": (
        (
            "tests/sim/test_counterexamples.py::test_s3a_a_proposed_member_is_awaited_until_a_higher_revision_says_what_became_of_it",
            "tests/sim/test_counterexamples.py::test_s3b_a_member_is_proposed_only_when_it_has_what_was_appended_before_it_was_added",
            "tests/sim/test_elastic_scenarios.py::test_s3_a_planned_copy_whose_growth_is_late_and_that_hangs_meanwhile_has_everything_once_it_counts",
        ),
        (
            "shard_drop_a_proposed_member",
            "shard_propose_before_acknowledged",
            "shard_commit_without_awaiting_the_added",
            "shard_member_awaited_only_when_proposed",
        ),
    ),
    "S12": (
        (
            "tests/sim/test_elastic_scenarios.py::test_s12a_a_node_that_was_seen_empty_and_got_copies_again_cannot_leave",
            "tests/sim/test_elastic_scenarios.py::test_s12a_a_drained_voter_cannot_leave_before_its_vote_has",
            "tests/sim/test_elastic_scenarios.py::test_s12b_a_process_that_runs_on_after_its_leave_is_never_let_in_again_with_its_disk",
            "tests/sim/test_elastic_scenarios.py::test_s12c_the_ghost_of_a_replaced_disk_does_not_take_its_name_back",
        ),
        (
            "map_leave_without_the_apply_check",
            "map_leave_looks_at_learners_only",
            "map_leave_not_remembered",
            "map_leave_of_a_voter",
            "map_replaced_disk_not_remembered",
            "control_leave_without_the_configuration",
            "map_left_storage_registers_again",
            "registration_left_node_goes_on",
        ),
    ),
    "L1": (
        (
            "tests/sim/test_scenarios.py::test_a_primary_that_reaches_nobody_while_all_reach_each_other_loses_its_shards",
        ),
        ("leader_odd_one_out_keeps_its_shards",),
    ),
    "L2": (
        ("tests/sim/test_scenarios.py::test_a_hanging_disk_under_a_live_loop_loses_its_shards_and_gets_them_back",),
        ("oversight_hanging_disk_not_told",),
    ),
    "L3": (
        (
            "tests/sim/test_elastic_scenarios.py::test_l3_a_leader_whose_loop_is_slow_hands_over_and_the_plan_goes_on_under_the_next",
        ),
        ("leader_lag_counted_anew", "leader_slow_loop_keeps_leading"),
    ),
    "L4": (
        (
            "tests/sim/test_counterexamples_liveness.py::test_l4_a_node_that_refuses_connections_is_dead_within_a_second_and_one_that_is_silent_for_three_is_not",
        ),
        ("swim_one_clock_for_both_evidences", "swim_silence_taken_for_hard_evidence"),
    ),
    "L5": (
        (
            "tests/sim/test_elastic_scenarios.py::test_l5_of_two_people_who_change_what_is_wanted_at_once_one_is_told_so",
        ),
        (
            "leader_plan_ignores_the_wanted_revision",
            "map_wanted_state_judged_again",
            "map_wanted_state_of_an_older_one_taken",
        ),
    ),
    "L6": (
        (
            "tests/sim/test_hand_over_pause.py::test_writes_that_meet_a_hand_over_wait_for_some_milliseconds_and_none_fails",
        ),
        (
            "leader_hand_over_of_everything_at_once",
            "shard_handoff_leaves_when_its_time_is_up",
            "shard_handoff_left_before_drained",
        ),
    ),
    "L7": (
        (
            "tests/sim/test_counterexamples_liveness.py::test_l7_64_mib_in_the_shared_log_delay_no_vote_past_the_election_time_out",
            "tests/sim/test_counterexamples_liveness.py::test_l7_64_mib_between_two_nodes_delay_no_heartbeat_and_no_confirmation",
            "tests/sim/test_counterexamples_liveness.py::test_l7_snapshots_delay_no_heartbeat_to_who_is_filled_anew",
        ),
        (
            "log_votes_wait_in_line",
            "log_batches_without_a_limit",
            "node_votes_wait_for_shards",
            "node_replication_on_the_control_connection",
            "node_snapshots_on_the_control_connection",
        ),
    ),
    "L8": (
        (
            "tests/sim/test_recover.py::test_two_of_three_disks_are_lost_and_every_acknowledged_write_is_there_when_two_new_ones_have_joined",
            "tests/sim/test_recover.py::test_voters_that_were_not_lost_after_all_take_the_new_map_and_their_copies_are_told_from_the_new_ones",
            "tests/sim/test_recover.py::test_an_old_majority_that_has_a_leader_again_ends_when_it_hears_of_the_new_generation",
            "tests/sim/test_recover.py::test_a_shard_of_which_no_copy_is_left_says_so_and_is_there_again_when_its_holder_is",
        ),
        (
            "generation_begun_by_anybody",
            "generation_deleted_copy_taken_for_empty",
            "generation_epochs_go_on",
            "generation_from_the_last_snapshot",
            "generation_majority_there",
            "generation_number_kept",
            "generation_old_confirmation_counts",
            "generation_old_group_does_not_look",
            "generation_old_group_kept",
            "generation_old_group_on_disk",
            "generation_old_voters_heard",
            "generation_survivor_leads_everything",
            "generation_told_before_it_begins",
        ),
    ),
    "L9": (
        (
            "tests/sim/test_elastic_scenarios.py::test_l9_a_node_that_dies_again_and_again_gets_its_primaries_back_only_when_it_stays",
        ),
        ("leader_guard_counts_from_the_first_return", "leader_no_flapping_guard"),
    ),
    "L10": (
        (
            "tests/sim/test_elastic_scenarios.py::test_copies_of_the_dead_stay_within_the_grace_and_the_most_endangered_are_made_again_after_it",
        ),
        ("leader_plan_endangered_in_any_order", "leader_plan_one_shard_a_step", "leader_plan_without_grace"),
    ),
    "L11": (
        (
            "tests/sim/test_counterexamples_liveness.py::test_l11_who_does_not_vote_follows_the_map_from_any_member_and_never_goes_back",
            "tests/sim/test_counterexamples_liveness.py::test_l11_a_configuration_that_falls_with_truncation_makes_nobody_a_voter",
        ),
        ("held_map_older_answer_installed", "held_map_goes_back", "raft_configuration_outlives_its_entry"),
    ),
}
"""Section: the scenarios in the simulator, and the planted bugs."""


@cache
def _tests_in(file: str) -> frozenset[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return frozenset(
        node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test")
    )


def test_every_section_is_in_the_table() -> None:
    assert tuple(COVERED) == SECTIONS


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_has_a_scenario_in_the_simulator_and_a_planted_bug_and_all_of_them_exist(section: str) -> None:
    scenarios, bugs = COVERED[section]
    missing = [test for test in scenarios if test.split("::")[1] not in _tests_in(test.split("::")[0])]
    strangers = [bug for bug in bugs if bug not in BUGS]

    assert scenarios and bugs
    assert (missing, strangers) == ([], [])


@pytest.mark.parametrize("section", SECTIONS)
def test_the_planted_bugs_of_a_section_name_tests_that_exist(section: str) -> None:
    named = [BUGS[bug].test.split("[")[0].split("::") for bug in COVERED[section][1]]
    missing = [test for file, test in named if test not in _tests_in(file)]

    assert missing == []


@pytest.mark.parametrize("section", SECTIONS)
def test_each_scenario_of_a_section_is_one_that_a_planted_bug_must_fail(section: str) -> None:
    scenarios, bugs = COVERED[section]

    assert set(scenarios) <= {BUGS[bug].test for bug in bugs}
