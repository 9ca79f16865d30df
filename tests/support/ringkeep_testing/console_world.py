"""A cluster that is only a map and a few numbers, of any size: what the console of one node looks at."""

from __future__ import annotations

from collections import Counter

from msgspec.structs import replace

from ringkeep_core.mapchanges import bootstrap
from ringkeep_core.shardmap import Copy, Member, Primary, Settings, ShardMap
from ringkeep_node.runtime.reports import Accusation, Event, MemberReport
from ringkeep_testing.fake_driver import CLUSTER_ID, FakeDriver, FakeIdentity

STEADY_S = 1_767_225_000.0


def map_of(nodes: int, shards: int, url: str = "http://127.0.0.1:1") -> ShardMap:
    """Return the map of a founded cluster; the first member is the fake node."""
    me = FakeIdentity()
    members = [Member(me.storage, me.name, me.boot, 1, me.url, me.peer, "a", 0)]
    for number in range(2, nodes + 1):
        storage, boot = f"50000000{number:08}", f"b0000000{number:08}"
        zone = "abc"[number % 3]
        members.append(Member(storage, f"n{number}", boot, 1, url, f"127.0.0.1:{7400 + number}", zone, 0))
    return bootstrap(cluster_id=CLUSTER_ID, members=members, shards=shards, settings=Settings())


def with_primary(held: ShardMap, number: int, storage: str) -> ShardMap:
    """Return the map in which a shard is led by another of its members, one version later."""
    shard = held.shards[number]
    changed = replace(
        shard,
        epoch=shard.epoch + 1,
        revision=shard.revision + 1,
        primary=Primary(storage, held.members[storage].boot),
    )
    shards = (*held.shards[:number], changed, *held.shards[number + 1 :])
    return replace(held, version=held.version + 1, shards=shards)


def without(held: ShardMap, storage: str) -> ShardMap:
    """Return the map after the node failed: it leads nothing and is a learner where it was in sync."""
    shards = []
    for shard in held.shards:
        if not shard.is_in_sync(storage):
            shards.append(shard)
            continue
        in_sync = tuple(copy for copy in shard.in_sync if copy.storage != storage)
        primary = shard.primary
        if primary.storage == storage:
            primary = Primary(in_sync[0].storage, held.members[in_sync[0].storage].boot)
        learners = (Copy(storage, held.version + 1),)
        shards.append(replace(shard, revision=shard.revision + 1, primary=primary, in_sync=in_sync, learners=learners))
    return replace(held, version=held.version + 1, shards=tuple(shards))


class ConsoleDriver(FakeDriver):
    """A fake node whose members are told of as a real one does: counted over the whole map, with evidence."""

    def __init__(self, nodes: int = 3, shards: int = 16, *, url: str = "http://127.0.0.1:1") -> None:
        super().__init__(shards=shards)
        self.shard_map = map_of(nodes, shards, url)
        self.states: dict[str, str] = {}
        self.urls: dict[str, str] = {}
        """Where a node is, if not where the map says."""
        self.wobble_s = 0.0
        """By so much every moment is told differently: they are made from another clock each time."""
        self.looked = 0

    def members(self) -> tuple[MemberReport, ...]:
        """Return every member with its copies."""
        self.looked += 1
        held = self.shard_map
        assert held is not None
        copies: Counter[str] = Counter()
        primaries: Counter[str] = Counter()
        for shard in held.shards:
            primaries[shard.primary.storage] += 1
            for copy in (*shard.in_sync, *shard.learners):
                copies[copy.storage] += 1
        since = STEADY_S + self.wobble_s
        return tuple(
            MemberReport(
                name=member.name,
                state=self.states.get(member.name, "alive"),
                storage_id=member.storage,
                boot_id=member.boot,
                url=self.urls.get(member.name, member.url),
                peer=member.peer,
                zone=member.zone,
                copies=copies[member.storage],
                primaries=primaries[member.storage],
                since=since,
                evidence=(Accusation("n1", since, "joined"), Accusation("n2", since, "connected")),
            )
            for member in sorted(held.members.values(), key=lambda member: member.name)
        )

    def happens(self, text: str, **fields: str | int | float) -> None:
        """Remember one more event."""
        number = len(self.happened) + 1
        self.happened = (*self.happened, Event(number, STEADY_S + number, "shards", text, dict(fields)))
