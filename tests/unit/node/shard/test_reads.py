"""Reads: of the committed state, store and overlay together, of this replica only, and page by page."""

from __future__ import annotations

from typing import Any

from ringkeep_core.mapchanges import Move, RemoveCopy, Shrink
from ringkeep_node.machines.documents import Row
from ringkeep_node.machines.shard.effects import (
    Absent,
    Found,
    Moved,
    NotApplied,
    NotModified,
    PageFound,
    ReadKind,
    ReadPage,
    Result,
)
from ringkeep_testing.maps import FIRST, shard
from ringkeep_testing.shard_bench import Bench, append_of, begin_entry, put_entry, serving

ROW = Row("u", "k", 2, 1, "t", b"hello")


def _with_document(*, is_applied: bool = True) -> Bench:
    bench = serving(shard("a b"))
    bench.stores = is_applied
    bench.write("hello")
    bench.ack("b")
    return bench


def _confirmed(bench: Bench, key: str = "k", **fields: object) -> Result | None:
    token = bench.read(key, **fields)
    bench.pong("b")
    return bench.result(token)


def test_a_committed_write_is_read_before_the_store_has_applied_it() -> None:
    waiting, done = _with_document(is_applied=False), _with_document()

    assert waiting.store.row(0, FIRST, "u", "k") is None
    assert _confirmed(waiting) == _confirmed(done) == Found(ROW, 5, 1)


def test_a_committed_delete_hides_what_the_store_still_shows() -> None:
    bench = _with_document()
    bench.stores = False
    bench.write(None)
    bench.ack("b")

    assert bench.store.row(0, FIRST, "u", "k") is not None
    assert _confirmed(bench) == Absent(1)


def test_a_pending_write_is_not_read() -> None:
    bench = _with_document()
    bench.write("pending")

    assert _confirmed(bench) == Found(ROW, 5, 1)


def test_head_tells_the_size_and_not_the_value() -> None:
    bench = _with_document()

    assert _confirmed(bench, kind=ReadKind.HEAD) == Found(Row("u", "k", 2, 1, "t", b""), 5, 1)


def test_conditional_reads() -> None:
    bench = _with_document()
    found, same, failed = Found(ROW, 5, 1), NotModified(2, 1), NotApplied("version_mismatch")

    assert [_confirmed(bench, if_none_match=versions) for versions in ((2,), (1, 2), (), (1,))] == [
        same,
        same,
        same,
        found,
    ]
    assert [_confirmed(bench, if_match=versions) for versions in ((2,), (1, 2), (), (1,))] == [
        found,
        found,
        found,
        failed,
    ]
    assert _confirmed(bench, "none", if_none_match=()) == Absent(1)
    assert _confirmed(bench, "none", if_match=()) == failed


def test_a_local_read_is_answered_at_once_from_what_is_applied_with_its_lag() -> None:
    bench = Bench(shard("b a"))
    bench.up("b")
    bench.hear("b", append_of([begin_entry(1, 1, "b"), put_entry(1, 2, "k", "hello")], commit=2))
    fresh = bench.read(local=True)
    bench.stores = False
    bench.hear("b", append_of([put_entry(1, 3, "k", "newer"), put_entry(1, 4, "x")], prev=(1, 2), commit=4))
    behind = bench.read(local=True)

    assert bench.result(fresh) == Found(ROW, 5, 1, 0)
    assert bench.result(behind) == Found(ROW, 5, 1, 2)


def test_a_local_read_counts_what_is_known_committed_but_not_yet_here() -> None:
    bench = Bench(shard("b a"))
    bench.up("b")
    bench.hear("b", append_of([begin_entry(1, 1, "b")], commit=7))

    assert bench.result(bench.read(local=True)) == Absent(1, 6)


def test_a_local_read_at_a_node_without_a_copy_goes_to_the_primary() -> None:
    bench = Bench(shard("b c"))

    assert bench.result(bench.read(local=True)) == Moved("b", 1, FIRST)


# --- pages --------------------------------------------------------------------------------------------------------


def _paged(bench: Bench, *, confirm: bool = True, **fields: object) -> tuple[int, ReadPage]:
    """Ask for a page and return the read that it orders."""
    token = bench.read("", kind=ReadKind.PAGE, **fields)
    if confirm:
        bench.pong("b")
    read = bench.reads.pop()
    assert isinstance(read, ReadPage)
    return token, read


def _answer(bench: Bench, read: ReadPage) -> None:
    """Let the store read the page, as of now."""
    page = bench.store.page(
        read.shard,
        read.copy,
        read.user,
        prefix=read.prefix,
        after=read.after,
        limit=read.limit,
        bytes_max=read.bytes_max,
    )
    bench.machine.page_read(read.token, page.applied_sn, page.rows, page.more, now=bench.now)
    bench.pump()


def _page(bench: Bench, **fields: Any) -> tuple[list[str], str | None]:
    token, read = _paged(bench, **fields)
    _answer(bench, read)
    found = bench.result(token)
    assert isinstance(found, PageFound)
    return [f"{row.key}={row.value.decode()}" for row in found.rows], found.next


def _half_applied() -> Bench:
    """Return a primary whose store has a, c, e and g; above it a was replaced, c deleted, d and h are new."""
    bench = serving(shard("a b"))
    for key in "aceg":
        bench.write("1", key=key)
    bench.ack("b")
    bench.stores = False
    for key, value in (("a", "2"), ("c", None), ("d", "2"), ("h", "2")):
        bench.write(value, key=key)
    bench.ack("b")
    return bench


def test_a_page_is_store_and_overlay_in_key_order() -> None:
    assert _page(_half_applied()) == (["a=2", "d=2", "e=1", "g=1", "h=2"], None)


def test_pages_of_every_size_add_up_to_the_whole() -> None:
    bench = _half_applied()
    for limit in range(1, 7):
        keys: list[str] = []
        after: str | None = ""
        while after is not None:
            rows, after = _page(bench, limit=limit, after=after)
            assert len(rows) <= limit
            keys += rows

        assert keys == ["a=2", "d=2", "e=1", "g=1", "h=2"]


def test_a_page_begins_after_a_key_and_keeps_to_a_prefix() -> None:
    bench = serving(shard("a b"))
    for key in ("a/1", "a/2", "b/1"):
        bench.write("1", key=key)
    bench.ack("b")
    bench.stores = False
    for key in ("a/3", "b/2", "a/0"):
        bench.write("2", key=key)
    bench.ack("b")

    assert _page(bench, prefix="a/") == (["a/0=2", "a/1=1", "a/2=1", "a/3=2"], None)
    assert _page(bench, prefix="a/", after="a/1") == (["a/2=1", "a/3=2"], None)
    assert _page(bench, after="a/2") == (["a/3=2", "b/1=1", "b/2=2"], None)


def test_keys_are_in_the_order_of_their_utf_8_bytes() -> None:
    bench = serving(shard("a b"))
    for key in ("\U0001f600", "\uff5e"):
        bench.write("1", key=key)
    bench.ack("b")
    bench.stores = False
    bench.write("2", key="\ufffd")
    bench.ack("b")

    assert _page(bench)[0] == ["\uff5e=1", "\ufffd=2", "\U0001f600=1"]


def test_what_the_store_applied_before_it_read_the_page_is_not_taken_back() -> None:
    bench = _half_applied()
    token, read = _paged(bench)
    bench.store_all()
    bench.stores = True
    bench.write("3", key="a")
    bench.ack("b")
    _answer(bench, read)
    found = bench.result(token)

    assert isinstance(found, PageFound)
    assert [(row.key, row.value) for row in found.rows] == [
        ("a", b"3"),
        ("d", b"2"),
        ("e", b"1"),
        ("g", b"1"),
        ("h", b"2"),
    ]


def test_pending_writes_and_other_users_are_on_no_page() -> None:
    bench = _half_applied()
    bench.write("pending", key="b")
    token, read = _paged(bench)

    assert [held.key for held in bench.machine._ctx.pages[read.token].overlay] == ["a", "c", "d", "h"]
    assert bench.result(token) is None


def test_a_page_with_large_overlay_rows_ends_at_the_byte_limit() -> None:
    bench = serving(shard("a b"))
    bench.stores = False
    for number in range(6):
        bench.write("x" * 1000, key=f"k{number}")
    bench.ack("b")

    pages = [_page(bench, bytes_max=2000, after=after) for after in ("", "k1", "k3")]
    assert [([row[:2] for row in rows], after) for rows, after in pages] == [
        (["k0", "k1"], "k1"),
        (["k2", "k3"], "k3"),
        (["k4", "k5"], None),
    ]


def test_a_page_of_a_copy_that_was_given_up_meanwhile_is_asked_elsewhere() -> None:
    bench = serving(shard("a b", need=1))
    bench.write("v")
    bench.ack("b")
    token, read = _paged(bench)
    bench.change(Move(0, 1, "b"))
    bench.change(Shrink(0, 2, ("a",)))
    bench.change(RemoveCopy(0, 3, "a", FIRST))
    _answer(bench, read)

    assert bench.result(token) == Moved("b", 2, FIRST + 3)


def test_a_local_page_is_read_without_a_confirmation() -> None:
    bench = Bench(shard("b a"))
    bench.up("b")
    bench.hear("b", append_of([begin_entry(1, 1, "b"), put_entry(1, 2, "k", "hello")], commit=2))
    token, read = _paged(bench, confirm=False, local=True)
    _answer(bench, read)

    assert bench.result(token) == PageFound((ROW,), None, 1, 0)


def test_a_cancelled_page_is_read_for_nobody() -> None:
    bench = _half_applied()
    token, read = _paged(bench)
    bench.machine.cancel(token)
    _answer(bench, read)

    assert (bench.result(token), bench.machine._ctx.pages) == (None, {})
