"""The membership machine step by step: untrusted bytes, refutation, hints, own lag, values."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringkeep_core.errors import BadFrame
from ringkeep_node.machines.swim import Address, Evidence, MemberState, OpenSeal, Swim, SwimSettings, SwimStep
from ringkeep_node.machines.swim.messages import Kind, Packet, decode
from ringkeep_testing.swim_traces import (
    CLUSTER,
    address_of,
    datagram_of,
    identity_of,
    news_of,
    packet_of,
    storage_of,
    swim_of,
)

N1, N2 = storage_of("n1"), storage_of("n2")
SEAL = OpenSeal()


def sent(step: SwimStep) -> list[tuple[Address, Packet]]:
    return [(address, decode(data, SEAL)) for address, data in step.send]


def hear(swim: Swim, name: str, *, now: float = 0.0, incarnation: int = 0, kind: Kind = Kind.GOSSIP) -> SwimStep:
    return swim.datagram(datagram_of(packet_of(name, kind, incarnation=incarnation)), address_of(name), now=now)


def met(*names: str) -> Swim:
    swim = swim_of()
    for name in names:
        hear(swim, name)
    return swim


def test_a_suspicion_about_us_is_refuted_in_the_same_step_to_everybody() -> None:
    swim = met("n1", "n2")
    packet = packet_of("n1", Kind.GOSSIP, updates=(news_of("n0", MemberState.SUSPECT, by="n1"),))
    step = swim.datagram(datagram_of(packet), address_of("n1"), now=1.0)
    answers = {address: [(u.storage, u.state, u.incarnation) for u in p.updates] for address, p in sent(step)}

    assert answers == {address_of(name): [(storage_of("n0"), MemberState.ALIVE, 1)] for name in ("n1", "n2")}
    assert swim.refutes == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "malformed"),
        (b"\x01", "malformed"),
        (b"\x02anything", "version"),
        (b"\x01\xc1\xff", "malformed"),
        (bytes(1401), "oversized"),
        (datagram_of(packet_of("n1", Kind.PING))[:-3], "malformed"),
        (datagram_of(packet_of("n1", Kind.PING, cluster="d" * 16)), "cluster"),
    ],
    ids=["empty", "short", "version", "not-msgpack", "oversized", "truncated", "foreign"],
)
def test_what_is_not_ours_is_counted_and_dropped(data: bytes, reason: str) -> None:
    swim = swim_of()
    step = swim.datagram(data, ("x", 1), now=0.0)

    assert step == SwimStep()
    assert {name: count for name, count in swim.refused.items() if count} == {reason: 1}


@given(st.binary(max_size=1500))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    swim = swim_of()

    assert swim.datagram(b"\x01" + data, ("x", 1), now=0.0) == SwimStep()


@pytest.mark.parametrize("seed", range(300))
def test_no_damaged_packet_makes_it_raise_or_send_too_much(seed: int) -> None:
    draw = random.Random(seed)
    swim = met("n1", "n2")
    news = tuple(news_of(f"n{n}", MemberState(n % 4), incarnation=n) for n in range(8))
    for kind in Kind:
        data = bytearray(datagram_of(packet_of("n1", kind, number=7, target="n2", updates=news)))
        for _ in range(draw.randrange(1, 5)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        step = swim.datagram(bytes(data), ("x", 1), now=float(seed))
        step_later = swim.tick(now=float(seed) + 0.5)

        assert all(len(one) <= 1400 for _, one in (*step.send, *step_later.send))


def test_a_seal_that_refuses_is_malformed_for_us() -> None:
    class Closed:
        def seal(self, plain: bytes) -> bytes:
            return plain[::-1]

        def open(self, sealed: bytes) -> bytes:
            raise BadFrame("not sealed by one of ours")

    swim = Swim(
        me=identity_of("n0"), cluster_id=CLUSTER, settings=SwimSettings(), seeds=[address_of("n1")],
        draw=lambda: 0.5, now=0.0, seal=Closed(),
    )  # fmt: skip
    swim.datagram(datagram_of(packet_of("n1", Kind.PING)), address_of("n1"), now=0.0)
    ((_, data),) = swim.tick(now=0.0).send

    assert swim.refused["malformed"] == 1
    assert decode(data[:1] + data[:0:-1], SEAL).storage == storage_of("n0")


def test_a_ping_is_answered_to_where_it_came_from() -> None:
    swim = met("n1")
    step = swim.datagram(datagram_of(packet_of("n1", Kind.PING, number=5)), ("10.9.9.9", 4), now=1.0)

    assert [(to, p.number) for to, p in sent(step) if p.kind is Kind.ACK] == [(("10.9.9.9", 4), 5)]


def test_a_ping_to_a_suspect_tells_it_of_the_suspicion() -> None:
    swim = met("n1", "n2")
    step = swim.hint(N1, Evidence.REFUSED, now=1.0)
    pings = [p for to, p in sent(step) if p.kind is Kind.PING and to == address_of("n1")]

    assert [(u.storage, u.state) for u in pings[0].updates[:1]] == [(N1, MemberState.SUSPECT)]


def test_a_member_we_hold_to_be_dead_and_hear_again_is_told_so_and_comes_back() -> None:
    swim = met("n1", "n2")
    packet = packet_of("n2", Kind.GOSSIP, updates=(news_of("n1", MemberState.DEAD, by="n2"),))
    swim.datagram(datagram_of(packet), address_of("n2"), now=5.0)
    told = [u for to, p in sent(hear(swim, "n1", now=6.0)) if to == address_of("n1") for u in p.updates]
    step = hear(swim, "n1", now=6.01, incarnation=1)

    assert (N1, MemberState.DEAD) in [(u.storage, u.state) for u in told]
    assert [(c.before, c.after) for c in step.changes] == [(MemberState.DEAD, MemberState.ALIVE)]


def test_in_a_small_cluster_one_refused_connection_ends_in_a_verdict_after_half_a_second() -> None:
    swim = met("n1", "n2")
    swim.tick(now=0.2)
    swim.hint(N1, Evidence.REFUSED, now=0.3)
    verdicts: list[tuple[float, tuple[Evidence, ...]]] = []
    now = 0.3
    while not verdicts and now < 3.0:
        now = max(now, swim.next_deadline())
        verdicts = [(now, c.evidence) for c in swim.tick(now=now).changes if c.after is MemberState.DEAD]

    assert verdicts == [(0.8, (Evidence.REFUSED, Evidence.EXPIRED))]


def test_a_connection_that_stands_takes_our_accusation_back() -> None:
    swim = met("n1", "n2")
    swim.hint(N1, Evidence.RESET, now=0.1)
    swim.hint(N1, Evidence.CONNECTED, now=0.2)

    assert (swim.members[N1].state, swim.members[N1].accusers) == (MemberState.SUSPECT, ())
    assert swim.next_deadline() < 0.5 < 3.0


def test_a_failed_probe_does_not_accuse_whose_connection_answered_meanwhile() -> None:
    swim = met("n1")
    swim.tick(now=0.125)
    swim.hint(N1, Evidence.CONNECTED, now=0.2)
    changes = [c for at in (0.245, 0.375) for c in swim.tick(now=at).changes]

    assert (changes, swim.probes_failed) == ([], 1)


@pytest.mark.parametrize("evidence", [Evidence.CONNECTED, Evidence.REFUSED])
def test_hints_about_strangers_do_nothing(evidence: Evidence) -> None:
    assert met("n1").hint("f" * 16, evidence, now=1.0) == SwimStep()


def test_after_a_gap_of_its_own_loop_a_node_refutes_and_accuses_nobody() -> None:
    swim = met("n1", "n2")
    swim.tick(now=0.125)
    step = swim.tick(now=5.0)
    news = [u for _, p in sent(step) for u in p.updates if u.storage == storage_of("n0") and u.incarnation == 1]

    assert step.changes == ()
    assert len(news) >= 2 and all(u.state is MemberState.ALIVE for u in news)


def test_queued_input_is_heard_before_a_verdict_falls() -> None:
    swim = met("n1", "n2")
    swim.hint(N1, Evidence.RESET, now=0.1)
    swim.lagged(10.0, now=10.1)
    first = swim.tick(now=10.1)
    hear(swim, "n1", now=10.2, incarnation=1)

    assert [c for c in first.changes if c.after is MemberState.DEAD] == []
    assert swim.members[N1].state is MemberState.ALIVE


def test_a_node_with_steady_lag_judges_later_but_does_judge() -> None:
    """counterexamples.md, L3: above 200 ms lag nobody would ever be called dead."""
    swim = met("n1")
    now, died_at = 0.0, None
    while died_at is None and now < 20.0:
        now += 0.25
        swim.lagged(0.25, now=now)
        if any(c.after is MemberState.DEAD for c in swim.tick(now=now).changes):
            died_at = now

    assert died_at is not None and 3.1 < died_at <= 3.1 + 3.0 + 1.5


def test_an_indirect_answer_saves_a_member_we_cannot_reach() -> None:
    swim = met("n1", "n2")
    (_, ping), *_ = sent(swim.tick(now=0.125))
    asked, other = ("n1", "n2") if ping.target == N1 else ("n2", "n1")
    requests = [(to, p) for to, p in sent(swim.tick(now=0.245)) if p.kind is Kind.PING_REQUEST]
    answer = packet_of(other, Kind.ACK, number=ping.number, target=asked)
    swim.datagram(datagram_of(answer), address_of(other), now=0.3)

    assert [(to, p.target) for to, p in requests] == [(address_of(other), ping.target)]
    assert swim.tick(now=0.375).changes == ()


def test_a_helper_pings_for_others_passes_the_answer_on_and_says_when_there_is_none() -> None:
    swim = met("n1", "n2")
    request = packet_of("n1", Kind.PING_REQUEST, number=40, target="n2")
    (_, ping), *_ = sent(swim.datagram(datagram_of(request), address_of("n1"), now=0.01))
    nack = [p.number for to, p in sent(swim.tick(now=0.11)) if p.kind is Kind.NACK and to == address_of("n1")]
    answer = packet_of("n2", Kind.ACK, number=ping.number)
    acks = [
        (to, p.number, p.target)
        for to, p in sent(swim.datagram(datagram_of(answer), address_of("n2"), now=0.2))
        if p.kind is Kind.ACK
    ]

    assert (ping.kind, ping.target, nack) == (Kind.PING, N2, [40])
    assert acks == [(address_of("n1"), 40, N2)]


def test_our_values_leave_with_the_next_step_and_arrive_as_changes() -> None:
    one, two = met("n2"), swim_of()
    hear(two, "n0", now=0.0)
    receiver = Swim(
        me=identity_of("n2"), cluster_id=CLUSTER, settings=SwimSettings(), seeds=[], draw=lambda: 0.5, now=0.0
    )
    one.set_state("load", b"3", now=0.05)
    deadline = one.next_deadline()
    step = one.tick(now=0.05)
    changed = [
        change
        for to, data in step.send
        if to == address_of("n2")
        for change in receiver.datagram(data, address_of("n0"), now=0.06).state_changed
    ]

    assert deadline <= 0.05
    assert changed == [(storage_of("n0"), "load", b"3")]
    assert dict(receiver.values(storage_of("n0"))) == {"load": b"3"}


def test_verdicts_can_be_read_from_everybodys_values() -> None:
    swim = met("n1", "n2")
    packet = packet_of("n2", Kind.GOSSIP, updates=(news_of("n1", MemberState.DEAD, by="n2"),))
    before = swim.dead_reports(N1)
    swim.datagram(datagram_of(packet), address_of("n2"), now=5.0)
    after = swim.dead_reports(N1)
    hear(swim, "n1", now=6.0, incarnation=1)

    assert (before, after, swim.dead_reports(N1)) == ((), (storage_of("n0"),), ())


def test_an_early_tick_does_nothing() -> None:
    swim = met("n1")

    assert swim.tick(now=0.01) == SwimStep()
