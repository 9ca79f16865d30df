"""The node processes of a local cluster: where each listens, how it is started, ended and waited for."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from ringkeep.async_client import AsyncClient
from ringkeep.errors import RingkeepError
from ringkeep.launcher.directory import ClusterDirectory, ClusterRecord, LauncherError, NodeRecord
from ringkeep.launcher.ports import HOST, is_free, next_free
from ringkeep.launcher.processes import end, start_detached
from ringkeep.retries import RetryPolicy

T = TypeVar("T")

POLL_S = 0.03
RECOVER_S = 120.0
# A starting node is asked often: the pause between two questions is what `up` takes longer than it must.
_POLICY = RetryPolicy(pause_max_s=0.05)


Say = Callable[[str], None]
"""Told in a few words what is being done."""


def quiet(text: str) -> None:
    """Say nothing."""
    del text


class Recovery(msgspec.Struct, frozen=True):
    """What a node said when it began a generation: its number, the map version it goes on from, and what is where.

    ``absent`` are the shards of which the node holds no complete copy.
    """

    generation: int
    former_version: int
    shards: int
    absent: tuple[int, ...]


class Nodes:
    """The processes of one directory. ``command`` is run for each node, with its settings in the environment."""

    def __init__(self, directory: ClusterDirectory, command: Sequence[str]) -> None:
        self._directory = directory
        self._command = tuple(command)

    def start(self, record: ClusterRecord, names: Sequence[str]) -> ClusterRecord:
        """Start nodes that are down; return the record with their processes, which is written down."""
        for name in names:
            node = record.node(name)
            for port in node.ports:
                if not is_free(port):
                    raise LauncherError(
                        f"port {port} of {name} is used by another program: end it, or use another --dir"
                    )
        for name in names:
            self._directory.data(name).mkdir(parents=True, exist_ok=True)
            process = start_detached(
                self._command, environment=self._environment(record, name), log=self._directory.log(name)
            )
            started = msgspec.structs.replace(record.node(name), pid=process.pid, started=process.started)
            record = record.with_node(started)
            # Written after each start: whatever happens next, `down` finds every process.
            self._directory.write(record)
        return record

    def recover(self, record: ClusterRecord, name: str, present: Sequence[str]) -> Recovery:
        """Begin the next generation on the disk of a node that is down. ``present`` are storage ids whose disks are there.

        What it says goes to the node's log, as everything that the node says.
        """
        done = subprocess.run(
            [*self._command, "recover", *present],
            env=self._environment(record, name),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=RECOVER_S,
        )
        with self._directory.log(name).open("a") as log:
            log.write(done.stdout)
        if done.returncode == 0:
            for line in reversed(done.stdout.splitlines()):
                if '"generation_begun"' in line:
                    return msgspec.json.decode(line, type=Recovery)
        raise LauncherError(f"{name} cannot begin a new generation: {last_words(done.stdout)}")

    def end(self, nodes: Sequence[NodeRecord], *, grace_s: float) -> None:
        """End nodes politely, and kill after ``grace_s`` those that did not."""
        left = end([node.process for node in nodes], grace_s=grace_s)
        if left:
            pids = ", ".join(str(process.pid) for process in left)
            raise LauncherError(f"process {pids} does not end even when killed: its disk may hang")

    async def until(
        self, node: NodeRecord, ask: Callable[[AsyncClient], Awaitable[T | None]], *, limit_s: float, what: str
    ) -> T:
        """Ask a node again and again until it gives an answer; raise if its process ends or the time is up."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit_s
        last: RingkeepError | None = None
        async with client_of(node) as client:
            while loop.time() < deadline:
                try:
                    if (answer := await ask(client)) is not None:
                        return answer
                except RingkeepError as error:
                    last = error
                self.check_running(node)
                await asyncio.sleep(POLL_S)
        raise LauncherError(
            f"{node.name} did not {what} within {limit_s:.0f} s ({last}): see {self._directory.log(node.name)}"
        )

    async def ready(self, node: NodeRecord, cluster_id: str, *, limit_s: float) -> None:
        """Wait until a node of this cluster says that it is ready: another program may have got its port first."""

        async def ask(client: AsyncClient) -> bool | None:
            await client.read("/readyz", timeout_s=1.0)
            told = msgspec.json.decode(await client.read("/v1/cluster", timeout_s=1.0))
            return True if (told.get("node"), told.get("cluster_id")) == (node.name, cluster_id) else None

        await self.until(node, ask, limit_s=limit_s, what="become ready")

    def check_running(self, node: NodeRecord) -> None:
        """Raise ``LauncherError`` with its last words if the node's process has ended."""
        if not node.is_running:
            log = self._directory.log(node.name)
            raise LauncherError(f"{node.name} ended while starting: {last_words(log_tail(log))} (its log is {log})")

    def _environment(self, record: ClusterRecord, name: str) -> dict[str, str]:
        node = record.node(name)
        return {
            "RINGKEEP_ZONE": "",
            "RINGKEEP_WEIGHT": "1",
            **os.environ,
            "RINGKEEP_NAME": name,
            "RINGKEEP_DATA": str(self._directory.data(name).resolve()),
            "RINGKEEP_API": node.api,
            "RINGKEEP_PEER": node.peer,
            "RINGKEEP_ADVERTISE": node.peer,
            "RINGKEEP_SEEDS": ",".join(other.peer for other in record.nodes),
        }


def planned(names: Sequence[str], *, ports_first: tuple[int, int], taken: set[int]) -> tuple[NodeRecord, ...]:
    """Return nodes with free ports from ``ports_first`` (REST, peers) on that are not ``taken``."""
    api_first, peer_first = ports_first
    nodes: list[NodeRecord] = []
    taken = set(taken)
    for name in names:
        api = next_free(api_first, taken)
        peer = next_free(peer_first, taken | {api})
        taken |= {api, peer}
        nodes.append(NodeRecord(name, f"http://{HOST}:{api}", f"{HOST}:{peer}"))
    return tuple(nodes)


def client_of(*nodes: NodeRecord, direct: bool = False, cluster_id: str = "") -> AsyncClient:
    """Return a client that knows these nodes; ``direct``: and may send to every other that the map names."""
    token = os.environ.get("RINGKEEP_ADMIN_TOKEN")
    urls = [node.url for node in nodes]
    return AsyncClient(urls, direct=direct, admin_token=token, policy=_POLICY, cluster_id=cluster_id or None)


def log_tail(path: Path, *, lines: int = 3, bytes_max: int = 4096) -> str:
    """Return the last lines of a node's log, or an empty text."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - bytes_max))
            text = log.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(text.strip().splitlines()[-lines:])


def last_words(tail: str) -> str:
    """Return what the end of a log says to people: the reason in its last JSON line, else its last line as it is."""
    lines = tail.splitlines()
    for line in reversed(lines):
        try:
            told = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeError):
            continue
        if isinstance(told, dict) and (words := told.get("reason") or told.get("event")):
            return str(words)
    return lines[-1] if lines else "it said nothing"
