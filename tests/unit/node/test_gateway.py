"""The gateway: one answer for every request, one operation id however often it goes out, no needless errors."""

from __future__ import annotations

import msgspec

from ringkeep_core.maprules import bootstrap
from ringkeep_core.shardmap import Member, Primary, Settings, ShardMap
from ringkeep_node.machines.documents import Answer, OperationId, Write
from ringkeep_node.machines.gateway import Answered, Attempt, Gateway, GatewaySettings
from ringkeep_node.machines.shard.effects import (
    Absent,
    Moved,
    NotApplied,
    ReadRequest,
    Stored,
    Unknown,
    WriteRequest,
)

ME, OTHER, THIRD = "0" * 15 + "1", "0" * 15 + "2", "0" * 15 + "3"
BOOT = "b" * 16
STORED = Stored(Answer.CREATED, 7, 1)


def map_led_by(storage: str, version_step: int = 0) -> ShardMap:
    members = [
        Member(one, f"n{one[-1]}", f"{one[-1]}" * 16, 1, f"http://{one[-1]}", f"h:{one[-1]}", "", 0)
        for one in (ME, OTHER, THIRD)
    ]
    first = bootstrap(cluster_id="c" * 16, members=members, shards=16, settings=Settings())
    shards = tuple(
        msgspec.structs.replace(shard, primary=Primary(storage, f"{storage[-1]}" * 16)) for shard in first.shards
    )
    return msgspec.structs.replace(first, shards=shards, version=first.version + version_step)


def write(deadline: float = 5.0) -> WriteRequest:
    return WriteRequest((Write("u", "k", b"v", "t"),), deadline, 0)


def read(deadline: float = 5.0) -> ReadRequest:
    return ReadRequest("u", "k", deadline)


def gateway_routing_to(storage: str | None, settings: GatewaySettings | None = None) -> Gateway:
    gateway = Gateway(me=ME, boot=BOOT, settings=settings or GatewaySettings())
    if storage is not None:
        gateway.map_held(map_led_by(storage), now=0.0)
    return gateway


def submit(gateway: Gateway, token: int, request: WriteRequest | ReadRequest, now: float = 0.0) -> None:
    gateway.submit(token, 3, request, deadline=request.deadline, size=10, now=now)


def attempt_of(gateway: Gateway) -> Attempt:
    (order,) = gateway.take_orders()
    assert isinstance(order, Attempt)
    return order


def run_to_deadline(gateway: Gateway, until: float) -> list[Answered]:
    answered: list[Answered] = []
    while (due := gateway.next_deadline()) is not None and due <= until:
        gateway.tick(now=due)
        answered += [order for order in gateway.take_orders() if isinstance(order, Answered)]
    return answered


def test_a_change_goes_to_the_primary_under_an_operation_id_of_this_gateway_boot() -> None:
    gateway = gateway_routing_to(OTHER)

    submit(gateway, 1, write())

    expected = msgspec.structs.replace(write(), operation=OperationId(BOOT, 1, 1), epoch=1)
    assert gateway.take_orders() == [Attempt(1, OTHER, 3, expected, 5.0)]


def test_numbers_grow_and_the_lowest_open_one_is_named() -> None:
    gateway = gateway_routing_to(OTHER)
    for token in (1, 2, 3):
        submit(gateway, token, write())
    first, *_ = gateway.take_orders()
    assert isinstance(first, Attempt)
    gateway.answered(first.token, STORED, now=0.1)
    gateway.take_orders()

    submit(gateway, 4, write())

    request = attempt_of(gateway).request
    assert isinstance(request, WriteRequest) and request.operation == OperationId(BOOT, 4, 2)


def test_an_answer_reaches_the_client_once_and_frees_the_request() -> None:
    gateway = gateway_routing_to(OTHER)
    submit(gateway, 9, write())
    sent = attempt_of(gateway)

    gateway.answered(sent.token, STORED, now=0.1)
    gateway.answered(sent.token, STORED, now=0.2)

    assert gateway.take_orders() == [Answered(9, STORED)]
    assert (gateway.open_requests, gateway.open_bytes) == (0, 0)


def test_a_moved_shard_is_tried_again_under_the_same_operation_id() -> None:
    gateway = gateway_routing_to(OTHER)
    submit(gateway, 1, write())
    sent = attempt_of(gateway)
    gateway.answered(sent.token, Moved(THIRD, 2, 5), now=0.1)

    gateway.map_held(map_led_by(THIRD, 5), now=0.2)

    assert gateway.take_orders() == [Attempt(2, THIRD, 3, sent.request, 5.0)]


def test_without_news_a_retry_goes_out_after_a_short_pause_that_grows_and_is_bounded() -> None:
    gateway = gateway_routing_to(OTHER)
    submit(gateway, 1, read(60.0))
    sent, pauses, now = attempt_of(gateway), [], 0.0
    for _ in range(8):
        refused_at = now
        gateway.answered(sent.token, NotApplied("not_enough_copies"), now=now)
        while not (orders := gateway.take_orders()):
            due = gateway.next_deadline()
            assert due is not None
            now = due
            gateway.tick(now=now)
        (sent,) = (order for order in orders if isinstance(order, Attempt))
        pauses.append(round(now - refused_at, 3))

    assert pauses == [0.005, 0.01, 0.02, 0.04, 0.08, 0.1, 0.1, 0.1]


def test_a_lost_link_sends_a_change_again_to_the_new_primary_and_late_answers_still_count() -> None:
    gateway = gateway_routing_to(OTHER)
    submit(gateway, 1, write())
    first = attempt_of(gateway)
    gateway.peer_down(OTHER, now=0.1)
    gateway.map_held(map_led_by(THIRD, 5), now=0.5)
    second = attempt_of(gateway)

    gateway.answered(first.token, STORED, now=0.6)

    assert second.request == first.request
    assert gateway.take_orders() == [Answered(1, STORED)]


def test_a_change_that_was_sent_and_never_answered_ends_as_outcome_unknown() -> None:
    gateway = gateway_routing_to(OTHER)
    submit(gateway, 1, write())
    gateway.take_orders()

    assert run_to_deadline(gateway, 5.0) == [Answered(1, Unknown())]


def test_a_change_that_never_left_ends_as_certainly_not_applied() -> None:
    gateway = gateway_routing_to(None)
    submit(gateway, 1, write())

    (answered,) = run_to_deadline(gateway, 5.0)

    assert isinstance(answered.result, NotApplied) and answered.result.code == "no_primary"


def test_a_change_refused_for_copies_each_time_ends_with_that_reason() -> None:
    gateway = gateway_routing_to(ME)
    submit(gateway, 1, write(0.01))
    refused = NotApplied("not_enough_copies", "1 of 2")
    gateway.answered(attempt_of(gateway).token, refused, now=0.008)

    assert run_to_deadline(gateway, 0.01) == [Answered(1, refused)]


def test_one_uncertain_attempt_makes_the_outcome_unknown_whatever_later_attempts_say() -> None:
    gateway = gateway_routing_to(OTHER)
    submit(gateway, 1, write(1.0))
    gateway.take_orders()
    gateway.peer_down(OTHER, now=0.1)
    gateway.map_held(map_led_by(THIRD, 5), now=0.2)
    gateway.answered(attempt_of(gateway).token, NotApplied("not_enough_copies"), now=0.99)

    assert run_to_deadline(gateway, 1.0) == [Answered(1, Unknown())]


def test_a_read_is_never_outcome_unknown() -> None:
    gateway = gateway_routing_to(OTHER)
    submit(gateway, 1, read())
    gateway.take_orders()

    (answered,) = run_to_deadline(gateway, 5.0)

    assert isinstance(answered.result, NotApplied) and answered.result.code == "no_primary"


def test_a_primary_whose_link_is_down_is_not_tried_until_it_is_back() -> None:
    gateway = gateway_routing_to(OTHER)
    gateway.peer_down(OTHER, now=0.0)
    submit(gateway, 1, read())
    assert gateway.take_orders() == []

    gateway.peer_up(OTHER, now=0.3)

    assert attempt_of(gateway).storage == OTHER


def test_requests_above_the_bounds_are_shed_before_any_work() -> None:
    gateway = gateway_routing_to(OTHER, GatewaySettings(open_requests_max=1, open_bytes_max=100))
    submit(gateway, 1, read())
    gateway.take_orders()

    submit(gateway, 2, read())

    (order,) = gateway.take_orders()
    assert isinstance(order, Answered) and isinstance(order.result, NotApplied) and order.result.code == "overloaded"
    assert gateway.shed == 1


def test_an_answer_that_is_not_an_outcome_of_routing_is_passed_on_as_it_is() -> None:
    gateway = gateway_routing_to(ME)
    submit(gateway, 1, read())

    gateway.answered(attempt_of(gateway).token, Absent(4), now=0.1)

    assert gateway.take_orders() == [Answered(1, Absent(4))]


def with_epoch(shard_map: ShardMap, epoch: int) -> ShardMap:
    shards = tuple(msgspec.structs.replace(shard, epoch=epoch) for shard in shard_map.shards)
    return msgspec.structs.replace(shard_map, shards=shards)


def test_every_attempt_of_a_change_names_the_epoch_of_the_map_it_was_routed_by() -> None:
    gateway = gateway_routing_to(OTHER)
    submit(gateway, 1, write())
    first = attempt_of(gateway).request

    gateway.map_held(with_epoch(map_led_by(THIRD, 5), 2), now=0.1)

    again = attempt_of(gateway).request
    assert isinstance(first, WriteRequest) and isinstance(again, WriteRequest)
    assert (first.epoch, again.epoch, again.operation) == (1, 2, first.operation)


def test_a_refusal_of_an_overtaken_attempt_decides_nothing_while_a_newer_one_is_under_way() -> None:
    gateway = gateway_routing_to(OTHER)
    submit(gateway, 1, write())
    first = attempt_of(gateway)
    gateway.peer_down(OTHER, now=0.1)
    gateway.map_held(map_led_by(THIRD, 5), now=0.2)
    second = attempt_of(gateway)

    gateway.answered(first.token, NotApplied("version_mismatch"), now=0.3)
    before = gateway.take_orders()
    gateway.answered(second.token, STORED, now=0.4)

    assert (before, gateway.take_orders()) == ([], [Answered(1, STORED)])


def test_after_an_uncertain_attempt_being_turned_away_at_the_door_is_no_answer() -> None:
    gateway = gateway_routing_to(OTHER)
    submit(gateway, 1, write(1.0))
    gateway.answered(attempt_of(gateway).token, Moved(OTHER, 1, 1), now=0.1)
    gateway.tick(now=0.2)

    gateway.answered(attempt_of(gateway).token, NotApplied("overloaded"), now=0.99)

    assert run_to_deadline(gateway, 1.0) == [Answered(1, Unknown())]


def test_a_refusal_by_the_documents_is_final_even_after_an_uncertain_attempt() -> None:
    gateway = gateway_routing_to(OTHER)
    submit(gateway, 1, write())
    gateway.answered(attempt_of(gateway).token, Moved(OTHER, 1, 1), now=0.1)
    gateway.tick(now=0.2)

    gateway.answered(attempt_of(gateway).token, NotApplied("version_mismatch"), now=0.3)

    assert gateway.take_orders() == [Answered(1, NotApplied("version_mismatch"))]


def test_an_answer_to_an_earlier_boot_of_this_node_finds_no_request() -> None:
    earlier = Gateway(me=ME, boot=BOOT, settings=GatewaySettings(), first_attempt=(1 << 32) + 1)
    later = Gateway(me=ME, boot="a" * 16, settings=GatewaySettings(), first_attempt=(2 << 32) + 1)
    for gateway in (earlier, later):
        gateway.map_held(map_led_by(OTHER), now=0.0)
        submit(gateway, 1, write())
    late = attempt_of(earlier)
    later.take_orders()

    later.answered(late.token, STORED, now=0.1)

    assert (later.take_orders(), later.open_requests) == ([], 1)


def test_what_was_sent_before_there_was_a_link_goes_out_when_there_is_one() -> None:
    gateway = gateway_routing_to(OTHER)
    submit(gateway, 1, write())
    dropped = attempt_of(gateway)

    gateway.peer_up(OTHER, now=0.1)

    assert attempt_of(gateway) == Attempt(2, OTHER, 3, dropped.request, 5.0)


def test_a_request_that_nobody_answers_goes_out_again_under_its_operation_id_less_and_less_often() -> None:
    gateway = gateway_routing_to(OTHER)
    submit(gateway, 1, write(60.0))
    first, sent_at = attempt_of(gateway), [0.0]
    while len(sent_at) < 4:
        due = gateway.next_deadline()
        assert due is not None
        gateway.tick(now=due)
        for order in gateway.take_orders():
            assert isinstance(order, Attempt) and order.request == first.request
            sent_at.append(due)

    assert sent_at == [0.0, 1.0, 3.0, 7.0]


def test_a_request_that_this_node_serves_itself_is_not_repeated() -> None:
    gateway = gateway_routing_to(ME)
    submit(gateway, 1, read(5.0))
    attempt_of(gateway)

    answered = run_to_deadline(gateway, 4.9)

    assert (answered, gateway.next_deadline()) == ([], 5.0)
