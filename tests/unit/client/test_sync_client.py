"""The blocking client is the asynchronous one in a thread of its own."""

from __future__ import annotations

import pytest

from ringkeep import Client
from ringkeep.answers import ImportResult
from ringkeep.errors import NotFound
from ringkeep_testing.fake_cluster import FakeCluster, served


def test_every_call_of_the_blocking_client_works() -> None:
    with served(FakeCluster()) as cluster, Client(cluster.urls) as client:
        written = client.put("ada", "k", b"v")
        result = client.import_lines([b'{"user":"ada","key":"l","value":1}'])

        assert (written.created, client.get("ada", "k").value, client.head("ada", "k").bytes) == (True, b"v", 1)
        assert result == ImportResult(lines=1, stored=1)
        assert [row.key for row in client.list("ada", page_size=1)] == ["k", "l"]
        assert client.route("ada").user == "ada"
        assert [member.name for member in client.members()] == ["n1", "n2", "n3"]
        assert (client.leader().name, client.map().version, client.wanted()) == ("n1", 10, cluster.wanted)
        client.delete("ada", "k")
        with pytest.raises(NotFound):
            client.get("ada", "k")


def test_the_blocking_client_administers_the_cluster() -> None:
    with served(FakeCluster()) as cluster, Client(cluster.urls) as client:
        revisions = [client.wanted()["revision"], client.set_wanted(cluster.wanted)["revision"]]
        revisions += [client.drain("n3")["revision"], client.undrain("n3")["revision"], client.plan().wanted_revision]
        thought = client.what_if(members=["n1"], drain=["n2"], weights={"n3": 0})

        assert (revisions, thought.wanted_revision) == ([1, 2, 3, 4, 4], 5)
        assert client.leave("n3") == {"left": "n3", "storage_id": "storage-n3"}
        assert client.transfer_leader("n2").name == "n2"
        assert [event.kind for event in client.events(after=0)] == ["boot"]


def test_a_closed_client_says_so_and_may_be_closed_again() -> None:
    client = Client("http://127.0.0.1:1")
    client.close()
    client.close()

    with pytest.raises(RuntimeError):
        client.get("ada", "k")
