"""Which address a request is sent to."""

from __future__ import annotations

from ringkeep.answers import MapMember, Primary, Shard, ShardMap
from ringkeep.routing import Routes
from ringkeep_core.hashing import shard_of


def _map(version: int, primary: str = "n1", *, epoch: int = 1, cluster_id: str = "c1") -> ShardMap:
    members = (MapMember("n1", url="http://a:1/"), MapMember("n2", url="http://b:1"))
    shards = tuple(Shard(shard=shard, epoch=epoch, primary=Primary(primary)) for shard in range(16))
    return ShardMap(cluster_id, version, members, shards)


def test_without_a_map_any_seed_is_used() -> None:
    routes = Routes(["http://a:1", "http://b:1/", "http://a:1/"])

    assert routes.addresses == ("http://a:1", "http://b:1")
    assert [routes.target(None, now=0, draw=lambda d=d: d) for d in (0.0, 0.5, 0.999)] == [  # type: ignore[misc]
        "http://a:1",
        "http://b:1",
        "http://b:1",
    ]


def test_the_primary_of_the_map_is_computed_from_the_user() -> None:
    routes = Routes(["http://seed:1"])
    fresh = _map(5)
    odd = tuple(Shard(s.shard, 1, primary=Primary("n2" if s.shard % 2 else "n1")) for s in fresh.shards)
    routes.take_map(ShardMap("c1", 5, fresh.members, odd))

    for user in ("ada", "bob", "eve", "ü/1"):
        assert routes.primary_url(user) == ("http://b:1" if shard_of(user, 16) % 2 else "http://a:1")


def test_only_a_newer_map_of_the_same_cluster_is_taken() -> None:
    routes = Routes(["http://seed:1"])

    assert routes.take_map(_map(5))
    assert not routes.take_map(_map(5, "n2"))
    assert not routes.take_map(_map(4, "n2"))
    assert routes.primary_url("ada") == "http://a:1"
    assert routes.take_map(_map(6, "n2"))
    assert routes.primary_url("ada") == "http://b:1"
    assert not routes.take_map(_map(9, "n1", cluster_id="c2"))
    assert (routes.primary_url("ada"), routes.cluster) == ("http://b:1", "c1")


def test_a_shard_without_a_primary_has_no_address() -> None:
    routes = Routes(["http://seed:1"])
    routes.take_map(ShardMap("c1", 1, (), tuple(Shard(shard, 1) for shard in range(16))))

    assert routes.primary_url("ada") is None


def test_an_epoch_above_the_maps_shows_that_the_map_is_old() -> None:
    routes = Routes(["http://seed:1"])
    before = routes.is_stale(0, 1)
    routes.take_map(_map(5, epoch=3))

    assert before
    assert (routes.is_stale(0, 3), routes.is_stale(0, 2), routes.is_stale(0, 4)) == (False, False, True)


def test_an_address_that_failed_is_avoided_for_longer_each_time_until_it_answers() -> None:
    routes = Routes(["http://a:1", "http://b:1"])
    first = lambda: 0.0  # noqa: E731
    routes.failed("http://a:1", now=10.0)

    assert routes.target("http://a:1", now=10.4, draw=first) == "http://b:1"
    assert routes.target("http://a:1", now=10.5, draw=first) == "http://a:1"
    routes.failed("http://a:1", now=10.5)
    routes.failed("http://a:1", now=10.6)
    assert routes.target("http://a:1", now=11.49, draw=first) == "http://b:1"
    assert routes.target("http://a:1", now=11.5, draw=first) == "http://a:1"
    routes.answered("http://a:1")
    routes.failed("http://a:1", now=20.0)
    assert routes.target("http://a:1", now=20.5, draw=first) == "http://a:1"


def test_an_address_that_was_silent_is_avoided_for_longer_than_one_that_refused() -> None:
    routes = Routes(["http://a:1", "http://b:1"])
    routes.failed("http://a:1", now=10.0, silent=True)

    assert routes.target("http://a:1", now=14.9, draw=lambda: 0.0) == "http://b:1"
    assert routes.target("http://a:1", now=15.0, draw=lambda: 0.0) == "http://a:1"


def test_when_every_address_failed_the_one_that_failed_longest_ago_is_tried() -> None:
    routes = Routes(["http://a:1", "http://b:1"])
    routes.failed("http://b:1", now=1.0)
    routes.failed("http://a:1", now=1.2)

    assert routes.target("http://a:1", now=1.3, draw=lambda: 0.0) == "http://b:1"
    assert Routes(["http://a:1"]).target(None, now=0, draw=lambda: 0.0, last="http://a:1") == "http://a:1"


def test_the_address_that_just_failed_is_not_the_next_one() -> None:
    routes = Routes(["http://a:1", "http://b:1"])

    assert routes.target("http://a:1", now=0, draw=lambda: 0.0, last="http://a:1") == "http://b:1"
