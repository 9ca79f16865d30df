"""The data directory: made once, locked while in use, refused when it is another node's or damaged."""

import itertools
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
