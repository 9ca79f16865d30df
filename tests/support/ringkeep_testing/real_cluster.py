"""Clusters of real node processes on loopback, for tests: started, signalled and ended by pid.

    make ---up---> all serve ---kill, stop, resume, restart, empty---> ... ---close---> no process is left

``RealCluster`` is the launcher that people use, with what people must not do: crashes, pauses, an emptied directory.
Every node dies with the process that started it (Linux), so that not even a killed test run leaves anything behind.
Nothing here asserts a time: limits only end a test that hangs.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

from ringkeep.answers import ImportResult, ShardMap
from ringkeep.async_client import AsyncClient
from ringkeep.errors import RingkeepError
from ringkeep.launcher import ClusterRecord, LocalCluster, NodeRecord, local
from ringkeep.launcher.local import NODE_COMMAND
from ringkeep.launcher.ports import next_free
from ringkeep.launcher.processes import send_signal, wait_gone
from ringkeep_core.hashing import shard_of

T = TypeVar("T")

LIMIT_S = 60.0
"""When a test is ended that waits for something that never comes."""
POLL_S = 0.05
HOST = "127.0.0.1"
PORTS_FIRST = 10_000
PORTS_OF_EACH_RUN = 400

_DIE_WITH_PARENT = (
    "import ctypes, os, signal, sys\n"
    "if sys.platform == 'linux': ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))\n"
    "os.execv(sys.argv[1], sys.argv[1:])"
)
MORTAL_NODE: tuple[str, ...] = (sys.executable, "-S", "-P", "-c", _DIE_WITH_PARENT, *NODE_COMMAND)
"""The command of a node that ends when the process that started it ends."""


def mortal(command: Sequence[str]) -> tuple[str, ...]:
    """Return the command of any program that ends when the process that starts it ends."""
    return (sys.executable, "-S", "-P", "-c", _DIE_WITH_PARENT, *command)


def own_ports() -> tuple[int, int]:
    """Return where this test process looks for API and peer ports: nobody else may take those of a killed node."""
    first = PORTS_FIRST + os.getpid() % 50 * PORTS_OF_EACH_RUN
    return first, first + PORTS_OF_EACH_RUN // 2


def run(work: Coroutine[Any, Any, T], *, limit_s: float = 2 * LIMIT_S) -> T:
    """Run a test's coroutine and end it if it hangs."""
    return asyncio.run(asyncio.wait_for(work, limit_s))


class RealCluster:
    """The cluster of one directory. Close it, whatever happens."""

    def __init__(self, path: Path) -> None:
        for setting, port in zip(("API_PORT_FIRST", "PEER_PORT_FIRST"), own_ports(), strict=True):
            setattr(local, setting, port)
        self.launcher = LocalCluster(path, node_command=MORTAL_NODE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def up(
        self, nodes: int | None = None, *, shards: int | None = None, min_in_sync: int | None = None
    ) -> ClusterRecord:
        """Make the cluster, or start what is down of it; return when it takes writes."""
        return await self.launcher.up(nodes, shards=shards, min_in_sync=min_in_sync)

    def close(self) -> None:
        """End every process, also the paused ones, and wait for each."""
        record = self.launcher.directory.read()
        for node in record.nodes if record is not None else ():
            send_signal(node.process, signal.SIGKILL)
            assert wait_gone(node.process, limit_s=LIMIT_S), f"{node.name} does not end"

    # -- what there is -----------------------------------------------------------------------------------------

    @property
    def record(self) -> ClusterRecord:
        """What the launcher has written down."""
        return self.launcher.directory.existing()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all nodes."""
        return tuple(node.name for node in self.record.nodes)

    def node(self, name: str) -> NodeRecord:
        """Return what is written down of a node."""
        return self.record.node(name)

    def urls(self, *, without: Iterable[str] = ()) -> list[str]:
        """Return the addresses of the nodes that are not named in ``without``."""
        left_out = set(without)
        return [node.url for node in self.record.nodes if node.name not in left_out]

    def client(self, *names: str, direct: bool = True, timeout_s: float = LIMIT_S) -> AsyncClient:
        """Return a client that knows these nodes (all if none is named)."""
        urls = [self.node(name).url for name in names] if names else self.urls()
        return AsyncClient(urls, direct=direct, timeout_s=timeout_s)

    def gateway(self, name: str, *, timeout_s: float = LIMIT_S) -> AsyncClient:
        """Return a client that sends everything to one node."""
        return self.client(name, direct=False, timeout_s=timeout_s)

    def log_lines(self, name: str) -> list[dict[str, Any]]:
        """Return every line that a node has logged in all its starts."""
        lines = self.launcher.directory.log(name).read_bytes().splitlines()
        return [msgspec.json.decode(line, type=dict[str, Any]) for line in lines]

    async def error_lines(self) -> list[dict[str, Any]]:
        """Return what any node has logged as an error."""
        return [line for name in self.names for line in self.log_lines(name) if line["level"] == "error"]

    async def events(self, name: str) -> list[dict[str, Any]]:
        """Return what a node remembers that happened."""
        async with self.gateway(name) as client:
            decoded: dict[str, list[dict[str, Any]]] = msgspec.json.decode(await client.read("/v1/cluster/events"))
        return decoded["events"]

    async def serves(self) -> None:
        """Write and read through every node; fail if that cannot be done."""
        for name in self.names:
            async with self.gateway(name) as client:
                written = await client.put("serves", name, name)
                found = await client.get("serves", name)

            assert (found.value, found.version) == (name.encode(), written.version)

    # -- what is done to it ------------------------------------------------------------------------------------

    def kill(self, *names: str) -> None:
        """End nodes at once (SIGKILL), all before the first is waited for."""
        for name in names:
            assert send_signal(self.node(name).process, signal.SIGKILL), f"{name} does not run"
        for name in names:
            assert wait_gone(self.node(name).process, limit_s=LIMIT_S), f"{name} does not end"

    def pause(self, name: str) -> None:
        """Stop a node's clock (SIGSTOP)."""
        assert send_signal(self.node(name).process, signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Let a paused node go on (SIGCONT)."""
        assert send_signal(self.node(name).process, signal.SIGCONT)

    async def restart(self, name: str) -> None:
        """Start a node, ending it politely first if it runs (SIGTERM); return when it is ready."""
        await self.launcher.restart(name)

    def start(self, name: str) -> None:
        """Start a node that is down, and do not wait for it."""
        self.launcher._start(self.record, [name])

    def empty(self, name: str) -> None:
        """Delete all data of a node that is down."""
        shutil.rmtree(self.launcher.directory.data(name))

    async def without_cluster(self, nodes: int) -> list[dict[str, str]]:
        """Start nodes that belong to no cluster; return them as the members of a bootstrap."""
        with self.launcher.directory.locked(create=True):
            record = self.launcher._new_record(nodes, {})
            record = self.launcher._start(record, [node.name for node in record.nodes])
        members = await self.launcher._answering(record)
        return [
            {"name": node.name, "storage_id": member.storage_id, "peer": node.peer}
            for node, member in zip(record.nodes, members, strict=True)
        ]

    # -- what is waited for ------------------------------------------------------------------------------------

    async def settled(self, *, at: str | None = None, copies: int | None = None) -> ShardMap:
        """Return the map once no copy is missing: every shard has ``copies`` in sync and nobody learns."""
        record = self.record
        wanted = min(record.replication_factor, len(record.nodes)) if copies is None else copies

        async def ask(client: AsyncClient) -> ShardMap | None:
            shard_map = await client.map(timeout_s=2.0)
            full = all(len(shard.in_sync) == wanted and not shard.learners for shard in shard_map.shards)
            return shard_map if full else None

        async with self.client(*((at,) if at else ()), direct=False) as client:
            return await until(lambda: ask(client), f"{wanted} copies of every shard are in sync")

    async def left_in_sync(self, name: str, *, at: str) -> ShardMap:
        """Return the map of node ``at`` once ``name`` leads nothing and is in no in_sync."""

        async def ask(client: AsyncClient) -> ShardMap | None:
            shard_map = await client.map(timeout_s=2.0)
            return None if any(holds(shard_map, name)) else shard_map

        async with self.gateway(at) as client:
            return await until(lambda: ask(client), f"{name} is in no in_sync")

    async def leader(self, *, without: str = "") -> str:
        """Return the name of the Raft leader that every node names, other than ``without``."""

        async def ask() -> str | None:
            names = set()
            for node in self.record.nodes:
                if node.name != without:
                    async with self.gateway(node.name) as client:
                        names.add((await client.leader(timeout_s=2.0)).name)
            leader = names.pop() if len(names) == 1 else None
            return leader if leader != without else None

        return await until(ask, "all nodes agree on a leader")


def holds(shard_map: ShardMap, name: str) -> list[bool]:
    """Return for each shard whether a node leads it or is in its in_sync."""
    return [
        (shard.primary is not None and shard.primary.name == name) or any(copy.name == name for copy in shard.in_sync)
        for shard in shard_map.shards
    ]


async def until(ask: Callable[[], Awaitable[T | None]], what: str, *, limit_s: float = LIMIT_S) -> T:
    """Ask again and again until there is an answer; fail with what was waited for."""
    loop = asyncio.get_running_loop()
    deadline, last = loop.time() + limit_s, ""
    while loop.time() < deadline:
        try:
            if (answer := await ask()) is not None:
                return answer
        except RingkeepError as error:
            last = f" (last: {error.code}: {error})"
        await asyncio.sleep(POLL_S)
    raise AssertionError(f"not within {limit_s:.0f} s: {what}{last}")


def users_led_by(shard_map: ShardMap, name: str, count: int) -> list[str]:
    """Return made-up users whose shards' primary is ``name``."""
    led = {shard.shard for shard in shard_map.shards if shard.primary is not None and shard.primary.name == name}
    assert led, f"{name} leads nothing"
    users: list[str] = []
    number = 0
    while len(users) < count:
        number += 1
        if shard_of(f"user-{number}", len(shard_map.shards)) in led:
            users.append(f"user-{number}")
    return users


async def local_documents(client: AsyncClient, user: str) -> dict[str, tuple[int, str]]:
    """Return what the copy of the node behind ``client`` holds of a user: version and value of each key, as they are."""
    found: dict[str, tuple[int, str]] = {}
    after = ""
    while True:
        query = f"?consistency=local&values=true&limit=1000&after={after}"
        page = msgspec.json.decode(await client.read(f"/v1/users/{user}/docs{query}"), type=dict[str, Any])
        found |= {row["key"]: (row["version"], str(row.get("value", row.get("value_b64")))) for row in page["docs"]}
        if page["next"] is None:
            return found
        after = page["next"]


async def equal_copies(cluster: RealCluster, users: Sequence[str]) -> dict[str, dict[str, tuple[int, str]]]:
    """Return every user's documents once the copies of all nodes hold the same ones (every node has every copy)."""

    async def of(name: str) -> dict[str, dict[str, tuple[int, str]]]:
        async with cluster.gateway(name) as client:
            return {user: await local_documents(client, user) for user in users}

    async def ask() -> dict[str, dict[str, tuple[int, str]]] | None:
        first, *others = [await of(name) for name in cluster.names]
        return first if all(other == first for other in others) else None

    return await until(ask, "the copies of all nodes are equal")


def import_lines(count: int, users: int) -> list[bytes]:
    """Return ``count`` lines for an import, spread over so many users; every key of a user is another one."""
    return [
        b'{"user":"flyer-%d","key":"%06d","value":{"number":%d},"content_type":"application/json"}'
        % (number % users, number, number)
        for number in range(count)
    ]


async def imported(client: AsyncClient, lines: Sequence[bytes], *, after_lines: int, then: Callable[[], None]) -> Any:
    """Import the lines and call ``then`` once, when so many of them are settled."""
    waiting = [then]

    def on_progress(result: ImportResult) -> None:
        if waiting and result.stored >= after_lines:
            waiting.pop()()

    result = await client.import_lines(list(lines), on_progress=on_progress)

    assert not waiting, "the import was over before anything happened to it"
    return result


# -- one node alone ------------------------------------------------------------------------------------------------


class Ended(msgspec.Struct, frozen=True):
    """A node process that has ended: its exit code, what it said to people, and its log."""

    code: int
    said: str
    log: tuple[dict[str, Any], ...]

    @property
    def refusal(self) -> tuple[str, str]:
        """The stable code and the sentence of the line in which it says why it did not start."""
        lines = [line for line in self.log if line["event"] == "start_refused"]
        assert len(lines) == 1, self.log
        return lines[0]["error_code"], lines[0]["reason"]


def node_environment(name: str, data: Path, **variables: str) -> dict[str, str]:
    """Return the environment of a node with ports of its own; ``variables`` are named without RINGKEEP_."""
    api_first, peer_first = own_ports()
    api = next_free(api_first, set())
    environment = {variable: value for variable, value in os.environ.items() if not variable.startswith("RINGKEEP_")}
    own = {
        "NAME": name,
        "DATA": str(data),
        "API": f"{HOST}:{api}",
        "PEER": f"{HOST}:{next_free(peer_first, {api})}",
        **variables,
    }
    return environment | {f"RINGKEEP_{variable}": value for variable, value in own.items()}


def refused_start(environment: Mapping[str, str]) -> Ended:
    """Start a node that should refuse to, and return how it ended."""
    done = subprocess.run(
        MORTAL_NODE, env=dict(environment), capture_output=True, timeout=LIMIT_S, check=False, stdin=subprocess.DEVNULL
    )
    lines = tuple(msgspec.json.decode(line, type=dict[str, Any]) for line in done.stdout.splitlines())
    return Ended(done.returncode, done.stderr.decode(), lines)
