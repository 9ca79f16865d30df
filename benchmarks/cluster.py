"""Measure a real local cluster: start, idle cost, detection and recovery after kill -9, throughput, CPU per request.

    python -P benchmarks/cluster.py startup|idle|failover|throughput|cost [options]

Each measurement starts its own cluster in a temporary directory on loopback, ends it by process id, and prints one JSON
line. ``throughput`` and ``cost`` need a load program (``--load``, or ``$RINGKEEP_LOAD``) that takes the options -target -op
-e -c -d -warmup -direct and prints JSON with per_second; with ``--etcd`` endpoints it runs both, A B A B, and prints paired
ratios.
``cost`` is what limits throughput where nodes and clients share the cores, and is far less noisy than rates.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp

from ringkeep.launcher.local import LocalCluster

TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@contextmanager
def cluster(nodes: int) -> Iterator[tuple[LocalCluster, float]]:
    """Start a cluster; yield it with the seconds from the call to the first possible write."""
    with tempfile.TemporaryDirectory(prefix="ringkeep-bench-") as folder:
        local = LocalCluster(Path(folder))
        started = time.monotonic()
        try:
            asyncio.run(local.up(nodes))
            yield local, time.monotonic() - started
        finally:
            local.down(wipe=True)


def percentile(values: list[float], share: float) -> float:
    """Return the value below which ``share`` of ``values`` lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def summary(values: list[float]) -> dict[str, float]:
    """Return p50, p99 and the greatest of ``values``, rounded."""
    return {
        "p50": round(percentile(values, 0.5), 3),
        "p99": round(percentile(values, 0.99), 3),
        "max": round(max(values), 3),
        "runs": len(values),
    }


def measure_startup(arguments: argparse.Namespace) -> dict[str, object]:
    """``ringkeep up`` to the first possible write."""
    seconds = []
    for _ in range(arguments.runs):
        with cluster(arguments.nodes) as (_, took_s):
            seconds.append(took_s)
    return {"measure": "startup_s", "nodes": arguments.nodes, **summary(seconds)}


def cpu_s(pid: int) -> float:
    """Return the processor seconds a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_mib(pid: int) -> float:
    """Return the resident memory of a process in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"process {pid} has no VmRSS")


def measure_idle(arguments: argparse.Namespace) -> dict[str, object]:
    """Share of a core and memory of nodes that nobody asks anything."""
    with cluster(arguments.nodes) as (local, _):
        pids = [node.pid for node in local.directory.existing().nodes]
        time.sleep(5.0)
        before = [cpu_s(pid) for pid in pids]
        time.sleep(arguments.seconds)
        shares = [(cpu_s(pid) - start) / arguments.seconds for pid, start in zip(pids, before, strict=True)]
        memory = [rss_mib(pid) for pid in pids]
    return {
        "measure": "idle",
        "nodes": arguments.nodes,
        "cpu_percent_each": [round(share * 100, 2) for share in shares],
        "rss_mib_each": [round(size, 1) for size in memory],
    }


async def get_json(session: aiohttp.ClientSession, url: str) -> object:
    """Return a JSON answer, or None if there is none within a second."""
    try:
        async with session.get(url, timeout=aiohttp.ClientTimeout(total=1.0)) as response:
            return await response.json()
    except (aiohttp.ClientError, TimeoutError, OSError):
        return None


async def wait_dead(session: aiohttp.ClientSession, url: str, victim: str, since: float) -> float:
    """Return how long after ``since`` a survivor called the victim dead."""
    while time.monotonic() < since + 30.0:
        answer = await get_json(session, f"{url}/v1/cluster/members")
        if isinstance(answer, dict):
            for member in answer["members"]:
                if member["name"] == victim and member["state"] == "dead":
                    return time.monotonic() - since
        await asyncio.sleep(0.02)
    return 30.0


async def wait_written(session: aiohttp.ClientSession, urls: list[str], user: str, since: float) -> float:
    """Return how long after ``since`` a write that began after it was acknowledged."""
    for number in range(10_000):
        url = urls[number % len(urls)]
        try:
            async with session.put(
                f"{url}/v1/users/{user}/docs/bench",
                data=b"x" * 64,
                headers={"Ringkeep-Timeout": "20"},
                timeout=aiohttp.ClientTimeout(total=25.0),
            ) as response:
                if response.status < 300:
                    return time.monotonic() - since
        except (aiohttp.ClientError, TimeoutError, OSError):
            pass
        await asyncio.sleep(0.01)
    return 100.0


async def users_of(session: aiohttp.ClientSession, url: str, victim: str, wanted: int) -> list[str]:
    """Return users whose primary is the victim, on different shards."""
    users, shards = [], set()
    for number in range(2000):
        answer = await get_json(session, f"{url}/v1/users/probe{number}/route")
        if isinstance(answer, dict) and answer["primary"]["name"] == victim and answer["shard"] not in shards:
            shards.add(answer["shard"])
            users.append(f"probe{number}")
        if len(users) == wanted:
            break
    return users


async def wait_full(session: aiohttp.ClientSession, url: str, copies: int) -> float:
    """Return the seconds until every shard has all copies in sync and every member is alive."""
    started = time.monotonic()
    while time.monotonic() < started + 120.0:
        shard_map = await get_json(session, f"{url}/v1/cluster/map")
        members = await get_json(session, f"{url}/v1/cluster/members")
        if (
            isinstance(shard_map, dict)
            and isinstance(members, dict)
            and all(len(shard["in_sync"]) == copies for shard in shard_map["shards"])
            and all(member["state"] == "alive" for member in members["members"])
        ):
            return time.monotonic() - started
        await asyncio.sleep(0.2)
    raise TimeoutError("the cluster did not come back to full strength within 120 s")


async def one_kill(
    session: aiohttp.ClientSession, local: LocalCluster, victim: str
) -> tuple[list[float], list[float], float]:
    """Kill a node; return detection times, recovery times of some of its shards, and the time back to full."""
    nodes = local.directory.existing().nodes
    urls = [node.url for node in nodes if node.name != victim]
    users = await users_of(session, urls[0], victim, 4)
    since = time.monotonic()
    local.kill(victim)
    dead = asyncio.gather(*(wait_dead(session, url, victim, since) for url in urls))
    written = asyncio.gather(*(wait_written(session, urls, user, since) for user in users))
    detected, recovered = await dead, await written
    await local.restart(victim)
    full_s = await wait_full(session, urls[0], min(3, len(nodes)))
    return list(detected), list(recovered), full_s


async def kill_in_turn(local: LocalCluster, kills: int) -> dict[str, object]:
    """Kill every node in turn, ``kills`` times in all."""
    detected: list[float] = []
    recovered: list[float] = []
    full: list[float] = []
    async with aiohttp.ClientSession() as session:
        names = [node.name for node in local.directory.existing().nodes]
        for number in range(kills):
            victim = names[number % len(names)]
            dead, written, full_s = await one_kill(session, local, victim)
            detected += dead
            recovered += written
            full.append(full_s)
            print(f"kill {number + 1}/{kills} of {victim}: dead {max(dead):.2f} s", file=sys.stderr)
    return {"detected_s": summary(detected), "written_s": summary(recovered), "full_again_s": summary(full)}


def measure_failover(arguments: argparse.Namespace) -> dict[str, object]:
    """kill -9 of each node in turn: dead at every survivor, writes on its shards again, full strength again."""
    with cluster(arguments.nodes) as (local, _):
        result = asyncio.run(kill_in_turn(local, arguments.runs))
    return {"measure": "failover", "nodes": arguments.nodes, **result}


def load_command(load: str, target: str, operation: str, endpoints: str, seconds: int, direct: bool) -> list[str]:
    """Return how the load program is called."""
    command = [load, "-target", target, "-op", operation, "-e", endpoints, "-c", "64", "-d", f"{seconds}s"]
    return [*command, "-direct"] if direct else command


def run_load(load: str, target: str, operation: str, endpoints: str, seconds: int, direct: bool) -> float:
    """Run the load program once; return operations per second."""
    command = load_command(load, target, operation, endpoints, seconds, direct)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    print(done.stdout.strip(), file=sys.stderr)
    return float(answer["per_second"])


def measure_throughput(arguments: argparse.Namespace) -> dict[str, object]:
    """Puts and gets a second through any node and straight to the primary; ratios to a peer when one is given."""
    result: dict[str, object] = {"measure": "throughput", "clients": 64}
    with cluster(3) as (local, _):
        urls = ",".join(node.url for node in local.directory.existing().nodes)
        for operation in ("put", "get"):
            for direct in (False, True):
                rates, ratios = [], []
                for _ in range(arguments.runs):
                    rate = run_load(arguments.load, "ringkeep", operation, urls, arguments.seconds, direct)
                    rates.append(rate)
                    if arguments.etcd:
                        peer = run_load(arguments.load, "etcd", operation, arguments.etcd, arguments.seconds, False)
                        ratios.append(rate / peer)
                name = f"{operation}_{'primary' if direct else 'any'}"
                result[name] = round(statistics.median(rates))
                if ratios:
                    result[f"{name}_ratio"] = round(statistics.median(ratios), 2)
    return result


def thread_us(pid: int) -> tuple[float, float]:
    """Return the microseconds that a process spent in its event loop's thread, and in all its other threads (Linux)."""
    loop = other = 0.0
    for task in Path(f"/proc/{pid}/task").iterdir():
        used = int((task / "schedstat").read_text(encoding="ascii").split()[0]) / 1000
        if task.name == str(pid):
            loop = used
        else:
            other += used
    return loop, other


async def counted(urls: list[str], metric: str) -> float:
    """Return the sum of a counter over the nodes, all its labels together."""
    total = 0.0
    async with aiohttp.ClientSession() as session:
        for url in urls:
            async with session.get(f"{url}/metrics") as response:
                lines = (await response.text()).splitlines()
            total += sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{metric}_total"))
    return total


def one_cost(arguments: argparse.Namespace, local: LocalCluster, operation: str, direct: bool) -> dict[str, float]:
    """Return the CPU time per request, summed over the nodes, while 64 clients ask."""
    nodes = local.directory.existing().nodes
    urls = [node.url for node in nodes]
    metric = f"ringkeep_node_{'writes_committed' if operation == 'put' else 'reads_answered'}"
    command = load_command(arguments.load, "ringkeep", operation, ",".join(urls), arguments.seconds + 4, direct)
    before = asyncio.run(counted(urls, metric))
    with subprocess.Popen([*command, "-warmup", "0s"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as load:
        # What gets read is written first.
        while asyncio.run(counted(urls, metric)) == before:
            time.sleep(0.1)
        time.sleep(2.0)
        first, before = [thread_us(node.pid) for node in nodes], asyncio.run(counted(urls, metric))
        started = time.monotonic()
        time.sleep(arguments.seconds)
        last, done = [thread_us(node.pid) for node in nodes], asyncio.run(counted(urls, metric)) - before
        took_s = time.monotonic() - started
        load.communicate(timeout=60)
    loop_us = sum(now[0] - then[0] for now, then in zip(last, first, strict=True)) / done
    others_us = sum(now[1] - then[1] for now, then in zip(last, first, strict=True)) / done
    return {
        "us": round(loop_us + others_us, 1),
        "loop_us": round(loop_us, 1),
        "threads_us": round(others_us, 1),
        "per_s": round(done / took_s),
    }


def measure_cost(arguments: argparse.Namespace) -> dict[str, object]:
    """CPU microseconds per put and get, summed over three nodes, through any node and straight to the primary."""
    result: dict[str, object] = {"measure": "cost", "clients": 64}
    with cluster(3) as (local, _):
        for operation in arguments.operations.split(","):
            for direct in (False, True):
                runs = [one_cost(arguments, local, operation, direct) for _ in range(arguments.runs)]
                name = f"{operation}_{'primary' if direct else 'any'}"
                result[name] = sorted(runs, key=lambda run: run["us"])[len(runs) // 2]
                print(name, [run["us"] for run in runs], result[name], file=sys.stderr)
    return result


def main() -> None:
    """Run one measurement and print it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("measure", choices=("startup", "idle", "failover", "throughput", "cost"))
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--operations", default="put,get", help="what cost measures")
    parser.add_argument("--load", default=os.environ.get("RINGKEEP_LOAD", ""))
    parser.add_argument("--etcd", default="", help="client endpoints of a three-node etcd on this machine")
    arguments = parser.parse_args()
    measures = {
        "startup": measure_startup,
        "idle": measure_idle,
        "failover": measure_failover,
        "throughput": measure_throughput,
        "cost": measure_cost,
    }
    if arguments.measure in ("throughput", "cost") and not arguments.load:
        parser.error(f"{arguments.measure} needs a load program: --load PATH or RINGKEEP_LOAD")
    print(json.dumps(measures[arguments.measure](arguments)))


if __name__ == "__main__":
    main()
