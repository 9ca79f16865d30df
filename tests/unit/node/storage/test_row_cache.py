"""The kept rows: never older than what was told, never more than the limit."""

from pathlib import Path

from ringkeep_node.machines.documents import Answer, Change, CopyState, Row, Write, encode
from ringkeep_node.runtime.store import Store
from ringkeep_node.runtime.store.row_cache import ROW_BYTES, RowCache


def row(version: int, value: bytes = b"v") -> Row:
    return Row("ada", "k", version, 1000, "text/plain", value)


PLACE = (1, 5, "ada", "k")


def test_a_written_row_takes_the_place_of_an_older_one() -> None:
    cache = RowCache(10_000)
    cache.keep(PLACE, row(3, b"three"))
    cache.written([(PLACE, row(5, b"fives"))])

    assert cache.get(PLACE) == row(5, b"fives")
    assert cache.size == ROW_BYTES + 5


def test_a_late_delivery_does_not_bring_an_older_row_back() -> None:
    cache = RowCache(10_000)
    cache.keep(PLACE, row(7))
    cache.written([(PLACE, row(5))])

    assert cache.get(PLACE) == row(7)


def test_a_deleted_row_is_not_kept() -> None:
    cache = RowCache(10_000)
    cache.keep(PLACE, row(3))
    cache.written([(PLACE, None)])

    assert cache.get(PLACE) is None
    assert cache.size == 0


def test_rows_that_nobody_read_are_not_kept() -> None:
    cache = RowCache(10_000)
    cache.written([(PLACE, row(3))])

    assert cache.get(PLACE) is None


def test_the_oldest_rows_go_when_the_limit_is_reached() -> None:
    cache = RowCache(3 * (ROW_BYTES + 1))
    for number in range(5):
        cache.keep((1, 5, "ada", f"k{number}"), row(number + 1))

    assert [cache.get((1, 5, "ada", f"k{number}")) is not None for number in range(5)] == [
        False,
        False,
        True,
        True,
        True,
    ]
    assert cache.size == 3 * (ROW_BYTES + 1)


def test_a_row_larger_than_the_limit_is_not_kept() -> None:
    cache = RowCache(ROW_BYTES + 10)
    cache.keep(PLACE, row(1, bytes(11)))
    assert cache.get(PLACE) is None

    cache.keep(PLACE, row(1))
    cache.written([(PLACE, row(2, bytes(11)))])
    assert cache.get(PLACE) is None
    assert cache.size == 0


def stored(sn: int, value: bytes | None) -> tuple[int, int, bytes]:
    return 1, sn, encode(Change((Write("ada", "k", value, "text/plain"),), Answer.CREATED, 1000 + sn))


def value_of(store: Store) -> bytes | None:
    found = store.row(1, 5, "ada", "k")
    return None if found is None else found.value


def test_a_store_shows_each_transaction_in_rows_that_were_read_before(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    store.create(1, 5)
    shown = []
    for sn, value in ((1, b"one"), (2, b"two"), (3, None), (4, b"four")):
        store.apply(1, 5, [stored(sn, value)])
        store.pump()
        shown.append((value_of(store), value_of(store)))
    store.close()

    assert shown == [(b"one", b"one"), (b"two", b"two"), (None, None), (b"four", b"four")]


def test_a_store_shows_a_snapshot_that_took_the_place_of_rows_that_were_read(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    store.create(1, 5)
    store.apply(1, 5, [stored(1, b"old")])
    store.pump()
    before = value_of(store)
    store.install_begin(1, 5)
    store.install_rows(1, 5, [row(4, b"new")], [])
    store.install_finish(1, 5, epoch=1, sn=4, state=CopyState(), epochs=(), done=lambda: None)
    store.pump()
    installed = value_of(store)
    store.drop(1, 5)
    store.pump()
    dropped = value_of(store)
    store.close()

    assert (before, installed, dropped) == (b"old", b"new", None)


def test_rows_that_grow_where_they_are_kept_stay_within_the_limit() -> None:
    cache = RowCache(10_000)
    small = [((0, 1, "u", f"k{number}"), row(1, b"x")) for number in range(10)]
    for place, kept in small:
        cache.keep(place, kept)
    cache.written([(place, row(2, b"y" * 4000)) for place, _ in small])

    assert 0 < cache.size <= 10_000
