"""An owner's table, its differences, and what is left of removals."""

from __future__ import annotations

import msgspec
import pytest

from ringkeep_core.errors import TooManyRequests
from ringkeep_core.services import Instance
from ringkeep_node.machines.messages import Bundle, decode_bundle, encode_bundle
from ringkeep_node.machines.registry_clients import CLIENTS_MAX, ClientBuckets
from ringkeep_node.machines.registry_tables import TOMBSTONES_MAX, Entry, Graves, ServicesDelta, Table
from ringkeep_testing.registry_group import storage_of

ME = storage_of("n1")


def entry(number: int, version: int, *, lives: bool = True, lamport: int = 1) -> Entry:
    """Return the write of instance ``number``."""
    id_ = f"i{number}"
    return Entry("web", id_, version, version, lamport, 0, 1, Instance("web", id_) if lives else None)


def written(*entries: Entry, counter: int = 1) -> Table:
    """Return a table with these writes."""
    table = Table(counter)
    for each in entries:
        table.write(each)
    return table


def ids(table: Table) -> list[str]:
    """Return the instances in the order of their last writes."""
    return [each.id for each in table.entries.values() if each.instance is not None]


def test_a_difference_has_the_last_write_of_each_key_after_a_version() -> None:
    table = written(entry(1, 1), entry(2, 2), entry(1, 3), entry(3, 4))

    assert table.since(ME, 1, 2) == ServicesDelta(ME, 1, 2, 4, (entry(1, 3), entry(3, 4)))
    assert table.since(ME, 1, 4) is None
    assert table.since(ME, 2, 0) is None


def test_whoever_takes_every_difference_holds_the_same_and_a_gap_is_refused() -> None:
    table, copy = Table(1), Table(1)
    for version in range(1, 8):
        table.write(entry(version % 3, version, lives=version != 5))
        delta = table.since(ME, copy.counter, copy.version)
        assert delta is not None and copy.fits(delta)
        copy.take(delta)
    late = table.since(ME, 1, 7)
    gap = ServicesDelta(ME, 1, 8, 9, ())

    assert (list(copy.entries.items()), copy.version, late) == (list(table.entries.items()), 7, None)
    assert not copy.fits(gap)


def test_whoever_is_below_the_floor_gets_the_whole_table_and_drops_what_is_not_in_it() -> None:
    table = written(*(entry(number, number + 1) for number in range(3)))
    copy = Table(1)
    whole = table.since(ME, 0, 0)
    assert whole is not None
    copy.take(whole)
    table.write(entry(0, 4, lives=False))
    table.drop_tombstone(next(table.tombstones()))
    delta = table.since(ME, 1, 3)
    assert delta is not None

    assert (delta.base, [each.id for each in delta.entries]) == (0, ["i1", "i2"])
    assert copy.fits(delta)
    assert sorted(copy.take(delta)) == [("web", "i0"), ("web", "i1"), ("web", "i2")]
    assert ids(copy) == ["i1", "i2"]


def test_only_so_many_tombstones_are_kept() -> None:
    table = written(*(entry(number, number + 1, lives=False) for number in range(TOMBSTONES_MAX + 5)))

    assert (len(list(table.tombstones())), table.floor, table.instances) == (TOMBSTONES_MAX, 5, 0)


def test_another_boot_takes_the_place_of_an_earlier_one_as_a_whole_only() -> None:
    table, newer = written(entry(1, 1), entry(2, 2)), written(entry(3, 1), counter=2)
    partial = ServicesDelta(ME, 2, 1, 2, (entry(4, 2),))
    whole = newer.since(ME, table.counter, table.version)
    assert whole is not None

    assert not table.fits(partial)
    assert table.fits(whole)
    table.take(whole)
    assert (ids(table), table.counter) == (["i3"], 2)


def test_a_grave_stands_over_what_is_older_for_as_long_as_is_set() -> None:
    graves = Graves(keep_s=10.0)
    graves.dig(written(entry(1, 1, lives=False, lamport=5), entry(2, 2, lives=False, lamport=0)), now=0.0)

    assert [graves.over(entry(1, 9, lamport=lamport), now=9.0) for lamport in (4, 5)] == [5, 0]
    assert graves.over(entry(2, 9), now=0.0) == 0
    graves.dig(written(entry(1, 1, lives=False, lamport=5)), now=0.0)
    assert graves.over(entry(1, 9, lamport=4), now=10.0) == 0


def test_what_no_node_of_this_version_says_is_refused_as_a_frame() -> None:
    good = ServicesDelta(ME, 1, 0, 1, (entry(1, 1),))
    body = encode_bundle(Bundle(node=[good]))

    assert decode_bundle(body).node == [good]
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(ServicesDelta("short", 1, 0, 1, ())), type=ServicesDelta)


def test_a_client_has_its_burst_then_its_rate_and_others_have_theirs() -> None:
    clients = ClientBuckets(burst=2.0, per_second=1.0)
    for _ in range(2):
        clients.take("a", now=0.0)
    with pytest.raises(TooManyRequests):
        clients.take("a", now=0.5)
    clients.take("b", now=0.5)
    clients.take("a", now=1.0)

    assert clients.refused == 1


def test_the_addresses_of_one_network_of_ipv6_are_one_client() -> None:
    clients = ClientBuckets(burst=1.0, per_second=0.001)
    clients.take("2001:db8::1", now=0.0)
    clients.take("2001:db8:0:1::1", now=0.0)
    with pytest.raises(TooManyRequests):
        clients.take("2001:db8::2", now=0.0)

    assert clients.refused == 1


def test_only_so_many_clients_are_remembered() -> None:
    clients = ClientBuckets(burst=1.0, per_second=0.001)
    for number in range(CLIENTS_MAX + 1):
        clients.take(f"{number}", now=0.0)
    clients.take("0", now=0.0)

    assert len(clients._left) == CLIENTS_MAX
