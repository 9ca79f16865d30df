"""The data directory: made once, locked while in use, refused when it is another node's or damaged."""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ringkeep_core.errors import DirectoryInUse, ForeignDirectory, StartRefused
from ringkeep_node.runtime.directory import Directory


def ids() -> Callable[[], str]:
    count = itertools.count(1)
    return lambda: f"{next(count):016x}"


def never() -> str:
    raise AssertionError("no new identity is wanted here")


def test_a_new_directory_gets_an_identity_that_stays(tmp_path: Path) -> None:
    first = Directory.open(tmp_path / "data", "n1", ids())
    identity = first.identity
    first.close()
    again = Directory.open(tmp_path / "data", "n1", never)

    assert (identity.name, identity.storage_id, identity.cluster_id) == ("n1", "0000000000000001", "")
    assert again.identity == identity
    assert again.salt == 2
    again.close()


def test_the_cluster_id_is_kept_and_never_changes(tmp_path: Path) -> None:
    directory = Directory.open(tmp_path, "n1", ids())
    directory.join_cluster("00000000000000cc")
    directory.join_cluster("00000000000000cc")
    directory.close()
    again = Directory.open(tmp_path, "n1", never)

    assert again.identity.cluster_id == "00000000000000cc"
    with pytest.raises(AssertionError):
        again.join_cluster("00000000000000dd")
    again.close()


def test_a_directory_in_use_is_refused_until_it_is_let_go(tmp_path: Path) -> None:
    first = Directory.open(tmp_path, "n1", ids())
    with pytest.raises(DirectoryInUse, match="in use by another process"):
        Directory.open(tmp_path, "n1", never)
    first.close()

    Directory.open(tmp_path, "n1", never).close()


def test_another_nodes_directory_is_refused_and_left_alone(tmp_path: Path) -> None:
    Directory.open(tmp_path, "n1", ids()).close()
    before = (tmp_path / "identity.json").read_bytes()

    with pytest.raises(ForeignDirectory, match="belongs to the node 'n1', not to 'n2'"):
        Directory.open(tmp_path, "n2", never)
    assert (tmp_path / "identity.json").read_bytes() == before
    Directory.open(tmp_path, "n1", never).close()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is damaged"),
        (b"garbage", "is damaged"),
        (b'{"format": 1, "name": "n1"}', "is damaged"),
        (b'{"format": 9, "name": "n1", "storage_id": "1", "salt": "2"}', "has format 9"),
        (b'{"format": 1, "name": "n1", "storage_id": "1", "salt": "2"}', "holds an id that is none"),
    ],
)
def test_a_damaged_identity_is_refused_with_a_sentence(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "identity.json").write_bytes(content)

    with pytest.raises(StartRefused, match=says):
        Directory.open(tmp_path, "n1", never)


def test_data_without_an_identity_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()

    with pytest.raises(StartRefused, match="holds 'store': it is not ours"):
        Directory.open(tmp_path, "n1", never)


def test_a_path_that_cannot_be_a_directory_is_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    with pytest.raises(StartRefused, match="cannot be used"):
        Directory.open(tmp_path / "file", "n1", never)


def test_an_identity_that_was_being_written_when_the_power_failed_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "identity.json.new").write_bytes(b'{"form')
    directory = Directory.open(tmp_path, "n1", ids())

    assert directory.identity.storage_id == "0000000000000001"
    assert directory.store_folder.is_dir()
    assert directory.log_folder == tmp_path / "log"
    directory.close()


def filled(path: Path) -> Directory:
    """A directory of a member, with data."""
    directory = Directory.open(path, "n1", ids())
    directory.join_cluster("00000000000000cc")
    directory.log_folder.mkdir()
    (directory.log_folder / "1.log").write_bytes(b"entries")
    (directory.store_folder / "copies.db").write_bytes(b"rows")
    return directory


def test_a_directory_that_has_left_is_refused_and_kept_unless_it_may_be_emptied(tmp_path: Path) -> None:
    left = filled(tmp_path)
    left.mark_left()
    left.close()
    with pytest.raises(StartRefused) as refused:
        Directory.open(tmp_path, "n1", never)
    kept = (left.log_folder / "1.log").exists(), (left.store_folder / "copies.db").exists()
    emptied = Directory.open(tmp_path, "n1", iter(("a" * 16, "b" * 16)).__next__, empties_left=True)
    emptied.close()
    again = Directory.open(tmp_path, "n1", never, empties_left=True)
    again.close()

    assert refused.value.detail == (
        "n1 has left cluster 00000000000000cc for good; empty its directory to use it again"
    )
    assert kept == (True, True)
    assert (emptied.emptied, emptied.identity.storage_id, emptied.identity.cluster_id) == (f"{1:016x}", "a" * 16, "")
    assert emptied.salt == int("b" * 16, 16)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["identity.json", "lock"]
    assert (again.emptied, again.identity) == ("", emptied.identity)


def test_nothing_but_the_mark_empties_a_directory(tmp_path: Path) -> None:
    filled(tmp_path).close()
    again = Directory.open(tmp_path, "n1", never, empties_left=True)
    again.close()

    assert (again.emptied, again.identity.storage_id) == ("", f"{1:016x}")
    assert (again.log_folder / "1.log").read_bytes() == b"entries"


@pytest.mark.parametrize("done", ["nothing", "log", "log and store", "identity"])
def test_emptying_that_a_crash_interrupted_is_finished_by_the_next_start(tmp_path: Path, done: str) -> None:
    left = filled(tmp_path)
    left.mark_left()
    left.close()
    if done != "nothing":
        shutil.rmtree(left.log_folder)
    if done in ("log and store", "identity"):
        shutil.rmtree(left.path / "store")
    if done == "identity":
        text = (tmp_path / "identity.json").read_text()
        text = text.replace(f"{1:016x}", "e" * 16).replace("00000000000000cc", "")
        (tmp_path / "identity.json").write_text(text)
    again = Directory.open(tmp_path, "n1", iter(("e" * 16, "f" * 16)).__next__, empties_left=True)
    again.close()

    assert (again.identity.storage_id, again.identity.cluster_id) == ("e" * 16, "")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["identity.json", "lock"]


def test_data_of_a_new_identity_outlive_the_mark_of_an_older_one(tmp_path: Path) -> None:
    """The machine may lose the deletion of the mark: that must not empty the directory a second time."""
    left = filled(tmp_path)
    left.mark_left()
    mark = (tmp_path / "left.json").read_bytes()
    left.close()
    emptied = Directory.open(tmp_path, "n1", iter(("e" * 16, "f" * 16)).__next__, empties_left=True)
    (emptied.store_folder / "copies.db").write_bytes(b"new rows")
    emptied.close()
    (tmp_path / "left.json").write_bytes(mark)
    again = Directory.open(tmp_path, "n1", never, empties_left=True)
    again.close()

    assert (again.emptied, again.identity) == ("", emptied.identity)
    assert (again.store_folder / "copies.db").read_bytes() == b"new rows"
    assert not (tmp_path / "left.json").exists()


def test_a_damaged_mark_is_refused_and_nothing_is_deleted(tmp_path: Path) -> None:
    filled(tmp_path).close()
    (tmp_path / "left.json").write_bytes(b"{")
    with pytest.raises(StartRefused, match=r"left\.json is damaged"):
        Directory.open(tmp_path, "n1", never, empties_left=True)

    assert (tmp_path / "log" / "1.log").read_bytes() == b"entries"


def test_the_folder_of_a_whole_volume_is_nobodys_data(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    Directory.open(tmp_path, "n1", ids()).close()

    assert (tmp_path / "lost+found").is_dir()
