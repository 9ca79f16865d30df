"""The store: applying, reading, snapshots beside the old copy, checkpoints, and what a crash leaves."""

import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from ringkeep_node.machines.documents import (
    IDEMPOTENCY_KEPT_MS,
    IDEMPOTENCY_ROWS_MAX,
    Answer,
    Begin,
    Change,
    CopyState,
    ForgetGateways,
    IdempotencyKey,
    OperationId,
    Remembered,
    Row,
    Write,
    encode,
)
from ringkeep_node.machines.records import EpochStart
from ringkeep_node.runtime.store import Store, StoreDamaged, StoredCopy, StoreSettings
from ringkeep_testing.sim_store import SimStore

GATEWAY = "00000000000000aa"


def put(
    sn: int, key: str, value: bytes | None, *, epoch: int = 1, operation: int = 0, named: str = "", wall_ms: int = 0
) -> tuple[int, int, bytes]:
    change = Change(
        (Write("ada", key, value, "text/plain"),),
        Answer.CREATED,
        wall_ms or 1000 + sn,
        OperationId(GATEWAY, operation, 1) if operation else None,
        IdempotencyKey("ada", named, b"hash") if named else None,
    )
    return epoch, sn, encode(change)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path)
    opened.create(1, 5)
    opened.pump()
    yield opened
    opened.close()


def test_applied_entries_are_rows_with_their_sn_as_version(store: Store) -> None:
    applied: list[list[tuple[int, int, int]]] = []
    store.on_applied = applied.append
    store.apply(1, 5, [(1, 1, encode(Begin("s", "b", 1))), put(2, "a", b"one"), put(3, "b", b"two"), put(4, "a", None)])
    store.pump()

    assert applied == [[(1, 5, 4)]]
    assert store.row(1, 5, "ada", "a") is None
    assert store.row(1, 5, "ada", "b") == Row("ada", "b", 3, 1003, "text/plain", b"two")
    assert store.applied(1, 5) == (1, 4)
    assert store.copies() == [StoredCopy(1, 5, True, 1, 4, CopyState({}, 0, 1004), (EpochStart(1, 1),))]


def test_entries_that_were_applied_already_are_skipped(store: Store) -> None:
    store.apply(1, 5, [put(1, "a", b"one"), put(2, "a", b"two")])
    store.apply(1, 5, [put(1, "a", b"one"), put(2, "a", b"two"), put(3, "b", b"three", epoch=4)])
    store.pump()

    found = store.row(1, 5, "ada", "a")
    assert found is not None
    assert found.value == b"two"
    assert store.copies()[0].epochs == (EpochStart(1, 1), EpochStart(4, 3))


def test_many_changes_of_one_key_in_one_transaction_leave_the_last(store: Store) -> None:
    store.apply(1, 5, [put(sn, f"k{sn % 50}", b"%d" % sn if sn % 7 else None) for sn in range(1, 501)])
    store.pump()
    model = {f"k{sn % 50}": b"%d" % sn if sn % 7 else None for sn in range(1, 501)}

    rows = store.page(1, 5, "ada", limit=1000, bytes_max=1 << 20).rows
    assert {row.key: row.value for row in rows} == {key: value for key, value in model.items() if value is not None}


def test_a_page_is_in_byte_order_and_knows_whether_there_is_more(store: Store) -> None:
    keys = ["z", "é", "a/1", "a/2", "a/3", "a", "😀", "ab"]
    store.apply(1, 5, [put(sn, key, b"v") for sn, key in enumerate(keys, 1)])
    store.pump()

    everything = store.page(1, 5, "ada", limit=100, bytes_max=1 << 20)
    first = store.page(1, 5, "ada", prefix="a/", limit=2, bytes_max=1 << 20)
    second = store.page(1, 5, "ada", prefix="a/", after="a/2", limit=2, bytes_max=1 << 20)

    assert [row.key for row in everything.rows] == sorted(keys, key=str.encode)
    assert (everything.applied_sn, everything.more) == (8, False)
    assert ([row.key for row in first.rows], first.more) == (["a/1", "a/2"], True)
    assert ([row.key for row in second.rows], second.more) == (["a/3"], False)
    assert store.page(1, 5, "bob", limit=5, bytes_max=100).rows == []


def test_rows_are_read_range_by_range_in_order(store: Store) -> None:
    store.apply(1, 5, [put(sn, f"{sn:03}", b"x" * 100, named=f"n{sn:03}") for sn in range(1, 101)])
    store.pump()

    rows: list[Row] = []
    cursor: tuple[str, str] | None = None
    more = True
    while more:
        portion, more = store.rows_after(1, 5, cursor, 1000)
        rows += portion
        cursor = (rows[-1].user, rows[-1].key)
    kept, kept_more = store.remembered_after(1, 5, ("ada", "n090"), 1 << 20)

    assert [row.key for row in rows] == [f"{sn:03}" for sn in range(1, 101)]
    assert ([one.key for one in kept], kept_more) == ([f"n{sn:03}" for sn in range(91, 101)], False)


def test_idempotency_keys_are_answered_for_a_day_of_log_time(store: Store) -> None:
    store.apply(1, 5, [put(1, "a", b"one", named="key", wall_ms=5000)])
    store.pump()
    end = 5000 + IDEMPOTENCY_KEPT_MS

    assert store.remembered(1, 5, "ada", "key") == Remembered("ada", "key", b"hash", Answer.CREATED, 1, 5000)
    assert store.remembered(1, 5, "ada", "key", log_time_ms=end) is not None
    assert store.remembered(1, 5, "ada", "key", log_time_ms=end + 1) is None
    assert store.remembered(1, 5, "bob", "key") is None


def test_at_most_ten_thousand_idempotency_keys_are_kept_and_the_oldest_go_first(store: Store) -> None:
    count = IDEMPOTENCY_ROWS_MAX + 25
    store.apply(1, 5, [put(sn, "a", b"v", named=f"n{sn}") for sn in range(1, count + 1)])
    store.pump()

    assert store.remembered(1, 5, "ada", "n25") is None
    assert store.remembered(1, 5, "ada", "n26") is not None
    assert len(store.remembered_after(1, 5, None, 1 << 30)[0]) == IDEMPOTENCY_ROWS_MAX


def test_old_idempotency_keys_leave_the_disk(store: Store) -> None:
    day = 2 * IDEMPOTENCY_KEPT_MS
    store.apply(1, 5, [put(1, "a", b"v", named="old"), put(2, "a", b"v", named="new", wall_ms=day)])
    store.pump()

    assert [one.key for one in store.remembered_after(1, 5, None, 1 << 20)[0]] == ["new"]


def test_operation_results_are_in_the_state_and_end_with_their_gateway(store: Store) -> None:
    store.apply(1, 5, [put(1, "a", b"v", operation=1), put(2, "a", b"v", operation=2)])
    store.pump()
    before = store.copies()[0].state.result(OperationId(GATEWAY, 2, 1))
    store.apply(1, 5, [(1, 3, encode(ForgetGateways((GATEWAY,), 77, 2000)))])
    store.pump()
    after = store.copies()[0].state

    assert before == (Answer.CREATED, 2)
    assert (after.gateways, after.ended_version) == ({}, 77)


def install(store: Store | SimStore, *, finish: bool = True) -> list[str]:
    said: list[str] = []
    state = CopyState()
    state.apply(40, Change((), Answer.CREATED, 9000, OperationId(GATEWAY, 3, 1), None))
    store.install_begin(1, 5)
    store.install_rows(1, 5, [Row("ada", "new", 38, 9000, "", b"snapshot")], [])
    store.install_rows(1, 5, [], [Remembered("ada", "k", b"h", 1, 39, 9000)])
    if finish:
        store.install_finish(
            1,
            5,
            epoch=3,
            sn=40,
            state=state,
            epochs=(EpochStart(1, 1), EpochStart(3, 30)),
            done=lambda: said.append("done"),
            complete_at=42,
        )
    if isinstance(store, Store):
        store.pump()
    return said


def test_a_snapshot_takes_the_place_of_the_old_copy_in_one_step_with_everything_it_remembers(store: Store) -> None:
    store.apply(1, 5, [put(1, "old", b"old", operation=1)])
    store.pump()

    assert install(store) == ["done"]
    (copy,) = store.copies()
    assert (copy.epoch, copy.sn, copy.complete) == (3, 40, False)
    assert copy.epochs == (EpochStart(1, 1), EpochStart(3, 30))
    assert copy.state.result(OperationId(GATEWAY, 3, 1)) == (Answer.CREATED, 40)
    assert copy.state.result(OperationId(GATEWAY, 1, 1)) is None
    assert store.row(1, 5, "ada", "old") is None
    assert store.row(1, 5, "ada", "new") is not None
    assert store.remembered(1, 5, "ada", "k") is not None

    store.apply(1, 5, [put(41, "new", b"v", epoch=3, operation=4)])
    store.pump()
    state = store.copies()[0].state
    assert [state.result(OperationId(GATEWAY, number, 1)) for number in (3, 4)] == [
        (Answer.CREATED, 40),
        (Answer.CREATED, 41),
    ]


def test_a_fuzzy_snapshot_is_complete_once_the_last_range_is_caught_up_with(store: Store) -> None:
    install(store)
    store.apply(1, 5, [put(41, "new", b"41", epoch=3)])
    store.pump()
    before = store.copies()[0].complete
    store.apply(1, 5, [put(42, "new", b"42", epoch=3)])
    store.pump()

    assert (before, store.copies()[0].complete) == (False, True)


def test_until_a_snapshot_is_finished_the_old_copy_is_untouched_and_goes_on(store: Store, tmp_path: Path) -> None:
    store.apply(1, 5, [put(1, "old", b"old")])
    store.pump()
    install(store, finish=False)
    store.apply(1, 5, [put(2, "more", b"more")])
    store.pump()
    rows = store.page(1, 5, "ada", limit=10, bytes_max=1 << 20).rows
    reopened = Store.open(image_of(tmp_path))

    assert [row.key for row in rows] == ["more", "old"]
    assert reopened.copies() == store.copies()
    assert [row.key for row in reopened.rows_after(1, 5, None, 1 << 20)[0]] == ["more", "old"]
    reopened.close()


def test_an_aborted_snapshot_leaves_nothing(store: Store) -> None:
    install(store, finish=False)
    store.install_abort(1, 5)
    said: list[str] = []
    store.install_finish(1, 5, epoch=9, sn=9, state=CopyState(), epochs=(), done=lambda: said.append("done"))
    store.pump()

    assert store.row(1, 5, "ada", "new") is None
    assert store.applied(1, 5) == (0, 0)


def rows_kept(store: Store) -> tuple[int, int]:
    """How many rows of whatever slot there are, and how many slots."""
    counts = [store._writer.execute(f"SELECT count(*) FROM {table}").get for table in ("rows", "slots")]
    return counts[0], counts[1]


def look(store: Store, now: float, *, free_bytes: int = 50) -> None:
    """Let a clock and a volume of 100 bytes be looked at, and what follows be done."""
    store.look_at_cold(free_bytes=free_bytes, volume_bytes=100, now=now)
    store.pump()


def test_a_removed_copy_is_none_at_once_and_its_rows_are_kept_cold_for_five_minutes(store: Store) -> None:
    store.apply(1, 5, [put(sn, f"k{sn}", b"v") for sn in range(1, 4)])
    store.drop(1, 5)
    store.pump()
    served = (store.copies(), store.applied(1, 5), store.row(1, 5, "ada", "k1"), dict(store.checkpoint()))
    page = store.page(1, 5, "ada", prefix="", after="", limit=10, bytes_max=1000).rows
    kept = (store.cold_copies, rows_kept(store))
    look(store, 10.0)
    look(store, 309.0)
    late = (store.cold_copies, rows_kept(store))
    look(store, 310.0)

    assert (served, page) == (([], None, None, {}), [])
    assert kept == late == (1, (3, 1))
    assert (store.cold_copies, rows_kept(store)) == (0, (0, 0))


@pytest.mark.parametrize("settings", [StoreSettings(cold_s=0.0), StoreSettings(cold_free_share=0.6)])
def test_a_removed_copy_is_not_kept_if_nobody_wants_that_or_the_volume_is_too_full(
    tmp_path: Path, settings: StoreSettings
) -> None:
    store = Store.open(tmp_path, settings)
    look(store, 0.0)
    store.create(1, 5)
    store.apply(1, 5, [put(1, "a", b"v")])
    store.drop(1, 5)
    store.pump()

    assert (store.cold_copies, rows_kept(store)) == (0, (0, 0))

    store.close()


def test_a_cold_copy_can_be_read_by_hand_with_any_sqlite(tmp_path: Path, store: Store) -> None:
    store.apply(1, 5, [put(1, "a", b"one"), put(2, "b", b"two")])
    store.drop(1, 5)
    store.pump()
    store.checkpoint()
    by_hand = sqlite3.connect(f"file:{tmp_path / 'store.sqlite'}?mode=ro", uri=True)
    found = by_hand.execute(
        "SELECT shard, copy, sn, user, key, value FROM slots JOIN rows USING (slot) WHERE status = 3 ORDER BY key"
    ).fetchall()
    by_hand.close()

    assert found == [(1, 5, 2, "ada", "a", b"one"), (1, 5, 2, "ada", "b", b"two")]


def test_cold_copies_go_when_the_volume_fills_up(store: Store) -> None:
    store.apply(1, 5, [put(1, "a", b"v")])
    store.drop(1, 5)
    look(store, 0.0, free_bytes=25)
    before = store.cold_copies
    look(store, 1.0, free_bytes=24)

    assert (before, store.cold_copies, rows_kept(store)) == (1, 0, (0, 0))


def test_a_copy_that_never_was_complete_is_not_kept(store: Store) -> None:
    store.install_begin(1, 7)
    store.install_rows(1, 7, [Row("ada", "a", 3, 0, "t", b"v")], [])
    store.install_finish(1, 7, epoch=1, sn=3, state=CopyState(), epochs=(), done=int, complete_at=9)
    store.drop(1, 7)
    store.install_begin(1, 8)
    store.drop(1, 8)
    store.pump()

    assert (store.cold_copies, [copy.copy for copy in store.copies()]) == (0, [5])


def test_a_cold_copy_stays_none_after_a_restart_and_its_time_begins_anew(tmp_path: Path, store: Store) -> None:
    store.apply(1, 5, [put(1, "a", b"v")])
    store.drop(1, 5)
    look(store, 1000.0)
    store.close()
    again = Store.open(tmp_path)
    found = (again.copies(), again.cold_copies, dict(again.checkpoint()))
    look(again, 5.0)
    look(again, 304.0)
    kept = (again.cold_copies, rows_kept(again))
    look(again, 305.0)

    assert (found, kept) == (([], 1, {}), (1, (1, 1)))
    assert (again.cold_copies, rows_kept(again)) == (0, (0, 0))

    again.close()


def test_a_dropped_copy_is_gone_at_once_and_its_rows_in_time(tmp_path: Path) -> None:
    store = Store.open(tmp_path, StoreSettings(cold_s=0.0))
    store.create(1, 5)
    store.apply(1, 5, [put(sn, f"k{sn}", b"v", named=f"n{sn}") for sn in range(1, 2501)])
    store.create(2, 5)
    store.apply(2, 5, [put(1, "other", b"v")])
    store.drop(1, 5)
    store.pump()

    assert [copy.shard for copy in store.copies()] == [2]
    assert store.applied(1, 5) is None
    assert store.row(1, 5, "ada", "k1") is None
    assert store.row(2, 5, "ada", "other") is not None
    counts = [store._writer.execute(f"SELECT count(*) FROM {table}").get for table in ("rows", "remembered", "slots")]
    assert counts == [1, 0, 1]

    store.close()


def test_the_same_shard_added_again_is_another_copy(store: Store) -> None:
    store.apply(1, 5, [put(1, "a", b"old")])
    store.drop(1, 5)
    store.create(1, 9)
    store.pump()

    assert store.row(1, 9, "ada", "a") is None
    assert store.row(1, 5, "ada", "a") is None
    assert [(copy.shard, copy.copy, copy.sn) for copy in store.copies()] == [(1, 9, 0)]
    assert store.cold_copies == 1


def image_of(folder: Path, journal: bytes | None = None) -> Path:
    """Copy the store's files as a kill leaves them, or with another content of SQLite's journal."""
    image = folder / "image"
    shutil.rmtree(image, ignore_errors=True)
    image.mkdir()
    shutil.copy(folder / "store.sqlite", image)
    data = journal_of(folder) if journal is None else journal
    (image / "store.sqlite-wal").write_bytes(data)
    return image


def journal_of(folder: Path) -> bytes:
    """Return SQLite's journal."""
    return (folder / "store.sqlite-wal").read_bytes()


def torn(durable: bytes, written: bytes, random: Random) -> bytes:
    """Return a journal of which some 512-byte sectors were lost; its header is synced before the first frame."""
    result = bytearray(durable)
    result.extend(bytes(max(0, len(written) - len(durable))))
    lost = random.choice((0.02, 0.3, 0.9))
    for start in range(0, len(written), 512):
        if random.random() >= lost:
            result[start : start + 512] = written[start : start + 512]
    result[:32] = written[:32]
    return bytes(result[: random.randint(len(durable), len(result))])


def digests(count: int) -> dict[int, str]:
    twin = SimStore()
    twin.create(1, 5)
    result = {0: twin.digest(1, 5)}
    for sn in range(1, count + 1):
        twin.apply(1, 5, [history(sn)])
        result[sn] = twin.digest(1, 5)
    return result


def history(sn: int) -> tuple[int, int, bytes]:
    value = None if sn % 5 == 0 else b"%d" % sn * (sn % 60)
    return put(sn, f"k{sn % 23}", value, epoch=1 + sn // 40, operation=sn, named=f"n{sn}" if sn % 3 == 0 else "")


def content_of(store: Store) -> tuple[object, ...]:
    (copy,) = store.copies()
    rows = store.rows_after(1, 5, None, 1 << 24)[0]
    return copy, rows, store.remembered_after(1, 5, None, 1 << 24)[0]


def test_after_a_kill_every_commit_is_there_and_after_a_power_cut_some_prefix_from_the_checkpoint_on(
    store: Store, tmp_path: Path
) -> None:
    contents = {0: content_of(store)}
    random = Random(1)
    synced = 0
    durable = journal_of(tmp_path)
    for sn in range(1, 121):
        store.apply(1, 5, [history(sn)])
        store.pump()
        contents[sn] = content_of(store)
        if sn % 30 == 0:
            synced = store.checkpoint()[(1, 5)]
            durable = journal_of(tmp_path)
            assert synced == sn
        if sn % 6 == 0:
            killed = Store.open(image_of(tmp_path))
            assert content_of(killed) == contents[sn]
            killed.close()
        for _ in range(3 if sn % 4 == 0 else 0):
            cut = Store.open(image_of(tmp_path, torn(durable, journal_of(tmp_path), random)))
            found = cut.applied(1, 5)
            assert found is not None
            assert synced <= found[1] <= sn
            assert content_of(cut) == contents[found[1]]
            cut.close()


def test_everything_is_durable_once_the_store_is_open(store: Store, tmp_path: Path) -> None:
    store.apply(1, 5, [put(1, "a", b"v")])
    store.pump()
    reopened = Store.open(image_of(tmp_path))
    again = Store.open(image_of(tmp_path / "image", b""))

    assert again.applied(1, 5) == (1, 1)
    again.close()
    reopened.close()


def test_a_new_copy_and_a_finished_snapshot_are_synced_before_they_are_reported_and_nothing_else_is(
    store: Store,
) -> None:
    said: list[str] = []

    def told(_cursor: object, statement: str, _values: object) -> bool:
        said.extend(word for word in ("FULL", "NORMAL", "COMMIT") if word in statement)
        return True

    store._writer.exec_trace = told
    for act in (
        lambda: store.apply(1, 5, [put(1, "a", b"v")]),
        lambda: store.create(2, 6),
        lambda: install(store, finish=False),
        lambda: install(store),
        lambda: store.drop(2, 6),
    ):
        said.append("|")
        act()
        store.pump()

    # What a snapshot replaces is cleared away afterwards, which nobody waits for.
    synced, usual = "FULL COMMIT", "NORMAL COMMIT"
    first = [" ".join(one.split()[:2]) for one in " ".join(said).split("|")[1:]]
    assert first == [usual, synced, usual, synced, usual]
    assert said.count("FULL") == 2


def test_rot_in_the_file_is_an_error_and_never_a_wrong_answer(store: Store, tmp_path: Path) -> None:
    store.apply(1, 5, [put(sn, f"k{sn}", b"precious" * 20) for sn in range(1, 200)])
    store.pump()
    store.checkpoint()
    image = image_of(tmp_path, b"")
    data = bytearray((image / "store.sqlite").read_bytes())
    at = data.index(b"precious", len(data) // 2)
    data[at] ^= 1
    (image / "store.sqlite").write_bytes(bytes(data))
    damaged = Store.open(image)

    with pytest.raises(Exception, match=r"checksum|I/O"):
        damaged.rows_after(1, 5, None, 1 << 24)


def test_a_file_that_is_no_store_is_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "store.sqlite").write_bytes(b"not a database at all" * 1000)

    with pytest.raises(StoreDamaged, match="cannot be read"):
        Store.open(tmp_path)


def test_the_write_thread_applies_and_reports_and_a_bug_ends_it_through_on_fatal(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    applied = threading.Event()
    failed = threading.Event()
    fatal: list[BaseException] = []

    def on_fatal(error: BaseException) -> None:
        fatal.append(error)
        failed.set()

    store.on_applied = lambda _moved: applied.set()
    store.start(lambda function, *arguments: function(*arguments), on_fatal)
    store.create(1, 5)
    store.apply(1, 5, [put(1, "a", b"v")])
    assert applied.wait(10)
    store.apply(1, 5, [put(3, "a", b"gap")])
    assert failed.wait(10)

    assert [type(error) for error in fatal] == [AssertionError]
    assert store.applied(1, 5) == (1, 1)


def _started(store: Store) -> threading.Event:
    """Start the store's thread and return what tells that it has applied something."""
    applied = threading.Event()
    store.on_applied = lambda _moved: applied.set()
    store.start(lambda function, *arguments: function(*arguments), lambda error: pytest.fail(repr(error)))
    return applied


def test_changes_gather_but_neither_what_somebody_waits_for_nor_the_end_waits_for_more(tmp_path: Path) -> None:
    store = Store.open(tmp_path, StoreSettings(gather_s=3600.0, gather_awaited_s=0.001))
    applied = _started(store)
    store.create(1, 5)
    store.is_awaited = True
    store.apply(1, 5, [put(1, "a", b"v")])
    assert applied.wait(10)
    store.is_awaited = False
    store.apply(1, 5, [put(2, "a", b"w")])
    store.close()
    reopened = Store.open(tmp_path)

    assert reopened.applied(1, 5) == (1, 2)
    reopened.close()


def test_changes_gather_no_longer_once_they_are_a_long_transaction(tmp_path: Path) -> None:
    store = Store.open(tmp_path, StoreSettings(gather_s=3600.0, gather_bytes=1000))
    store.create(1, 5)
    store.pump()  # Somebody waits for that; for what follows nobody does.
    gathers = threading.Event()

    class Hurry(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            gathers.set()
            return super().wait(timeout)

    store._hurry = Hurry()
    applied = _started(store)
    store.apply(1, 5, [put(1, "k1", b"v" * 400)])
    assert gathers.wait(10)
    store.apply(1, 5, [put(sn, f"k{sn}", b"v" * 400) for sn in (2, 3)])
    assert applied.wait(10)

    assert store.applied(1, 5) is not None
    store.close()


def test_a_removed_copy_is_deleted_bit_by_bit_and_what_is_queued_goes_first(tmp_path: Path) -> None:
    store = Store.open(tmp_path, StoreSettings(gather_s=0.0, cold_s=0.0, garbage_rest_s=3600.0))
    applied = threading.Event()
    store.create(1, 5)
    store.apply(1, 5, [put(sn, f"k{sn}", b"v") for sn in range(1, 2501)])
    store.pump()
    store.on_applied = lambda _moved: applied.set()
    store.start(lambda function, *arguments: function(*arguments), lambda _error: None)
    store.drop(1, 5)
    store.create(2, 5)
    for sn in range(1, 31):
        applied.clear()
        store.apply(2, 5, [put(sn, "other", b"v")])
        assert applied.wait(10)
    left = store._bulk.execute("SELECT count(*) FROM rows").get
    store.close()

    assert left == 2501


def test_a_removed_copy_goes_although_something_is_always_queued(tmp_path: Path) -> None:
    """On a node that is never at rest the file would only grow."""
    settings = StoreSettings(gather_s=0.0, cold_s=0.0, garbage_rest_s=0.0, garbage_rest_factor=0.0)
    store = Store.open(tmp_path, settings._replace(transaction_bytes_max=1, gather_bytes=0))
    done = threading.Event()
    store.create(1, 5)
    store.apply(1, 5, [put(sn, f"k{sn}", b"v") for sn in range(1, 2501)])
    store.pump()
    store.drop(1, 5)
    store.create(2, 5)
    for sn in range(1, 31):
        store.apply(2, 5, [put(sn, "other", b"v")])
    left = []

    def on_applied(_moved: list[tuple[int, int, int]]) -> None:
        left.append(store._bulk.execute("SELECT count(*) FROM rows").get)
        if len(left) == 30:
            done.set()

    store.on_applied = on_applied
    store.start(lambda function, *arguments: function(*arguments), lambda error: pytest.fail(repr(error)))

    assert done.wait(10)
    assert (left[0] > 1, left[-1]) == (True, 1)
    store.close()


def test_a_checkpoint_goes_on_while_others_read_and_write(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    store.start(lambda function, *arguments: function(*arguments), lambda error: pytest.fail(repr(error)))
    store.create(1, 5)
    for sn in range(1, 301):
        store.apply(1, 5, [history(sn)])
        store.row(1, 5, "ada", "k1")
        if sn % 50 == 0:
            store.checkpoint()
    store.close()
    reopened = Store.open(tmp_path)

    assert reopened.applied(1, 5) == (8, 300)
    reopened.close()


def test_the_twin_and_the_store_agree(store: Store) -> None:
    twin = SimStore()
    twin.create(1, 5)
    for sn in range(1, 151):
        store.apply(1, 5, [history(sn)])
        twin.apply(1, 5, [history(sn)])
    store.pump()
    install(twin)
    install(store)
    for sn in range(41, 151):
        for one in (store, twin):
            one.apply(1, 5, [put(sn, f"k{sn % 9}", b"%d" % sn, epoch=3, named=f"n{sn}", operation=sn)])
    store.pump()

    assert store.copies() == twin.copies()
    assert store.rows_after(1, 5, None, 1 << 24) == twin.rows_after(1, 5, None, 1 << 24)
    assert store.remembered_after(1, 5, None, 1 << 24) == twin.remembered_after(1, 5, None, 1 << 24)
    assert store.rows_after(1, 5, ("ada", "k3"), 300) == twin.rows_after(1, 5, ("ada", "k3"), 300)
    assert store.page(1, 5, "ada", prefix="k", after="k1", limit=3, bytes_max=1 << 20) == twin.page(
        1, 5, "ada", prefix="k", after="k1", limit=3, bytes_max=1 << 20
    )


def test_copies_that_applied_the_same_entries_in_other_transactions_have_the_same_digest(tmp_path: Path) -> None:
    results = []
    for name, portion in (("a", 1), ("b", 17), ("c", 200)):
        (tmp_path / name).mkdir()
        store = Store.open(tmp_path / name)
        store.create(1, 5)
        for start in range(1, 201, portion):
            store.apply(1, 5, [history(sn) for sn in range(start, min(start + portion, 201))])
            store.pump()
        results.append(store.digest(1, 5))
        store.close()

    assert len(set(results)) == 1


def test_a_crash_of_the_twin_leaves_a_prefix_of_its_transactions() -> None:
    expected = digests(60)
    seen = set()
    for seed in range(40):
        twin = SimStore()
        twin.create(1, 5)
        twin.checkpoint()
        for sn in range(1, 61):
            twin.apply(1, 5, [history(sn)])
            if sn == 20:
                twin.checkpoint()
        twin.crash(Random(seed))
        sn = twin.synced()[(1, 5)]
        seen.add(sn)

        assert twin.digest(1, 5) == expected[sn]
    assert min(seen) >= 20
    assert len(seen) > 10
