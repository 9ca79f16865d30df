"""Measure a real local cluster while it changes: scaling, live hand-overs, rolling restarts, a leader killed in a plan.

    python -P benchmarks/elastic.py scale|handoffs|rolling|leader-kill [options]

Each measurement starts its own cluster in a temporary directory on loopback, keeps a steady stream of requests running
through it, ends it by process id, and prints one JSON line. Every acknowledged write is read back at the end.

    scale        3 -> 5 -> 3 nodes with documents loaded: errors, lost writes, copies moved against the lower bound, spread;
                 latency of puts and gets in each phase (new processes start, copies move, old ones leave) against the
                 steady one before it, and what each node spends. The requests come from a process of their own, so that
                 looking at the cluster does not delay them; how late that process is itself is told as well
    handoffs     primaries moved by weights among nodes that hold everything: the gap each written shard sees
    rolling      every node restarted in turn: errors, primary moves of each shard, snapshot bytes, latency
    leader-kill  a drain whose leader is killed and started again: how long any shard was without a primary, and that
                 the drain ends. --never-back: it stays dead, its copies are made elsewhere after a grace of 10 s
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ringkeep.answers import ShardMap
from ringkeep.async_client import AsyncClient
from ringkeep.errors import RingkeepError
from ringkeep.launcher.local import LocalCluster
from ringkeep_core.hashing import shard_of

SETTLED_S = 300.0
VALUE_BYTES = 200
GRACE_S = 10.0


@dataclass
class Stream:
    """Requests at a steady rate, half puts and half gets, each on a user and key of its own history.

    ``latencies`` are (start, seconds) pairs, ``puts`` says which of them are writes; ``late`` are (due, seconds) pairs: how
    late this process was itself. ``acknowledged`` is what every such key must at least be at.
    """

    client: AsyncClient
    per_second: int
    users: Sequence[str]
    latencies: list[tuple[float, float]] = field(default_factory=list)
    puts: list[bool] = field(default_factory=list)
    late: list[tuple[float, float]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    acknowledged: dict[tuple[str, str], tuple[int, bytes]] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _running: asyncio.Task[None] | None = None
    _number: int = 0

    def start(self) -> None:
        """Begin."""
        self._running = asyncio.create_task(self._pace())

    async def stop(self) -> None:
        """Send nothing more, and wait for what is under way."""
        assert self._running is not None
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        await asyncio.gather(*self._tasks)

    async def _pace(self) -> None:
        loop = asyncio.get_running_loop()
        due, gap = loop.time(), 1.0 / self.per_second
        while True:
            due += gap
            await asyncio.sleep(max(0.0, due - loop.time()))
            self.late.append((due, max(0.0, loop.time() - due)))
            self._number += 1
            task = asyncio.create_task(self._one(self._number))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _one(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        user = self.users[number // 2 % len(self.users)]
        started = loop.time()
        try:
            if number % 2:
                key, value = f"live-{number:08}", random.randbytes(VALUE_BYTES)
                written = await self.client.put(user, key, value, timeout_s=10.0)
                self.acknowledged[user, key] = (written.version, value)
            elif self.acknowledged:
                user, key = next(reversed(self.acknowledged))
                await self.client.get(user, key, timeout_s=10.0)
        except RingkeepError as error:
            self.errors.append(f"{error.code}: {error}")
        self.latencies.append((started, loop.time() - started))
        self.puts.append(number % 2 == 1)

    def between(self, since: float, until: float) -> list[float]:
        """Return the latencies of requests that began in a span of time, in ms."""
        return [1000 * took for started, took in self.latencies if since <= started < until] or [0.0]

    async def lost(self) -> int:
        """Read everything back and return how many acknowledged writes are not there."""
        gate, missing = asyncio.Semaphore(32), 0

        async def check(user: str, key: str, version: int, value: bytes) -> None:
            nonlocal missing
            async with gate:
                try:
                    found = await self.client.get(user, key, timeout_s=20.0)
                except RingkeepError:
                    missing += 1
                    return
                missing += found.value != value or found.version < version

        wanted = [(user, key, *told) for (user, key), told in self.acknowledged.items()]
        await asyncio.gather(*(check(*one) for one in wanted))
        return missing


def percentile(values: list[float], share: float) -> float:
    """Return the value below which ``share`` of ``values`` lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def spread_of(values: list[float]) -> dict[str, float]:
    """Return p50, p99 and the greatest, rounded."""
    shares = {"p50": percentile(values, 0.5), "p99": percentile(values, 0.99), "max": max(values)}
    return {name: round(value, 1) for name, value in shares.items()} | {"count": len(values)}


@asynccontextmanager
async def cluster(nodes: int, shards: int) -> AsyncIterator[LocalCluster]:
    """Start a cluster in a directory of its own, and end it."""
    with tempfile.TemporaryDirectory(prefix="ringkeep-bench-") as folder:
        local = LocalCluster(Path(folder))
        try:
            await local.up(nodes, shards=shards)
            yield local
        finally:
            await asyncio.to_thread(local.down, wipe=True)


def urls_of(local: LocalCluster) -> list[str]:
    """Return the addresses of all nodes."""
    return [node.url for node in local.directory.existing().nodes]


async def load(client: AsyncClient, documents: int) -> float:
    """Store small documents of many users; return the seconds it took."""
    started = time.monotonic()
    lines = (
        msgspec.json.encode(
            {"user": f"u{number % 5000}", "key": f"doc-{number:07}", "value": {"n": number, "pad": "x" * 100}}
        )
        for number in range(documents)
    )
    result = await client.import_lines(lines)
    if result.stored != documents:
        raise SystemExit(f"only {result.stored} of {documents} documents were stored: {result.errors[:1]}")
    return time.monotonic() - started


def copies_of(shard_map: ShardMap) -> set[tuple[int, str, int]]:
    """Return every copy as (shard, storage id, added)."""
    return {
        (shard.shard, copy.storage_id, copy.added)
        for shard in shard_map.shards
        for copy in (*shard.in_sync, *shard.learners)
    }


def spread(shard_map: ShardMap) -> dict[str, int]:
    """Return by how much copies and primaries of the fullest and the emptiest node differ."""
    names = [member.name for member in shard_map.members]
    copies, primaries = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    for shard in shard_map.shards:
        for copy in shard.in_sync:
            copies[copy.name] += 1
        if shard.primary is not None:
            primaries[shard.primary.name] += 1
    return {
        "copies": max(copies.values()) - min(copies.values()),
        "primaries": max(primaries.values()) - min(primaries.values()),
    }


async def settled(
    client: AsyncClient, holds: Callable[[ShardMap], bool], what: str, *, limit_s: float = SETTLED_S
) -> float:
    """Wait until the map is as wanted; return the seconds it took."""
    started = time.monotonic()
    while time.monotonic() < started + limit_s:
        try:
            if holds(await client.map(timeout_s=5.0)):
                return time.monotonic() - started
        except RingkeepError:
            pass
        await asyncio.sleep(0.1)
    raise SystemExit(f"after {limit_s:.0f} s still not: {what}")


def is_whole(copies: int) -> Callable[[ShardMap], bool]:
    """Return whether every shard has exactly its copies, all in sync."""
    return lambda shard_map: all(len(s.in_sync) == copies and not s.learners for s in shard_map.shards)


async def snapshot_bytes(local: LocalCluster) -> dict[str, int]:
    """Return the bytes of snapshots that each node's metrics count as sent since it started."""
    sent: dict[str, int] = {}
    for node in local.directory.existing().nodes:
        async with AsyncClient(node.url, direct=False) as client:
            text = (await client.read("/metrics")).decode()
        counts = re.findall(r"^ringkeep_node_snapshot_bytes_total\{[^}]*sent[^}]*\} ([0-9.e+]+)", text, re.MULTILINE)
        assert counts, f"{node.name} does not count the bytes of snapshots"
        sent[node.name] = sum(int(float(count)) for count in counts)
    return sent


# --- measurements ------------------------------------------------------------------------------------------------


class Phases:
    """What went on when, as the launcher says it."""

    def __init__(self, local: LocalCluster) -> None:
        self._local = local
        self._pids: dict[str, int] = {}
        self._name, self._began = "", time.monotonic()
        self._cpu_s, self._machine = self._spent(), machine_cpu_s()
        self.done: list[dict[str, Any]] = []

    def _spent(self) -> dict[str, float]:
        self._pids |= {node.name: node.pid for node in self._local.directory.existing().nodes if node.is_running}
        return {name: cpu_s(pid) for name, pid in self._pids.items()}

    def begin(self, name: str) -> None:
        """End the phase that there is, and begin another; "" for nothing of interest."""
        now, spent = time.monotonic(), self._spent()
        if self._name:
            cpu = {one: round(max(0.0, at - self._cpu_s.get(one, 0.0)), 2) for one, at in spent.items()}
            cpu |= {one: round(at - self._machine.get(one, 0.0), 2) for one, at in machine_cpu_s().items()}
            self.done.append({"phase": self._name, "from": self._began, "to": now, "cpu_s": cpu})
        self._name, self._began, self._cpu_s, self._machine = name, now, spent, machine_cpu_s()

    def said(self, text: str) -> None:
        """Hear what the launcher does now."""
        if text.startswith("starting"):
            self.begin("start")
        elif text.startswith("moving copies"):
            self.begin("move")
        elif text.endswith("leaves"):
            self.begin("leave")


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process (proc(5)); 0 without /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def machine_cpu_s() -> dict[str, float]:
    """Return the CPU seconds that all processes had (``all``), and that the host kept for others (``stolen``)."""
    try:
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except OSError:
        return {}
    ticks = os.sysconf("SC_CLK_TCK")
    user, nice, system, _idle, _waiting, irq, soft_irq, stolen = fields
    return {"all": (user + nice + system + irq + soft_irq) / ticks, "stolen": stolen / ticks}


def told_of(phases: Sequence[dict[str, Any]], told: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the phases with the latencies in each, and the ratio of its p99 to that of the steady phase before it.

    ``client_late_ms`` is how late the process was that sends the requests: what is far above zero is not the cluster's.
    """
    steady, shown = dict[str, float](), list[dict[str, Any]]()
    for phase in phases:
        since, until = phase["from"], phase["to"]
        one: dict[str, Any] = {"phase": phase["phase"], "seconds": round(until - since, 1), "cpu_s": phase["cpu_s"]}
        for kind, is_put in (("puts", True), ("gets", False), ("both", None)):
            took = [
                1000 * seconds
                for (at, seconds), put in zip(told["latencies"], told["puts"], strict=True)
                if since <= at < until and is_put in (put, None)
            ]
            one[f"{kind}_ms"] = spread_of(took or [0.0])
            if phase["phase"] == "steady":
                steady[kind] = one[f"{kind}_ms"]["p99"]
            elif steady.get(kind):
                one[f"{kind}_p99_ratio"] = round(one[f"{kind}_ms"]["p99"] / steady[kind], 2)
        late = [1000 * seconds for due, seconds in told["late"] if since <= due < until]
        one["client_late_ms"] = spread_of(late or [0.0])
        shown.append(one)
    return shown


async def run_stream(arguments: argparse.Namespace) -> dict[str, object]:
    """Send requests until the input ends, then read back what was acknowledged. Times are those of ``time.monotonic``."""
    async with AsyncClient(arguments.urls.split(",")) as client:
        stream = Stream(client, arguments.per_second, [f"live-{number}" for number in range(200)])
        stream.start()
        await asyncio.to_thread(sys.stdin.read)
        await stream.stop()
        return {
            "latencies": stream.latencies,
            "puts": stream.puts,
            "late": stream.late,
            "errors": stream.errors,
            "acknowledged": len(stream.acknowledged),
            "lost": await stream.lost(),
        }


@asynccontextmanager
async def stream_elsewhere(
    local: LocalCluster, per_second: int
) -> AsyncIterator[Callable[[], Coroutine[Any, Any, Any]]]:
    """Run ``run_stream`` in a process of its own; what is yielded ends it and returns what it tells."""
    command = (sys.executable, "-P", __file__, "stream", "--urls", ",".join(urls_of(local)))
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, "--per-second", str(per_second), stdin=pipe, stdout=pipe, limit=1 << 28
    )

    async def end() -> Any:
        told, _ = await process.communicate(b"")  # Its input ends with that.
        return json.loads(told)

    try:
        yield end
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def measure_scale(arguments: argparse.Namespace) -> dict[str, object]:
    """3 -> 5 -> 3 under requests."""
    async with cluster(3, arguments.shards) as local, AsyncClient(urls_of(local)) as client:
        loaded_s = await load(client, arguments.documents)
        await asyncio.sleep(arguments.rest_s)
        moved, spreads, bounds = [], [], []
        async with stream_elsewhere(local, arguments.per_second) as end:
            await asyncio.sleep(3.0)  # Its start, and its connections.
            phases = Phases(local)
            for size in (5, 3):
                phases.begin("steady")
                await asyncio.sleep(arguments.steady_s)
                names = [f"n{number}" for number in range(1, size + 1)]
                phases.begin("")
                bounds.append((await client.what_if(members=names)).lower_bound)
                before = copies_of(await client.map())
                await local.scale(size, say=phases.said)
                await settled(client, is_whole(3), f"3 whole copies on {size} nodes")
                phases.begin("")
                after = await client.map()
                moved.append(len(copies_of(after) - before))
                spreads.append(spread(after))
            await asyncio.sleep(1.0)
            told = await end()
        return {
            "measure": "scale_3_5_3",
            "documents": arguments.documents,
            "per_second": arguments.per_second,
            "loaded_s": round(loaded_s, 1),
            "requests": len(told["latencies"]),
            "errors": len(told["errors"]),
            "first_errors": told["errors"][:3],
            "acknowledged": told["acknowledged"],
            "lost": told["lost"],
            "copies_moved": moved,
            "lower_bounds": bounds,
            "spread": spreads,
            "phases": told_of(phases.done, told),
        }


async def measure_handoffs(arguments: argparse.Namespace) -> dict[str, object]:
    """Primaries move by weights among three nodes that hold everything."""
    async with cluster(3, arguments.shards) as local, AsyncClient(urls_of(local), direct=False) as client:
        shards = arguments.shards
        users = {shard_of(user, shards): user for user in (f"h{number}" for number in range(50 * shards))}
        gaps: list[float] = []
        usual: list[float] = []
        stop = asyncio.Event()
        errors: list[str] = []

        async def write(mine: list[str]) -> None:
            last: dict[str, tuple[int, float]] = {}
            number = 0
            while not stop.is_set():
                for user in mine:
                    number += 1
                    began = time.monotonic()
                    try:
                        written = await client.put(user, f"k{number % 50}", b"x" * 64, timeout_s=10.0)
                    except RingkeepError as error:
                        errors.append(str(error))
                        continue
                    now = time.monotonic()
                    before = last.get(user)
                    if before is not None and written.epoch > before[0]:
                        gaps.append(1000 * (now - before[1]))
                    else:
                        usual.append(1000 * (now - began))
                    last[user] = (written.epoch, now)
                    await asyncio.sleep(arguments.pace_s)

        chosen = random.Random(7).sample(sorted(users.values()), arguments.writers)
        writers = [asyncio.create_task(write([user])) for user in chosen]
        names = [node.name for node in local.directory.existing().nodes]
        rounds = 0
        while len(gaps) < arguments.moves and rounds < 60:
            heavy = names[rounds % 3]
            rounds += 1
            wanted = await client.wanted()
            members = {name: wanted["members"][name] | {"weight": 6.0 if name == heavy else 1.0} for name in names}
            await client.set_wanted({"revision": wanted["revision"], "members": members})
            await settled(client, _led_by(heavy, 0.6), f"{heavy} leads most shards", limit_s=60.0)
        stop.set()
        await asyncio.gather(*writers)
        without = 1000 * arguments.pace_s + percentile(usual, 0.5)
        return {
            "measure": "handoff_pause_ms",
            "rounds": rounds,
            "errors": len(errors),
            **spread_of([max(0.0, gap - without) for gap in gaps] or [0.0]),
            "gap_ms": spread_of(gaps or [0.0]),
            "usual_write_ms": spread_of(usual),
            "note": "gap: from the last acknowledgement in the old epoch to the first in the new one, as a client sees it; "
            "pause: the gap without the writer's own rest and a usual write",
        }


def _led_by(name: str, share: float) -> Callable[[ShardMap], bool]:
    def holds(shard_map: ShardMap) -> bool:
        led = sum(1 for shard in shard_map.shards if shard.primary is not None and shard.primary.name == name)
        return led >= share * len(shard_map.shards)

    return holds


async def measure_rolling(arguments: argparse.Namespace) -> dict[str, object]:
    """Every node is restarted in turn, under requests."""
    async with cluster(arguments.nodes, arguments.shards) as local, AsyncClient(urls_of(local)) as client:
        await load(client, arguments.documents)
        await settled(client, is_whole(3), "3 whole copies")
        stream = Stream(client, arguments.per_second, [f"live-{number}" for number in range(200)])
        stream.start()
        loop = asyncio.get_running_loop()
        await asyncio.sleep(arguments.steady_s)
        before, begun = await client.map(), loop.time()
        sent, counted = 0, await snapshot_bytes(local)
        for node in local.directory.existing().nodes:
            await local.restart(node.name)
            await settled(client, is_whole(3), f"{node.name} is in sync again")
            now = await snapshot_bytes(local)
            # The restarted node counts from nothing; what it sent as it ended, nobody could take.
            sent += sum(count - (0 if name == node.name else counted[name]) for name, count in now.items())
            counted = now
        done = loop.time()
        await asyncio.sleep(arguments.after_s)
        after = await client.map()
        sent += sum(count - counted[name] for name, count in (await snapshot_bytes(local)).items())
        await stream.stop()
        moves = [new.epoch - old.epoch for old, new in zip(before.shards, after.shards, strict=True)]
        return {
            "measure": "rolling_restart",
            "nodes": arguments.nodes,
            "seconds": round(done - begun, 1),
            "requests": len(stream.latencies),
            "errors": len(stream.errors),
            "first_errors": stream.errors[:3],
            "lost": await stream.lost(),
            "snapshot_bytes": sent,
            "primary_moves": {"max": max(moves), "mean": round(sum(moves) / len(moves), 2)},
            "copies_moved": len(copies_of(after) - copies_of(before)),
            "spread": spread(after),
            "steady_ms": spread_of(stream.between(0.0, begun)),
            "while_ms": spread_of(stream.between(begun, done)),
        }


async def measure_leader_kill(arguments: argparse.Namespace) -> dict[str, object]:
    """A node is drained, and the Raft leader is killed in the middle of it."""
    runs: list[int] = []
    waits: list[float] = []
    drains: list[float] = []
    for run in range(arguments.runs):
        async with cluster(5, arguments.shards) as local, AsyncClient(urls_of(local)) as client:
            await load(client, arguments.documents)
            await settled(client, is_whole(3), "3 whole copies")
            if arguments.never_back:
                wanted = await client.wanted()
                settings = {"grace_s": GRACE_S}
                await client.set_wanted(
                    {name: wanted[name] for name in ("revision", "members")} | {"settings": settings}
                )
            waits.append(await _one_leader_kill(local, client, run, drains, comes_back=not arguments.never_back))
            runs.append(run)
    return {
        "measure": "leader_killed_in_a_drain",
        "comes_back": not arguments.never_back,
        "runs": len(runs),
        "longest_without_primary_ms": spread_of([1000 * wait for wait in waits]),
        "drain_ms": spread_of([1000 * took for took in drains]),
    }


async def _one_leader_kill(
    local: LocalCluster, client: AsyncClient, run: int, drains: list[float], *, comes_back: bool
) -> float:
    shard_count = len((await client.map()).shards)
    users = {shard_of(user, shard_count): user for user in (f"p{number}" for number in range(40 * shard_count))}
    last = dict.fromkeys(users, 0.0)
    longest = 0.0
    stop = asyncio.Event()

    async def probe(shard: int, user: str) -> None:
        nonlocal longest
        while not stop.is_set():
            try:
                await client.put(user, "probe", b"1", timeout_s=10.0)
            except RingkeepError:
                continue
            now = time.monotonic()
            if last[shard]:
                longest = max(longest, now - last[shard])
            last[shard] = now
            await asyncio.sleep(0.2)

    probes = [asyncio.create_task(probe(shard, user)) for shard, user in users.items()]
    await asyncio.sleep(2.0)
    longest = 0.0
    leader = (await client.leader()).name
    assert leader is not None
    names = [node.name for node in local.directory.existing().nodes]
    victim = next(name for name in names if name != leader)
    started = time.monotonic()
    await client.drain(victim)
    await asyncio.sleep(0.1 + 0.1 * (run % 10))
    await asyncio.to_thread(local.kill, leader)
    if comes_back:
        # Its copies are within the grace: no complete copy is given up before they are back.
        await asyncio.sleep(3.0)
        await local.restart(leader)

    def is_empty(shard_map: ShardMap) -> bool:
        return not any(copy.name == victim for shard in shard_map.shards for copy in (*shard.in_sync, *shard.learners))

    await settled(client, is_empty, f"{victim} is empty")
    drains.append(time.monotonic() - started)
    stop.set()
    await asyncio.gather(*probes)
    return longest - 0.2


def main() -> None:
    """Run one measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    measures: dict[str, Callable[[argparse.Namespace], Coroutine[Any, Any, dict[str, object]]]] = {
        "scale": measure_scale,
        "handoffs": measure_handoffs,
        "rolling": measure_rolling,
        "leader-kill": measure_leader_kill,
        "stream": run_stream,
    }
    parser.add_argument("measure", choices=measures, help="stream is what scale starts for its requests")
    parser.add_argument("--nodes", type=int, default=5)
    parser.add_argument("--shards", type=int, default=256)
    parser.add_argument("--documents", type=int, default=300_000)
    parser.add_argument("--per-second", type=int, default=500)
    parser.add_argument("--steady-s", type=float, default=10.0)
    parser.add_argument("--rest-s", type=float, default=5.0, help="between loading and the first request")
    parser.add_argument("--urls", default="", help="of stream")
    parser.add_argument("--after-s", type=float, default=10.0)
    parser.add_argument("--moves", type=int, default=200)
    parser.add_argument("--writers", type=int, default=24)
    parser.add_argument("--pace-s", type=float, default=0.005)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--never-back", action="store_true", help="leader-kill: the killed leader stays dead")
    arguments = parser.parse_args()
    print(json.dumps(asyncio.run(measures[arguments.measure](arguments))), flush=True)


if __name__ == "__main__":
    main()
