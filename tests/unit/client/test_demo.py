"""The demo's parts, and its whole story against a fake cluster that loses nothing, or something."""

from __future__ import annotations

import asyncio
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from ringkeep.answers import Primary, Shard, ShardMap
from ringkeep.demo.flights import DemoError, flight_of, keys_by_aircraft, read_flights
from ringkeep.demo.recovery import Recovery, busiest_primary, first_after, recovery
from ringkeep.demo.story import Outcome, Story, Timing
from ringkeep.demo.writer import Acknowledged
from ringkeep.launcher import ClusterRecord, NodeRecord
from ringkeep.launcher.nodes import Say
from ringkeep.membership import Progress, Told
from ringkeep_testing.fake_cluster import FakeCluster

COLUMNS = (
    "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,origin,"
    "dest,air_time,distance,hour,minute,time_hour"
)
QUICK = Timing(before_kill_s=0.05, after_s=0.05, failover_limit_s=60.0, return_limit_s=60.0)


def _row(day: int, flight: int, aircraft: str) -> str:
    return f"2013,1,{day},517,515,2,830,819,NA,UA,{flight},{aircraft},EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z"


def _source(folder: Path, *rows: str) -> Path:
    path = folder / "flights.csv.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("flights.csv", "\n".join([COLUMNS, *rows]) + "\n")
    return path


class FakeNodes:
    """The launcher's orders, carried out on a fake cluster in the same loop."""

    def __init__(self, cluster: FakeCluster, on_kill: Callable[[str], None] | None = None) -> None:
        self._cluster = cluster
        self._loop = asyncio.get_running_loop()
        self._on_kill = on_kill

    async def up(self, nodes: int | None = None, *, say: Say) -> ClusterRecord:
        say("starting")
        return ClusterRecord(nodes=tuple(self._record(name) for name in self._cluster.nodes))

    async def scale(self, nodes: int, *, say: Say, told: Told) -> ClusterRecord:
        say("moving copies")
        told(Progress(3, 12, 4096))
        await self._cluster.resize(nodes)
        return ClusterRecord(nodes=tuple(self._record(name) for name in self._cluster.nodes))

    async def restart(self, name: str, *, say: Say) -> NodeRecord:
        await self._cluster.start(name)
        return self._record(name)

    def kill(self, name: str) -> NodeRecord:
        asyncio.run_coroutine_threadsafe(self._killed(name), self._loop).result()
        return self._record(name)

    async def _killed(self, name: str) -> None:
        await self._cluster.stop(name)
        others = [other for other in self._cluster.nodes if other != name]
        for shard, primary in enumerate(self._cluster.primaries):
            if primary == name:
                self._cluster.primaries[shard] = others[shard % len(others)]
                self._cluster.epochs[shard] += 1
        self._cluster.version += 1
        if self._on_kill is not None:
            self._on_kill(name)

    def _record(self, name: str) -> NodeRecord:
        return NodeRecord(name, self._cluster.nodes[name].url, "127.0.0.1:1", 4711, "x")


def _tell(source: Path, on_kill: Callable[[FakeCluster], None] | None = None) -> tuple[Outcome, str]:
    async def whole() -> tuple[Outcome, str]:
        async with FakeCluster() as cluster:
            output = io.StringIO()
            nodes = FakeNodes(cluster, None if on_kill is None else lambda _: on_kill(cluster))
            story = Story(nodes, Console(file=output, width=200), source=source, timing=QUICK)
            return await story.tell(), output.getvalue()

    return asyncio.run(whole())


def test_the_story_finds_that_nothing_was_lost(tmp_path: Path) -> None:
    source = _source(tmp_path, *(_row(day, 7, f"N{n}") for n in range(40) for day in (1, 2, 3)), _row(1, 1, "NA"))
    outcome, output = _tell(source)

    assert outcome.is_perfect
    assert (outcome.lost, outcome.aircraft, outcome.matching) == (0, 40, 40)
    assert outcome.acknowledged > 64
    assert outcome.last_line() == f"lost 0 of {outcome.acknowledged:,} acknowledged writes; 40 of 40 aircraft match"
    for part in (
        "120 flights of 2013",
        "AIRCRAFT",
        "kill -9 4711",
        "its shards take writes again",
        "n4 is in sync again for all 16 shards",
        "Scale from 3 to 5 nodes",
        "32 copies moved; 5 nodes take part",
        "with 16 copies and 3 to 4 primaries each",
        "Scale from 5 to 3 nodes",
        "0 copies moved; 3 nodes take part",
        "and 0 failed",
    ):
        assert part in output


def test_the_story_counts_every_write_and_every_aircraft_that_is_not_as_it_was(tmp_path: Path) -> None:
    def lose(cluster: FakeCluster) -> None:
        writers = sorted(place for place in cluster.documents if place[0].startswith("demo-writer"))
        del cluster.documents[writers[0]]
        stored = cluster.documents[writers[1]]
        cluster.documents[writers[1]] = type(stored)(stored.version + 1, b"other", stored.content_type)
        del cluster.documents["N3", "1-1/515-UA7"]
        cluster.documents["N4", "extra"] = stored

    outcome, output = _tell(_source(tmp_path, *(_row(1, 7, f"N{n}") for n in range(10))), lose)

    assert (outcome.is_perfect, outcome.lost, outcome.aircraft, outcome.matching) == (False, 2, 10, 8)
    assert output.count("WRONG") == 4
    assert "1 missing ['1-1/515-UA7']" in output


def test_an_outcome_without_any_write_is_not_perfect() -> None:
    assert not Outcome(url="", acknowledged=0, lost=0, aircraft=1, matching=1).is_perfect
    assert not Outcome(url="", acknowledged=1, lost=0, aircraft=0, matching=0).is_perfect
    assert Outcome(url="", acknowledged=1234, lost=0, aircraft=4043, matching=4043).last_line() == (
        "lost 0 of 1,234 acknowledged writes; 4,043 of 4,043 aircraft match"
    )


def test_a_flight_is_a_document_of_its_aircraft(tmp_path: Path) -> None:
    (flight,) = read_flights(_source(tmp_path, _row(2, 1545, "N14228"), _row(1, 1, ""), _row(1, 1, "NA")))

    assert (flight.aircraft, flight.key) == ("N14228", "1-2/515-UA1545")
    assert flight.line().startswith(b'{"user":"N14228","key":"1-2/515-UA1545","value":{"year":2013,"month":1,"day":2,')
    assert b'"arr_delay":null,"carrier":"UA","flight":1545,"tailnum":"N14228"' in flight.line()


def test_two_flights_of_one_aircraft_under_one_key_are_noticed(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="N1"):
        keys_by_aircraft(_source(tmp_path, _row(1, 1, "N1"), _row(1, 1, "N1")))

    assert keys_by_aircraft(_source(tmp_path, _row(2, 1, "N1"), _row(1, 1, "N1"))) == {
        "N1": ("1-1/515-UA1", "1-2/515-UA1")
    }
    assert flight_of({"tailnum": "N1", "month": "1", "day": "2", "sched_dep_time": "3", "carrier": "UA", "flight": "4"})


def test_the_node_that_is_primary_for_most_shards_is_found() -> None:
    shards = tuple(Shard(n, epoch=n + 1, primary=Primary("n2" if n % 4 else "n1")) for n in range(8))

    assert busiest_primary(ShardMap("c", 1, (), shards)) == ("n2", {1: 2, 2: 3, 3: 4, 5: 6, 6: 7, 7: 8})


def test_only_acknowledgements_of_later_epochs_show_recovery() -> None:
    def write(shard: int, epoch: int, at: float) -> Acknowledged:
        return Acknowledged("u", "k", b"", 1, shard, epoch, at)

    told = [
        write(1, 2, 9.0),  # before the kill
        write(1, 1, 10.1),  # the dead node's last breath
        write(9, 7, 10.2),  # another node's shard
        write(1, 2, 11.0),
        write(1, 2, 11.5),
        write(2, 5, 12.5),
    ]
    first = first_after(told, {1: 1, 2: 4}, killed_at=10.0)

    assert first == {1: 11.0, 2: 12.5}
    assert recovery(first, killed_at=10.0) == Recovery(shards_seen=2, first_s=1.0, last_s=2.5)
