"""Registering a boot: which answers end the process and which are asked for again."""

from __future__ import annotations

import pytest

from ringkeep_core.mapchanges import Boot
from ringkeep_node.machines.messages import ProposeOutcome
from ringkeep_node.machines.registration import Registration
from ringkeep_testing.control_group import ControlGroup, boot


@pytest.mark.parametrize(
    ("code", "asks_again"), [("no_primary", True), ("outcome_unknown", True), ("stale_name", True), ("renamed", False)]
)
def test_a_boot_whose_fate_is_not_known_is_proposed_again_and_a_refused_one_ends_the_process(
    code: str, asks_again: bool
) -> None:
    group = ControlGroup(3)
    site = group.others_than(group.leader())[0]
    asked: list[Boot] = []

    def boot_for(_former: str) -> Boot:
        asked.append(boot(1, 2))
        return asked[-1]

    registration = Registration(
        name="n1", storage="s", boot="n1-2", cluster_id="c" * 16, control=site.control, boot_for=boot_for
    )
    registration.housekeep(now=group.now)
    others = registration.settle([(site.control._numbers, ProposeOutcome(site.control._numbers, 0, code, "why"))])
    if not registration.fatal:
        registration.housekeep(now=group.now)

    assert (others, len(asked), registration.fatal == "") == ([], 2 if asks_again else 1, asks_again)
