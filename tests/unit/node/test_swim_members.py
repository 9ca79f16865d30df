"""Who is refused and which news win: the committed map, boots, names, left members."""

import pytest
from msgspec.structs import replace

from ringkeep_node.machines.swim import (
    Evidence,
    MemberIdentity,
    MemberState,
    RegisteredMember,
    Swim,
    SwimSettings,
)
from ringkeep_node.machines.swim.messages import Kind
from ringkeep_testing.swim_traces import (
    address_of,
    boot_of,
    datagram_of,
    identity_of,
    news_of,
    packet_of,
    storage_of,
    swim_of,
)

N1, N2 = storage_of("n1"), storage_of("n2")


def row(name: str, *, storage: str | None = None, counter: int = 1, left: bool = False) -> RegisteredMember:
    return RegisteredMember(
        storage=storage or storage_of(name),
        name=name,
        boot=boot_of(name, counter),
        counter=counter,
        address=address_of(name),
        left=left,
    )


def hear(swim: Swim, name: str, *, counter: int = 1, incarnation: int = 0, now: float = 0.0) -> None:
    packet = packet_of(name, Kind.GOSSIP, counter=counter, incarnation=incarnation)
    swim.datagram(datagram_of(packet), address_of(name), now=now)


def state_of(swim: Swim, storage: str) -> MemberState | None:
    view = swim.members.get(storage)
    return None if view is None else view.state


def test_a_left_storage_id_is_never_accepted_again_whatever_its_counter() -> None:
    swim = swim_of()
    hear(swim, "n1")
    step = swim.registered([row("n1", left=True)], now=1.0)
    hear(swim, "n1", counter=50, now=2.0)

    assert [(one.before, one.after) for one in step.changes] == [(MemberState.ALIVE, MemberState.LEFT)]
    assert (state_of(swim, N1), swim.refused["left"]) == (MemberState.LEFT, 1)


def test_a_name_goes_to_another_storage_id_only_by_the_map() -> None:
    swim = swim_of()
    other = "f" * 16
    stranger = MemberIdentity(storage=other, name="n1", boot="e" * 16, counter=1, address=("new", 1))
    swim.registered([row("n1")], now=0.0)
    hear(swim, "n1")
    wiped = packet_of("n1", Kind.GOSSIP)
    wiped = replace(wiped, storage=other)
    swim.datagram(datagram_of(wiped), stranger.address, now=1.0)
    before = (state_of(swim, N1), state_of(swim, other), swim.refused["name"])
    swim.registered([row("n1", storage=other)], now=2.0)
    swim.datagram(datagram_of(wiped), stranger.address, now=3.0)
    hear(swim, "n1", counter=9, now=4.0)

    assert before == (MemberState.ALIVE, None, 1)
    assert (state_of(swim, N1), state_of(swim, other)) == (MemberState.LEFT, MemberState.ALIVE)
    assert swim.refused["left"] == 1


def test_a_boot_below_the_registered_counter_is_refused() -> None:
    swim = swim_of()
    swim.registered([row("n1", counter=5)], now=0.0)
    hear(swim, "n1", counter=4)

    assert (swim.refused["boot"], swim.members[N1].heard_at) == (1, None)


def test_another_boot_under_a_counter_we_know_is_refused() -> None:
    swim = swim_of()
    hear(swim, "n1", counter=3)
    copied = packet_of("n1", Kind.PING, counter=3)
    copied = replace(copied, boot="d" * 16)
    step = swim.datagram(datagram_of(copied), ("elsewhere", 1), now=1.0)

    assert (swim.refused["boot"], step.send) == (1, ())


def test_a_restart_with_a_higher_counter_is_alive_at_once_at_its_new_address() -> None:
    """cortex 2130: a pod that came back under its name with another address was refused for 30 s."""
    swim = swim_of()
    hear(swim, "n1")
    packet = packet_of("n1", Kind.PING, counter=2)
    packet = replace(packet, host="new-place")
    step = swim.datagram(datagram_of(packet), ("new-place", 1), now=1.0)
    view = swim.members[N1]

    assert (view.state, view.counter, view.address) == (MemberState.ALIVE, 2, ("new-place", 1))
    assert [(one.before, one.after, one.evidence) for one in step.changes] == [
        (MemberState.ALIVE, MemberState.ALIVE, (Evidence.RESTARTED,))
    ]


def test_late_news_of_an_older_boot_change_nothing() -> None:
    swim = swim_of()
    hear(swim, "n1", counter=2)
    for state in MemberState:
        packet = packet_of("n2", Kind.GOSSIP, updates=(news_of("n1", state, counter=1, incarnation=99),))
        swim.datagram(datagram_of(packet), address_of("n2"), now=1.0)

    assert (state_of(swim, N1), swim.members[N1].counter) == (MemberState.ALIVE, 2)


def test_the_death_of_a_stranger_is_no_news() -> None:
    swim = swim_of()
    packet = packet_of("n2", Kind.GOSSIP, updates=(news_of("n1", MemberState.DEAD),))
    swim.datagram(datagram_of(packet), address_of("n2"), now=1.0)

    assert state_of(swim, N1) is None


def test_somebody_elses_verdict_on_a_member_we_just_heard_is_only_an_accusation() -> None:
    """consul 5567: a few sick observers must not kill healthy members everywhere."""
    swim = swim_of()
    hear(swim, "n1", now=10.0)
    packet = packet_of("n2", Kind.GOSSIP, updates=(news_of("n1", MemberState.DEAD, by="n2"),))
    swim.datagram(datagram_of(packet), address_of("n2"), now=10.5)
    soon = state_of(swim, N1)
    later = swim_of()
    hear(later, "n1", now=10.0)
    later.datagram(datagram_of(packet), address_of("n2"), now=11.5)

    assert (soon, state_of(later, N1)) == (MemberState.SUSPECT, MemberState.DEAD)


def test_a_registered_member_that_never_speaks_is_judged_all_the_same() -> None:
    swim = swim_of()
    swim.registered([row("n0"), row("n1")], now=0.0)
    states: list[MemberState] = []
    now = 0.0
    while now < 8.0:
        now = max(swim.next_deadline(), now)
        states.extend(change.after for change in swim.tick(now=now).changes)

    assert (states, state_of(swim, N1)) == ([MemberState.DEAD], MemberState.DEAD)


def test_death_times_of_the_last_hour_show_flapping() -> None:
    swim = swim_of()
    hear(swim, "n1", now=0.0)
    hear(swim, "n2", now=0.0)
    for round_ in range(3):
        at = 10.0 * (round_ + 1)
        packet = packet_of("n2", Kind.GOSSIP, updates=(news_of("n1", MemberState.DEAD, incarnation=round_, by="n2"),))
        swim.datagram(datagram_of(packet), address_of("n2"), now=at)
        hear(swim, "n1", incarnation=round_ + 1, now=at + 1.0)

    assert swim.members_at(40.0)[N1].deaths == (10.0, 20.0, 30.0)
    assert swim.members_at(3615.0)[N1].deaths == (20.0, 30.0)


def test_the_table_is_bounded() -> None:
    swim = swim_of(settings=SwimSettings(members_max=3))
    for number in range(1, 6):
        hear(swim, f"n{number}")

    assert (len(swim.members), swim.refused["members"]) == (4, 2)


def test_a_view_says_everything_about_ourselves_too() -> None:
    swim = swim_of()
    mine = swim.members[storage_of("n0")]

    assert (mine.state, mine.name, mine.boot, mine.counter) == (MemberState.ALIVE, "n0", identity_of("n0").boot, 1)


def test_a_process_with_a_higher_boot_counter_under_our_storage_id_is_noticed() -> None:
    swim = swim_of()
    hear(swim, "n0", counter=2)

    assert (swim.superseded, swim.refused["self"]) == (True, 1)


@pytest.mark.parametrize("state", [MemberState.SUSPECT, MemberState.DEAD, MemberState.LEFT])
def test_a_higher_incarnation_of_the_member_itself_takes_back_whatever_others_say(state: MemberState) -> None:
    swim = swim_of()
    hear(swim, "n1", now=0.0)
    packet = packet_of("n2", Kind.GOSSIP, updates=(news_of("n1", state, by="n2"),))
    swim.datagram(datagram_of(packet), address_of("n2"), now=5.0)
    accused = state_of(swim, N1)
    hear(swim, "n1", incarnation=1, now=5.1)

    assert (accused, state_of(swim, N1)) == (state, MemberState.ALIVE)
