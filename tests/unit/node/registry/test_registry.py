"""The registry: who owns an instance, who shows it, what ends it, and what wakes whom."""

import pytest
from msgspec.structs import replace

from ringkeep_core.errors import BadRequest, NotFound, TooManyRequests
from ringkeep_core.services import NODE_SERVICE, SERF_HEALTH, Check, NodeHealth
from ringkeep_node.machines.registry import ANY_TOPIC, NODES_TOPIC, SERVICES_TOPIC, RegistrySettings
from ringkeep_node.machines.registry_tables import ServicesKnown
from ringkeep_testing.registry_group import RegistryGroup, instance_of, shown, storage_of


def renew(group: RegistryGroup, name: str, status: str = "passing", output: str | None = None) -> None:
    """Let web-1 show a sign of life at a node."""
    group[name].update_check("web", "web-1", "", status, output, now=group.now)
    group.settle()


def test_an_instance_registered_at_one_node_is_shown_by_all() -> None:
    group = RegistryGroup()
    group["n2"].register(instance_of(tags=("b", "a")), now=0.0)
    group.settle()

    assert group.seen() == group.everywhere(("web-1", "n2", "passing"))
    assert [dict(group[name].view.services()) for name in group.up] == [{"web": ("a", "b")}] * 3
    assert [seen.instance.id for seen in group["n2"].view.owned()] == ["web-1"]
    assert list(group["n1"].view.owned()) == []


def test_instances_come_in_one_order_at_every_node_and_over_changes_of_owner() -> None:
    group = RegistryGroup()
    for number, name in ((3, "n1"), (1, "n3"), (2, "n2")):
        group[name].register(instance_of(id_=f"web-{number}"), now=0.0)
    group.settle()
    group["n1"].register(instance_of(id_="web-2", port=81), now=0.0)
    group.settle()

    assert group.seen() == group.everywhere(
        ("web-1", "n3", "passing"), ("web-2", "n1", "passing"), ("web-3", "n1", "passing")
    )


def test_a_ttl_that_is_not_renewed_runs_out_everywhere() -> None:
    group = RegistryGroup()
    group["n1"].register(instance_of(ttl_s=10.0), now=0.0)
    group.settle()
    group.pass_time(9.9)
    before = group.seen()
    group.pass_time(0.2)

    assert before == group.everywhere(("web-1", "n1", "passing"))
    assert group.seen() == group.everywhere(("web-1", "n1", "critical"))
    assert group["n3"].view.instances("web")[0].instance.checks[0].output == "no sign of life for 10 s"
    assert group["n1"].lapses == 1


def test_a_renewed_ttl_lasts_from_the_renewal_on() -> None:
    group = RegistryGroup()
    group["n1"].register(instance_of(ttl_s=10.0), now=0.0)
    for _ in range(5):
        group.pass_time(9.0)
        renew(group, "n1")

    assert group.seen() == group.everywhere(("web-1", "n1", "passing"))


def test_a_lapsed_ttl_passes_again_with_the_next_sign_of_life() -> None:
    group = RegistryGroup()
    group["n1"].register(instance_of(ttl_s=10.0), now=0.0)
    group.pass_time(30.0)
    renew(group, "n1", "warning", "slow")
    warned = group.seen()
    group.pass_time(10.5)

    assert warned == group.everywhere(("web-1", "n1", "warning"))
    assert group.seen() == group.everywhere(("web-1", "n1", "critical"))


def test_renewals_that_change_nothing_are_told_to_nobody_and_wake_nobody() -> None:
    group = RegistryGroup()
    group["n1"].register(instance_of(ttl_s=10.0), now=0.0)
    group.settle()
    group["n1"].update_check("web", "web-1", "service:web-1", "passing", None, now=1.0)
    group["n1"].register(instance_of(ttl_s=10.0), now=2.0)

    assert group["n1"].take() is None


def test_a_renewal_at_another_node_goes_to_the_owner() -> None:
    group = RegistryGroup()
    group["n1"].register(instance_of(ttl_s=10.0), now=0.0)
    group.settle()
    for _ in range(3):
        group.pass_time(9.0)
        renew(group, "n3")

    assert group.seen() == group.everywhere(("web-1", "n1", "passing"))


def test_an_output_is_replaced_taken_away_or_left_alike_wherever_the_sign_of_life_comes_in() -> None:
    outputs = []
    for node in ("n1", "n3"):
        group = RegistryGroup()
        group["n1"].register(instance_of(ttl_s=10.0), now=0.0)
        group.settle()
        for status, output in (("warning", "slow"), ("critical", None), ("passing", "")):
            group[node].update_check("web", "web-1", "", status, output, now=group.now)
            group.settle()
            outputs.append(group["n2"].view.instances("web")[0].instance.checks[0].output)

    assert outputs == ["slow", "slow", ""] * 2


def test_the_same_registration_at_another_node_is_a_renewal_and_another_one_takes_over() -> None:
    group = RegistryGroup()
    group["n1"].register(instance_of(ttl_s=10.0), now=0.0)
    group.settle()
    group["n3"].register(instance_of(ttl_s=10.0), now=1.0)
    group.settle()
    same = group.seen()
    group["n3"].register(instance_of(ttl_s=10.0, port=81), now=1.0)
    group.settle()

    assert same == group.everywhere(("web-1", "n1", "passing"))
    assert group.seen() == group.everywhere(("web-1", "n3", "passing"))
    assert list(group["n1"].view.owned()) == []


def test_registering_again_as_critical_does_not_make_anything_pass_wherever_it_comes_in() -> None:
    group = RegistryGroup()
    instance = instance_of(ttl_s=10.0)
    started = replace(instance, checks=(replace(instance.checks[0], status="critical"),))
    group["n1"].register(started, now=0.0)
    group.settle()
    for name in ("n1", "n2"):
        group[name].register(started, now=1.0)
        group.settle()

    assert group.seen() == group.everywhere(("web-1", "n1", "critical"))


def test_the_instances_of_a_dead_node_are_critical_at_once_and_gone_after_the_time_that_is_set() -> None:
    group = RegistryGroup()
    group["n1"].register(instance_of(), now=0.0)
    group.settle()
    group.kill("n1")
    dead = group.seen()
    group.pass_time(6.9)
    still = group.seen()
    group.pass_time(0.2)

    assert dead == still == group.everywhere(("web-1", "n1", "critical"))
    assert group.seen() == group.everywhere()
    assert [dict(group[name].view.services()) for name in group.up] == [{}, {}]


def test_a_suspect_still_passes_and_wakes_nobody() -> None:
    group = RegistryGroup()
    group["n1"].register(instance_of(), now=0.0)
    group.settle()
    for topics in group.topics.values():
        topics.clear()
    group.tell_health("n1", NodeHealth.SUSPECT)

    assert group.seen() == group.everywhere(("web-1", "n1", "passing"))
    assert group.topics == {"n1": set(), "n2": set(), "n3": set()}


def test_a_dead_node_s_instance_lives_on_where_it_is_renewed() -> None:
    group = RegistryGroup()
    group["n1"].register(instance_of(ttl_s=10.0), now=0.0)
    group.settle()
    group.kill("n1")
    renew(group, "n3")
    adopted = group.seen()
    group.pass_time(9.0)

    assert adopted == group.seen() == group.everywhere(("web-1", "n3", "passing"))
    assert (group["n3"].adoptions, group["n2"].adoptions) == (1, 0)


def test_an_adopted_instance_that_said_no_address_stays_where_it_was_registered() -> None:
    group = RegistryGroup()
    group["n1"].register(replace(instance_of(ttl_s=10.0), address=""), now=0.0)
    group.settle()
    before = {seen.address for name in group.up for seen in group[name].view.instances("web")}
    group.kill("n1")
    renew(group, "n3")
    group.pass_time(9.0)
    owners = {(seen.node.name, seen.address) for name in group.up for seen in group[name].view.instances("web")}

    assert owners == {("n3", address) for address in before} and len(before) == 1
    assert group["n3"].view.me().address not in before


def test_a_check_that_is_changed_at_another_node_leaves_an_instance_that_said_no_address_where_it_is() -> None:
    group = RegistryGroup()
    group["n1"].register(replace(instance_of(ttl_s=10.0), address=""), now=0.0)
    group.settle()
    before = {seen.address for name in group.up for seen in group[name].view.instances("web")}
    maintenance = Check("_service_maintenance:web-1", "maintenance", "manual", "critical")
    group["n2"].put_check("web", "web-1", maintenance, now=0.0)
    group.settle()
    shown_in_it = {seen.address for name in group.up for seen in group[name].view.instances("web")}
    group["n3"].drop_check("web", "web-1", maintenance.id, now=0.0)
    group.settle()
    shown_after = {seen.address for name in group.up for seen in group[name].view.instances("web")}

    assert before == shown_in_it == shown_after == {group["n1"].view.me().address}


def test_an_instance_whose_last_sign_of_life_came_through_a_living_node_is_adopted_with_the_death() -> None:
    group = RegistryGroup()
    group["n1"].register(instance_of(ttl_s=10.0), now=0.0)
    group.settle()
    group.pass_time(5.0)
    renew(group, "n2")
    group.pass_time(4.0)
    group.kill("n1")

    assert group.seen() == group.everywhere(("web-1", "n2", "passing"))


def test_a_sign_of_life_older_than_the_ttl_adopts_nothing() -> None:
    group = RegistryGroup()
    group["n1"].register(instance_of(ttl_s=10.0), now=0.0)
    group.settle()
    renew(group, "n2")
    group.pass_time(6.0)
    renew(group, "n1")
    group.pass_time(6.0)
    group.kill("n1")

    assert group.seen() == group.everywhere(("web-1", "n1", "critical"))


def test_of_two_owners_after_a_partition_the_newer_registration_counts_and_the_other_forgets() -> None:
    group = RegistryGroup()
    group["n1"].register(instance_of(ttl_s=60.0), now=0.0)
    group.settle()
    group.cut_off("n1")
    for name in ("n2", "n3"):
        group[name].unlinked(storage_of("n1"))
    group["n3"].update_check("web", "web-1", "", "passing", None, now=1.0)
    group.settle()
    apart = group.seen()
    group.heal()

    assert apart == {
        "n1": [("web-1", "n1", "passing")],
        "n2": [("web-1", "n3", "passing")],
        "n3": [("web-1", "n3", "passing")],
    }
    assert group.seen() == group.everywhere(("web-1", "n3", "passing"))
    assert list(group["n1"].view.owned()) == []


def test_at_equal_numbers_the_greater_storage_id_counts_everywhere() -> None:
    group = RegistryGroup()
    group.cut_off("n1")
    group.cut_off("n2")
    for name in ("n1", "n2"):
        group[name].register(instance_of(port=int(name[1:])), now=0.0)
    group.settle()
    group.heal()

    assert group.seen() == group.everywhere(("web-1", "n2", "passing"))


def test_a_removed_instance_does_not_come_back_with_an_owner_that_had_not_heard_of_it() -> None:
    group = RegistryGroup()
    group["n1"].register(instance_of(), now=0.0)
    group.settle()
    group.cut_off("n1")
    removed = group["n2"].deregister("web", "web-1", now=0.0)
    group.settle()
    group.heal()

    assert removed
    assert group.seen() == group.everywhere()
    assert list(group["n1"].view.owned()) == []


def test_an_adoption_does_not_undo_a_removal_that_it_had_not_heard_of() -> None:
    group = RegistryGroup()
    group["n1"].register(instance_of(ttl_s=60.0), now=0.0)
    group.settle()
    group.cut_off("n3")
    group["n2"].deregister("web", "web-1", now=0.0)
    group.settle()
    for name in ("n1", "n2"):
        group["n3"].unlinked(storage_of(name))
    for _ in range(3):
        group["n3"].register(instance_of(id_="web-2"), now=0.0)
        group["n3"].deregister("web", "web-2", now=0.0)
    group["n3"].update_check("web", "web-1", "", "passing", None, now=0.0)
    adopted = [seen.instance.id for seen in group["n3"].view.owned()]
    group.heal()

    assert adopted == ["web-1"]
    assert group.seen() == group.everywhere()


def test_a_removal_outlives_the_node_that_made_it() -> None:
    group = RegistryGroup()
    group["n1"].register(instance_of(), now=0.0)
    group.settle()
    group.cut_off("n1")
    group["n2"].deregister("web", "web-1", now=0.0)
    group.settle()
    group.kill("n2")
    group.pass_time(8.0)
    group.heal()

    assert group.seen() == group.everywhere()
    assert list(group["n1"].view.owned()) == []


def test_an_old_tombstone_is_dropped_and_does_not_bring_the_instance_back() -> None:
    group = RegistryGroup(settings=RegistrySettings(tombstone_s=60.0))
    group["n1"].register(instance_of(), now=0.0)
    group.settle()
    group["n2"].deregister("web", "web-1", now=0.0)
    group.settle()
    group.pass_time(61.0)
    group.heal()

    assert group.seen() == group.everywhere()
    assert group["n2"].deregister("web", "web-1", now=group.now) is False


def test_a_restarted_node_gets_everything_back_and_goes_on_with_what_it_owned() -> None:
    group = RegistryGroup()
    group["n1"].register(instance_of(ttl_s=10.0), now=0.0)
    group["n2"].register(instance_of(id_="web-2"), now=0.0)
    group.settle()
    group.kill("n1")
    group.pass_time(2.0)
    group.start("n1")

    assert group.seen() == group.everywhere(("web-1", "n1", "passing"), ("web-2", "n2", "passing"))
    assert [seen.instance.id for seen in group["n1"].view.owned()] == ["web-1"]

    group.pass_time(10.5)
    assert group.seen() == group.everywhere(("web-1", "n1", "critical"), ("web-2", "n2", "passing"))


def _restarted_and_cut_off() -> RegistryGroup:
    """Return two nodes, of which n1 owned an instance, and has started again without hearing of n2."""
    group = RegistryGroup(2)
    group["n1"].register(instance_of(), now=0.0)
    group.settle()
    group.kill("n1")
    group.cut_off("n1")
    group.start("n1")
    return group


def test_a_restarted_node_asks_for_what_it_owned_if_the_first_answer_was_lost() -> None:
    group = _restarted_and_cut_off()
    group.cut.clear()
    group["n2"].linked(storage_of("n1"), now=0.0)
    group.settle()

    assert group.seen() == group.everywhere(("web-1", "n1", "passing"))


def test_a_node_that_restarts_after_its_instance_was_adopted_leaves_it_where_it_is() -> None:
    group = RegistryGroup()
    group["n1"].register(instance_of(ttl_s=10.0), now=0.0)
    group.settle()
    group.kill("n1")
    renew(group, "n3")
    group.start("n1")

    assert group.seen() == group.everywhere(("web-1", "n3", "passing"))


def test_what_a_restarted_node_does_not_take_over_is_gone_after_the_time_that_is_set() -> None:
    group = RegistryGroup()
    group["n1"].register(instance_of(), now=0.0)
    group.settle()
    group.cut_off("n1")
    group.kill("n1")
    group.start("n1")
    group.pass_time(7.1)

    assert group.seen() == group.everywhere()


def test_a_lost_change_is_asked_for_when_gossip_names_a_newer_version() -> None:
    group = RegistryGroup()
    group["n1"].register(instance_of(), now=0.0)
    group.settle()
    group["n1"].register(instance_of(id_="web-2"), now=0.0)
    group.drop()
    group.pass_time(1.0)
    before = group.seen()["n2"]
    group.gossip()

    assert before == [("web-1", "n1", "passing")]
    assert group.seen() == group.everywhere(("web-1", "n1", "passing"), ("web-2", "n1", "passing"))


def test_a_gap_is_asked_for_by_whoever_sees_it() -> None:
    group = RegistryGroup()
    group["n1"].register(instance_of(), now=0.0)
    group.drop()
    group["n1"].register(instance_of(id_="web-2"), now=0.0)
    group.settle()

    assert group.seen() == group.everywhere(("web-1", "n1", "passing"), ("web-2", "n1", "passing"))


def test_what_an_owner_without_a_link_wrote_is_asked_of_somebody_else() -> None:
    group = RegistryGroup()
    group.cut.add(frozenset(("n1", "n3")))
    group["n3"].unlinked(storage_of("n1"))
    group["n1"].register(instance_of(), now=0.0)
    group.settle()
    group["n3"].told(storage_of("n1"), 1, group["n1"].version, now=1.0)
    group.settle()

    assert group.seen() == group.everywhere(("web-1", "n1", "passing"))


def test_a_change_of_one_service_moves_the_index_of_no_other() -> None:
    group = RegistryGroup()
    group["n1"].register(instance_of("web", "web-1"), now=0.0)
    group["n1"].register(instance_of("db", "db-1"), now=0.0)
    group.settle()
    before = [group[name].view.index("db") for name in group.up]
    for topics in group.topics.values():
        topics.clear()
    group["n2"].register(instance_of("web", "web-2"), now=0.0)
    group.settle()

    assert [group[name].view.index("db") for name in group.up] == before
    assert group.topics == {name: {"web", ANY_TOPIC} for name in group.names}


def test_an_index_is_at_least_one_grows_with_each_change_and_outlives_the_service() -> None:
    group = RegistryGroup(1)
    view = group["n1"].view
    indexes = [view.index("web")]
    for change in (
        lambda: group["n1"].register(instance_of(), now=0.0),
        lambda: group["n1"].register(instance_of(port=81), now=0.0),
        lambda: group["n1"].deregister("web", "web-1", now=0.0),
        lambda: group["n1"].register(instance_of(), now=0.0),
    ):
        change()
        indexes.append(view.index("web"))

    assert indexes[0] == 1
    assert indexes == sorted(set(indexes))


def test_an_index_does_not_fall_when_an_older_change_comes_in_late() -> None:
    group = RegistryGroup()
    group.cut.add(frozenset(("n1", "n3")))
    group["n1"].register(instance_of(id_="web-1"), now=0.0)
    for _ in range(5):
        group["n2"].register(instance_of("other", "o"), now=0.0)
        group["n2"].deregister("other", "o", now=0.0)
    group["n2"].register(instance_of(id_="web-2"), now=0.0)
    group.settle()
    before = group["n3"].view.index("web")
    group.heal()

    assert [seen.instance.id for seen in group["n3"].view.instances("web")] == ["web-1", "web-2"]
    assert group["n3"].view.index("web") > before


def test_the_list_of_services_moves_only_when_a_name_or_a_tag_does() -> None:
    group = RegistryGroup(1)
    registry = group["n1"]
    registry.register(instance_of(tags=("a",)), now=0.0)
    first = registry.view.index(SERVICES_TOPIC)
    registry.register(instance_of(id_="web-2", tags=("a",)), now=0.0)
    second = registry.view.index(SERVICES_TOPIC)
    registry.register(instance_of(id_="web-2", tags=("b",)), now=0.0)
    third = registry.view.index(SERVICES_TOPIC)

    assert first == second < third
    assert dict(registry.view.services()) == {"web": ("a", "b")}


def test_a_node_s_death_moves_its_services_and_the_nodes_and_nothing_else() -> None:
    group = RegistryGroup()
    group["n1"].register(instance_of("web", "web-1"), now=0.0)
    group["n2"].register(instance_of("db", "db-1"), now=0.0)
    group.settle()
    for topics in group.topics.values():
        topics.clear()
    group.kill("n1")

    assert group.topics["n3"] == {"web", NODES_TOPIC, ANY_TOPIC}
    assert [check.id for check in group["n3"].view.nodes()[0].checks] == [SERF_HEALTH]


def test_checks_of_a_node_count_for_all_its_instances() -> None:
    group = RegistryGroup()
    group["n1"].register(instance_of("web", "web-1"), now=0.0)
    group["n1"].put_check(NODE_SERVICE, "n1", Check("_node_maintenance", "x", "manual", "critical"), now=0.0)
    group.settle()
    closed = group.seen()
    group["n1"].drop_check(NODE_SERVICE, "n1", "_node_maintenance", now=0.0)
    group.settle()

    assert closed == group.everywhere(("web-1", "n1", "critical"))
    assert group.seen() == group.everywhere(("web-1", "n1", "passing"))
    assert dict(group["n2"].view.services()) == {"web": ()}


def test_checks_of_a_node_are_told_to_that_node_only() -> None:
    group = RegistryGroup()

    with pytest.raises(NotFound):
        group["n2"].put_check(NODE_SERVICE, "n1", Check("x", "x", "manual"), now=0.0)


def test_an_instance_that_stays_critical_is_removed_if_it_asked_for_that() -> None:
    group = RegistryGroup()
    group["n1"].register(instance_of(), now=0.0)
    group.settle()
    ttl = Check("t", "t", "ttl", "passing", ttl_s=10.0, deregister_after_s=60.0)
    group["n2"].put_check("web", "web-1", ttl, now=0.0)
    group.settle()
    group.pass_time(69.0)
    before = group.seen()
    group.pass_time(2.0)

    assert before == group.everywhere(("web-1", "n2", "critical"))
    assert group.seen() == group.everywhere()


def test_flapping_states_leave_no_timers_behind() -> None:
    group = RegistryGroup(1)
    group["n1"].register(instance_of(ttl_s=10.0), now=0.0)
    for number in range(1000):
        renew(group, "n1", ("warning", "critical", "passing")[number % 3])

    assert len(group["n1"]._pulses._due) <= 2


def test_an_output_alone_is_spread_at_most_every_ten_seconds() -> None:
    group = RegistryGroup(1)
    group["n1"].register(instance_of(ttl_s=60.0), now=0.0)
    indexes = []
    for second in range(31):
        group["n1"].update_check("web", "web-1", "", "passing", f"at {second}", now=float(second))
        indexes.append(group["n1"].view.index("web"))

    assert len(set(indexes)) == 4
    assert group["n1"].view.instances("web")[0].instance.checks[0].output == "at 30"


def test_what_nobody_knows_cannot_be_renewed() -> None:
    group = RegistryGroup()
    group["n1"].register(instance_of(), now=0.0)
    group.settle()

    with pytest.raises(NotFound, match="no instance 'web-2'"):
        group["n1"].update_check("web", "web-2", "", "passing", None, now=0.0)
    with pytest.raises(NotFound, match="no check 'c'"):
        group["n2"].update_check("web", "web-1", "c", "passing", None, now=0.0)
    group["n1"].put_check("web", "web-1", Check("t", "t", "ttl", ttl_s=9.0), now=0.0)
    with pytest.raises(BadRequest, match="passing, warning or critical"):
        group["n1"].update_check("web", "web-1", "t", "fine", None, now=0.0)


def test_a_node_takes_only_as_many_instances_as_are_set() -> None:
    group = RegistryGroup(settings=RegistrySettings(instances_max=2))
    for number in (1, 2):
        group["n1"].register(instance_of(id_=f"web-{number}"), now=0.0)

    with pytest.raises(TooManyRequests):
        group["n1"].register(instance_of(id_="web-3"), now=0.0)
    group["n1"].register(instance_of(id_="web-2", port=81), now=0.0)
    assert len(group["n1"].view.instances("web")) == 2


def test_an_answer_of_a_check_that_was_defined_anew_meanwhile_is_not_taken() -> None:
    group = RegistryGroup(1)
    group["n1"].register(instance_of(), now=0.0)
    old = Check("h", "h", "tcp", "critical", interval_s=1.0, target="10.1.0.1:80")
    new = Check("h", "h", "tcp", "critical", interval_s=1.0, target="10.1.0.1:81")
    group["n1"].put_check("web", "web-1", old, now=0.0)
    asked = group["n1"].own_checks()
    group["n1"].put_check("web", "web-1", new, now=0.0)
    group["n1"].checked("web", "web-1", asked[0][1], "passing", "connected", now=0.0)

    assert [shown(seen) for seen in group["n1"].view.instances("web")] == [("web-1", "n1", "critical")]


def test_a_node_that_has_left_the_map_is_forgotten_with_all_it_owned() -> None:
    group = RegistryGroup()
    group["n1"].register(instance_of(), now=0.0)
    group.settle()
    group.kill("n1", known=False)
    del group.facts["n1"]
    for name in group.up:
        group.learn(name)

    assert group.seen() == group.everywhere()
    assert [node.name for node in group["n2"].view.nodes()] == ["n2", "n3"]


def test_a_node_that_does_not_know_its_members_does_not_take_itself_for_alone() -> None:
    alone, unsure = RegistryGroup(1)["n1"], RegistryGroup(1)["n1"]
    unsure.awaits_members = True

    assert (alone.is_informed(now=0.0), unsure.is_informed(now=0.0), unsure.is_informed(now=60.0)) == (
        True,
        False,
        False,
    )


def test_a_restarted_node_is_not_informed_before_it_has_what_it_owned_itself() -> None:
    group = _restarted_and_cut_off()
    fresh, held = group["n1"], ServicesKnown(((storage_of("n1"), 1, 5),), asks=False)
    fresh.receive(storage_of("n2"), held, now=0.0)
    has_asked = fresh.is_informed(now=0.0)
    group.heal()

    assert (has_asked, fresh.is_informed(now=0.0)) == (False, True)
    assert group.seen() == group.everywhere(("web-1", "n1", "passing"))


def test_a_node_registers_nothing_before_a_peer_told_how_far_numbers_are() -> None:
    group = RegistryGroup()
    group["n1"].register(instance_of(), now=0.0)
    group.settle()
    group.kill("n3")
    group.cut_off("n3")
    group.start("n3")
    alone = group["n3"].is_informed(now=group.now)
    group.heal()

    assert (alone, group["n3"].is_informed(now=group.now)) == (False, True)


def test_who_starts_with_a_newer_map_numbers_higher_than_whoever_was_cut_off_before() -> None:
    group = RegistryGroup()
    for port in range(80, 99):
        group["n3"].register(instance_of(port=port), now=0.0)
    group.settle()
    group.cut_off("n3")
    # Both others start again and know nothing of what n3 holds; their boots are entries of the map.
    for name in ("n1", "n2"):
        group.kill(name, known=False)
    for version, name in ((7, "n1"), (8, "n2")):
        group.start(name)
        group[name].members(group.facts.values(), map_version=version, now=group.now)
    group["n2"].register(instance_of(port=443), now=group.now)
    group.settle()
    group.heal()

    assert group.seen() == group.everywhere(("web-1", "n2", "passing"))
    assert {group[name].view.instances("web")[0].instance.port for name in group.names} == {443}
