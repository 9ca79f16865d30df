"""A gateway that cannot reach a primary, or is not answered by it: around through others, in the right epoch, once."""

from __future__ import annotations

import msgspec
import pytest

from ringkeep_core.maprules import bootstrap
from ringkeep_core.shardmap import Copy, Member, Primary, Settings, ShardMap
from ringkeep_node.machines.documents import Answer, Write
from ringkeep_node.machines.gateway import SILENT_S, Answered, Attempt, Gateway, GatewaySettings
from ringkeep_node.machines.shard.effects import (
    Absent,
    Moved,
    NotApplied,
    ReadRequest,
    Result,
    Stored,
    Unknown,
    WriteRequest,
)

ME, LEAD, COPY, FAR, NEXT = (f"{number:016x}" for number in (1, 2, 3, 4, 5))
SHARD = 3
STORED = Stored(Answer.CREATED, 7, 1)
REFUSED = NotApplied("no_primary", "no node that was asked could reach the primary")


def map_of(primary: str = LEAD, *, epoch: int = 1, step: int = 0) -> ShardMap:
    """A map of five members; two have a copy of every shard: the primary and COPY."""
    members = [
        Member(one, f"n{one[-1]}", f"{one[-1]}" * 16, 1, f"http://{one[-1]}", f"h:{one[-1]}", "", 0)
        for one in (ME, LEAD, COPY, FAR, NEXT)
    ]
    first = bootstrap(cluster_id="c" * 16, members=members, shards=16, settings=Settings())
    shards = tuple(
        msgspec.structs.replace(
            shard,
            primary=Primary(primary, f"{primary[-1]}" * 16),
            epoch=epoch,
            in_sync=(Copy(primary, 1), Copy(COPY, 1)),
        )
        for shard in first.shards
    )
    return msgspec.structs.replace(first, shards=shards, version=first.version + step)


def gateway_with(up: tuple[str, ...], down: tuple[str, ...] = ()) -> Gateway:
    gateway = Gateway(me=ME, boot="b" * 16, settings=GatewaySettings())
    gateway.map_held(map_of(), now=0.0)
    for storage in up:
        gateway.peer_up(storage, now=0.0)
    for storage in down:
        gateway.peer_down(storage, now=0.0)
    return gateway


def submit(gateway: Gateway, token: int, *, deadline: float = 60.0, now: float = 0.0, read: bool = False) -> None:
    request: WriteRequest | ReadRequest = ReadRequest("u", "k", deadline)
    if not read:
        request = WriteRequest((Write("u", "k", b"v", "t"),), deadline, 0)
    gateway.submit(token, SHARD, request, deadline=deadline, size=10, now=now)


def sent(gateway: Gateway) -> Attempt:
    (order,) = gateway.take_orders()
    assert isinstance(order, Attempt)
    return order


def attempts(gateway: Gateway, until: float) -> list[tuple[float, str]]:
    """Let time pass; return when what went where."""
    found = []
    while (due := gateway.next_deadline()) is not None and due <= until:
        gateway.tick(now=due)
        found += [(due, order.storage) for order in gateway.take_orders() if isinstance(order, Attempt)]
    return found


def results(gateway: Gateway) -> list[Result]:
    return [order.result for order in gateway.take_orders() if isinstance(order, Answered)]


def epoch_of(attempt: Attempt) -> int:
    assert isinstance(attempt.request, WriteRequest)
    return attempt.request.epoch


# --- which way ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("up", "down", "first"),
    [
        ((LEAD, COPY, FAR), (), LEAD),
        ((COPY, FAR), (LEAD,), COPY),
        ((FAR,), (LEAD, COPY), FAR),
        ((NEXT, FAR), (LEAD, COPY), FAR),
    ],
)
@pytest.mark.parametrize("read", [False, True])
def test_a_request_goes_straight_if_there_is_a_link_else_through_a_copy_else_through_any_member(
    up: tuple[str, ...], down: tuple[str, ...], first: str, read: bool
) -> None:
    gateway = gateway_with(up, down)

    submit(gateway, 1, read=read)

    assert sent(gateway).storage == first


def test_without_anybody_to_go_through_a_request_waits_and_is_certainly_not_applied() -> None:
    gateway = gateway_with((), (LEAD, COPY, FAR, NEXT))
    submit(gateway, 1, deadline=1.0)
    nothing = gateway.take_orders()

    gateway.tick(now=1.0)

    assert (nothing, results(gateway)) == (
        [],
        [NotApplied("no_primary", "no primary could be reached before the deadline")],
    )


def test_what_goes_around_keeps_its_operation_id_and_its_epoch() -> None:
    gateway = gateway_with((LEAD, COPY))
    submit(gateway, 1)
    straight = sent(gateway)

    gateway.peer_down(LEAD, now=0.1)

    assert sent(gateway) == Attempt(2, COPY, SHARD, straight.request, 60.0)


@pytest.mark.parametrize("first", [0, 1])
def test_an_answer_on_either_way_settles_a_change_and_the_other_one_means_nothing(first: int) -> None:
    gateway = gateway_with((LEAD, COPY))
    submit(gateway, 1)
    ways = [sent(gateway)]
    gateway.peer_down(LEAD, now=0.1)
    ways.append(sent(gateway))

    gateway.answered(ways[first].token, STORED, now=0.2)
    gateway.answered(ways[1 - first].token, STORED, now=0.3)

    assert (results(gateway), gateway.open_requests, gateway._by_attempt) == ([STORED], 0, {})


def test_relays_that_refuse_are_tried_in_turn_and_more_slowly_than_a_primary() -> None:
    gateway = gateway_with((COPY, FAR), (LEAD,))
    submit(gateway, 1)
    tried, now, pauses = [sent(gateway)], 0.0, []
    while len(tried) < 6:
        gateway.answered(tried[-1].token, REFUSED, now=now, by=tried[-1].storage)
        refused_at = now
        while not (orders := gateway.take_orders()):
            now = gateway.next_deadline() or now
            gateway.tick(now=now)
        pauses.append(round(now - refused_at, 3))
        tried += [order for order in orders if isinstance(order, Attempt)]

    assert [attempt.storage for attempt in tried] == [COPY, FAR, COPY, FAR, COPY, FAR]
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.5]


def test_a_change_of_the_map_that_is_not_about_the_primary_sends_nothing_around_again() -> None:
    gateway = gateway_with((COPY, FAR), (LEAD,))
    submit(gateway, 1)
    gateway.answered(sent(gateway).token, REFUSED, now=0.1)

    gateway.map_held(map_of(step=1), now=0.11)
    same = gateway.take_orders()
    gateway.map_held(map_of(COPY, epoch=2, step=2), now=0.12)

    assert (same, sent(gateway).storage) == ([], COPY)


def test_a_relay_that_is_lost_is_replaced_by_another() -> None:
    gateway = gateway_with((COPY, FAR), (LEAD,))
    submit(gateway, 1)
    through = [sent(gateway).storage]

    gateway.peer_down(COPY, now=0.1)
    through.append(sent(gateway).storage)

    assert through == [COPY, FAR]


# --- a primary that does not answer ------------------------------------------------------------------------------


def test_a_request_that_is_not_answered_goes_around_and_then_straight_again() -> None:
    gateway = gateway_with((LEAD, COPY, FAR))
    submit(gateway, 1)
    sent(gateway)

    assert attempts(gateway, 8.0) == [(1.0, COPY), (3.0, LEAD), (7.0, FAR)]


def test_later_requests_go_around_a_silent_primary_at_once_and_now_and_then_one_finds_out() -> None:
    gateway = gateway_with((LEAD, COPY))
    submit(gateway, 1, deadline=2.5)
    sent(gateway)
    attempts(gateway, 1.0)
    ways = []
    for token, now in ((2, 1.1), (3, 1.2), (4, 1.0 + SILENT_S), (5, 1.1 + SILENT_S)):
        submit(gateway, token, now=now)
        ways.append(sent(gateway).storage)

    assert ways == [COPY, COPY, LEAD, COPY]


@pytest.mark.parametrize("sign", ["answer", "link"])
def test_a_silent_primary_that_is_heard_again_is_asked_straight(sign: str) -> None:
    gateway = gateway_with((LEAD, COPY))
    submit(gateway, 1)
    first = sent(gateway)
    attempts(gateway, 1.0)

    if sign == "answer":
        gateway.answered(first.token, STORED, now=1.1, by=LEAD)
    else:
        gateway.peer_up(LEAD, now=1.1)
    gateway.take_orders()
    submit(gateway, 2, now=1.2)

    assert sent(gateway).storage == LEAD


def test_a_primary_that_answers_others_is_not_silent_only_because_one_request_takes_long() -> None:
    gateway = gateway_with((LEAD, COPY))
    for token in (1, 2):
        submit(gateway, token)
    _, quick = gateway.take_orders()
    assert isinstance(quick, Attempt)
    gateway.answered(quick.token, STORED, now=0.5, by=LEAD)
    gateway.take_orders()

    around = attempts(gateway, 1.0)
    submit(gateway, 3, now=1.1)

    assert (around, sent(gateway).storage) == ([(1.0, COPY)], LEAD)


def test_when_relays_do_not_reach_a_silent_primary_either_it_is_asked_straight() -> None:
    gateway = gateway_with((LEAD, COPY))
    submit(gateway, 1)
    sent(gateway)
    ((_, relay),) = attempts(gateway, 1.0)

    gateway.answered(2, REFUSED, now=1.1, by=relay)

    assert attempts(gateway, 1.2)[0][1] == LEAD


# --- what may be told to the client --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "ends"),
    [
        (REFUSED, REFUSED),  # No relay sent it on: certainly not applied.
        (Moved(LEAD, 1, 0), Unknown()),  # The relay sent it on and lost the link.
        (None, Unknown()),  # Nobody answered.
    ],
)
def test_only_a_change_that_no_relay_sent_on_is_certainly_not_applied(answer: Result | None, ends: Result) -> None:
    gateway = gateway_with((COPY,), (LEAD,))
    submit(gateway, 1, deadline=0.04)
    around = sent(gateway)
    if answer is not None:
        gateway.answered(around.token, answer, now=0.01, by=COPY)

    gateway.tick(now=0.04)

    assert results(gateway) == [ends]


def test_a_refusal_of_a_relay_decides_nothing_while_a_straight_attempt_may_be_applied() -> None:
    gateway = gateway_with((LEAD, COPY))
    submit(gateway, 1, deadline=0.5)
    straight = sent(gateway)
    gateway.peer_down(LEAD, now=0.1)
    gateway.answered(sent(gateway).token, REFUSED, now=0.2, by=COPY)
    early = gateway.take_orders()

    gateway.answered(straight.token, STORED, now=0.3, by=LEAD)

    assert (early, results(gateway)) == ([], [STORED])


def test_the_primary_s_refusal_by_the_documents_counts_on_the_way_around_too() -> None:
    gateway = gateway_with((LEAD, COPY))
    submit(gateway, 1)
    sent(gateway)
    gateway.peer_down(LEAD, now=0.1)

    gateway.answered(sent(gateway).token, NotApplied("version_mismatch"), now=0.2, by=COPY)

    assert results(gateway) == [NotApplied("version_mismatch")]


# --- a newer map elsewhere -----------------------------------------------------------------------------------------


def newer(primary: str, epoch: int, step: int) -> Moved:
    return Moved(primary, epoch, map_of().version + step)


@pytest.mark.parametrize("read", [False, True])
def test_a_shard_that_moved_by_a_newer_map_is_followed_at_once_in_its_new_epoch(read: bool) -> None:
    gateway = gateway_with((LEAD, COPY))
    submit(gateway, 1, read=read)

    gateway.answered(sent(gateway).token, newer(COPY, 2, 5), now=0.1, by=LEAD)

    again = sent(gateway)
    assert again.storage == COPY and (read or epoch_of(again) == 2)


def test_the_same_hint_again_is_no_reason_to_hurry() -> None:
    gateway = gateway_with((LEAD, COPY))
    submit(gateway, 1)
    gateway.answered(sent(gateway).token, newer(COPY, 2, 5), now=0.1)

    gateway.answered(sent(gateway).token, newer(COPY, 2, 5), now=0.2)

    assert gateway.take_orders() == [] and attempts(gateway, 0.3)[0][1] == COPY


def test_a_map_older_than_the_hint_changes_nothing_and_a_newer_one_counts() -> None:
    gateway = gateway_with((LEAD, COPY, FAR))
    submit(gateway, 1)
    gateway.answered(sent(gateway).token, newer(COPY, 3, 5), now=0.1)
    sent(gateway)

    gateway.map_held(map_of(LEAD, epoch=2, step=4), now=0.2)
    older = gateway.take_orders()
    gateway.map_held(map_of(FAR, epoch=4, step=6), now=0.3)

    last = sent(gateway)
    assert (older, last.storage, epoch_of(last)) == ([], FAR, 4)


def test_no_attempt_names_a_lower_epoch_than_one_before_it() -> None:
    gateway = gateway_with((LEAD, COPY, FAR))
    submit(gateway, 1)
    late = sent(gateway)
    gateway.peer_up(LEAD, now=0.05)
    gateway.answered(sent(gateway).token, newer(COPY, 3, 5), now=0.1)
    moved = sent(gateway)

    gateway.answered(late.token, newer(FAR, 2, 4), now=0.2)
    gateway.answered(moved.token, NotApplied("not_enough_copies"), now=0.3)
    gateway.tick(now=0.5)

    again = sent(gateway)
    assert (epoch_of(moved), again.storage, epoch_of(again)) == (3, COPY, 3)


def test_a_read_that_went_around_ends_with_its_answer() -> None:
    gateway = gateway_with((COPY,), (LEAD,))
    submit(gateway, 1, read=True)

    gateway.answered(sent(gateway).token, Absent(1), now=0.1, by=COPY)

    assert results(gateway) == [Absent(1)]
