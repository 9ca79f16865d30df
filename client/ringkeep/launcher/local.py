"""A cluster on this machine: the plan that Kubernetes would carry out with pods, with processes instead.

    up:  write cluster.json -> start what is down -> every node answers -> bootstrap (once) -> a write is possible

"Possible" is shown and not assumed: a strict read through each primary, which needs its epoch-start record committed on
enough copies and a confirmation round, as a write does, and leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ringkeep.answers import Member, ShardMap
from ringkeep.async_client import AsyncClient
from ringkeep.errors import Conflict, NotFound, OutcomeUnknown, RingkeepError
from ringkeep.launcher.directory import ClusterDirectory, ClusterRecord, LauncherError, NodeRecord
from ringkeep.launcher.nodes import POLL_S, Nodes, Recovery, Say, client_of, planned, quiet
from ringkeep.launcher.ports import API_PORT_FIRST, PEER_PORT_FIRST
from ringkeep.launcher.processes import send_signal, wait_gone
from ringkeep.launcher.scaling import Scaling
from ringkeep.membership import Told, unheard
from ringkeep.retries import Ending, ending_of
from ringkeep_core.hashing import SHARDS_MAX, SHARDS_MIN, is_shard_count, shard_of

NODES_MAX = 32
REPLICATION_FACTOR_MAX = 7
START_S = 30.0
READY_S = 60.0
STOP_GRACE_S = 10.0
RESTART_GRACE_S = 20.0
"""A node that ends alone first hands over what it leads, which may take it ten seconds."""
# A key that nobody stores: reading it shows that a shard is served.
_PROBE_KEY = "ringkeep/is-it-there"

NODE_COMMAND = (sys.executable, "-P", "-m", "ringkeep_node")


class LocalCluster:
    """The cluster of one directory.

    ``node_command`` is what is run for each node, with the node's settings in its environment.
    """

    def __init__(self, path: Path, *, node_command: Sequence[str] = NODE_COMMAND) -> None:
        self.directory = ClusterDirectory(path)
        self._nodes = Nodes(self.directory, node_command)

    # -- orders ------------------------------------------------------------------------------------------------

    async def up(
        self,
        nodes: int | None = None,
        *,
        shards: int | None = None,
        replication_factor: int | None = None,
        min_in_sync: int | None = None,
        say: Say = quiet,
    ) -> ClusterRecord:
        """Make the cluster, or start what is down of an existing one; return once a first write is possible.

        Settings count only for a new cluster (3 nodes, 256 shards, replication factor 3, two in sync by default). For
        an existing one they must be left out or be the same.
        """
        with self.directory.locked(create=True):
            wished = {"shards": shards, "replication_factor": replication_factor, "min_in_sync": min_in_sync}
            record = self._planned(nodes, {name: value for name, value in wished.items() if value is not None})
            down = [node.name for node in record.nodes if not node.is_running]
            if down:
                say(f"starting {', '.join(down)}")
            record = self._start(record, down)
            say("waiting for the nodes to answer")
            members = await self._answering(_staying(record))
            if not record.cluster_id:
                say("making the cluster")
                record = await self._bootstrapped(record, members)
            say("waiting until a first write is possible")
            await self._serving(_staying(record))
            return record

    async def scale(self, nodes: int, *, say: Say = quiet, told: Told = unheard) -> ClusterRecord:
        """Have exactly so many nodes take part; return once the data lies where it should and who went is gone.

        Interrupted, it is finished by the same call, or taken back by one with another number.

        Raises:
            LauncherError: the number makes no sense, or a node does not start.
            Impossible: the cluster refuses it, with the reason; nothing was changed.
        """
        if not 1 <= nodes <= NODES_MAX:
            raise LauncherError(f"a local cluster has 1 to {NODES_MAX} nodes, not {nodes}")
        with self.directory.locked():
            return await self._scaling().to(nodes, say=say, told=told)

    async def let_go(self, name: str, *, say: Say = quiet) -> bytes | None:
        """Let a drained node leave the cluster, stop it and delete its data; return the cluster's answer."""
        with self.directory.locked():
            return await self._scaling().let_go(name, say=say)

    async def restart(self, name: str, *, say: Say = quiet) -> NodeRecord:
        """Start a node again, ending it first if it runs; return once it is ready."""
        with self.directory.locked():
            node = self.directory.existing().node(name)
            if node.is_running:
                say(f"stopping {name}")
                await asyncio.to_thread(self._nodes.end, [node], grace_s=RESTART_GRACE_S)
            say(f"starting {name}")
            record = self._start(self.directory.existing(), [name])
            say(f"waiting until {name} is ready")
            await self._nodes.ready(record.node(name), record.cluster_id, limit_s=READY_S)
            return record.node(name)

    async def recover(self, name: str, *, say: Say = quiet) -> Recovery:
        """Go on from one voter when the majority of the voters is lost for ever; return what that node knew.

        The node is stopped, begins the next generation on its disk, and is started again. Every other node must be down.
        Raises ``LauncherError`` if one runs, if the disks that are there are a majority, or if the node is no voter: then
        nothing was changed.
        """
        with self.directory.locked():
            record = self.directory.existing()
            node = record.node(name)
            others = [other.name for other in record.nodes if other.name != name]
            running = [other for other in others if record.node(other).is_running]
            if running:
                raise LauncherError(f"{', '.join(running)} still run: every node but {name} must be stopped first")
            if was_running := node.is_running:
                say(f"stopping {name}")
                await asyncio.to_thread(self._nodes.end, [node], grace_s=RESTART_GRACE_S)
            present = [storage for other in others if (storage := self.directory.storage(other))]
            say(f"beginning a new generation from {name}")
            try:
                begun = await asyncio.to_thread(self._nodes.recover, record, name, present)
            except LauncherError:
                if was_running:
                    self._start(record, [name])
                raise
            say(f"starting {name}")
            record = self._start(record, [name])
            await self._nodes.ready(record.node(name), record.cluster_id, limit_s=READY_S)
            return begun

    def kill(self, name: str) -> NodeRecord:
        """End a node at once and without a word to it (SIGKILL), as a crash would."""
        with self.directory.locked():
            node = self.directory.existing().node(name)
            if not send_signal(node.process, signal.SIGKILL):
                raise LauncherError(f"{name} is not running; start it with `ringkeep restart {name}`")
            wait_gone(node.process, limit_s=STOP_GRACE_S)
            return node

    def down(self, *, wipe: bool = False, grace_s: float = STOP_GRACE_S) -> list[str]:
        """End every node, politely at first; return the names of those that ran. ``wipe`` deletes the data as well."""
        with self.directory.locked():
            record = self.directory.existing()
            running = [node for node in record.nodes if node.is_running]
            self._nodes.end(running, grace_s=grace_s)
            if wipe:
                self.directory.wipe(record)
            return [node.name for node in running]

    def _scaling(self) -> Scaling:
        return Scaling(self.directory, self._nodes, ports_first=(API_PORT_FIRST, PEER_PORT_FIRST))

    # -- planning and starting ---------------------------------------------------------------------------------

    def _planned(self, nodes: int | None, wished: dict[str, int]) -> ClusterRecord:
        record = self.directory.read()
        if record is None:
            return self._new_record(3 if nodes is None else nodes, wished)
        if nodes is not None and nodes != len(record.nodes):
            raise LauncherError(
                f"{self.directory.path} holds a cluster of {len(record.nodes)} nodes: leave -n out, then use "
                f"`ringkeep scale {nodes}`"
            )
        for name, value in wished.items():
            if getattr(record, name) != value:
                raise LauncherError(
                    f"this cluster was made with {name.replace('_', ' ')} {getattr(record, name)}: leave the option "
                    f"out, or make a new cluster after `ringkeep down --wipe`"
                )
        return record

    def _new_record(self, nodes: int, wished: dict[str, int]) -> ClusterRecord:
        if not 1 <= nodes <= NODES_MAX:
            raise LauncherError(f"a local cluster has 1 to {NODES_MAX} nodes, not {nodes}")
        names = [f"n{number}" for number in range(1, nodes + 1)]
        fresh = planned(names, ports_first=(API_PORT_FIRST, PEER_PORT_FIRST), taken=set())
        leftovers = [node.name for node in fresh if self.directory.data(node.name).exists()]
        if leftovers:
            raise LauncherError(
                f"{self.directory.path} has data of {', '.join(leftovers)} but no cluster.json: delete the directory "
                f"or choose another with --dir"
            )
        record = msgspec.structs.replace(ClusterRecord(nodes=fresh), **wished)
        _check_settings(record)
        self.directory.write(record)
        return record

    def _start(self, record: ClusterRecord, names: Sequence[str]) -> ClusterRecord:
        return self._nodes.start(record, names)

    # -- waiting -----------------------------------------------------------------------------------------------

    async def _answering(self, record: ClusterRecord) -> list[Member]:
        """Return what each node says of itself, once every node answers."""
        return list(await asyncio.gather(*(self._own_member(node) for node in record.nodes)))

    async def _own_member(self, node: NodeRecord) -> Member:
        async def ask(client: AsyncClient) -> Member | None:
            members = await client.members(timeout_s=1.0)
            return next((member for member in members if member.name == node.name and member.storage_id), None)

        return await self._nodes.until(node, ask, limit_s=START_S, what="answer")

    async def _bootstrapped(self, record: ClusterRecord, members: Sequence[Member]) -> ClusterRecord:
        named = [
            {"name": node.name, "storage_id": member.storage_id, "peer": node.peer}
            for node, member in zip(record.nodes, members, strict=True)
        ]
        async with client_of(record.nodes[0]) as client:
            cluster_id = await _cluster_id(client, record, named)
        record = msgspec.structs.replace(record, cluster_id=cluster_id)
        self.directory.write(record)
        return record

    async def _serving(self, record: ClusterRecord) -> None:
        await asyncio.gather(*(self._nodes.ready(node, record.cluster_id, limit_s=READY_S) for node in record.nodes))
        async with client_of(*record.nodes) as client:
            shard_map = await client.map(timeout_s=READY_S)
            await asyncio.gather(*(_read_nothing(client, user) for user in one_user_of_each_primary(shard_map)))


def _staying(record: ClusterRecord) -> ClusterRecord:
    """Return the record without nodes on their way out: they are started, for they may hold data, but may have left."""
    return msgspec.structs.replace(
        record, nodes=tuple(node for node in record.nodes if node.name not in record.removing)
    )


def _check_settings(record: ClusterRecord) -> None:
    """Refuse before any process is started what every node would refuse afterwards."""
    if not is_shard_count(record.shards):
        raise LauncherError(f"--shards is a power of two from {SHARDS_MIN} to {SHARDS_MAX}, not {record.shards}")
    if not 1 <= record.replication_factor <= REPLICATION_FACTOR_MAX:
        raise LauncherError(f"--rf is 1 to {REPLICATION_FACTOR_MAX}, not {record.replication_factor}")
    if not 1 <= record.min_in_sync <= record.replication_factor:
        raise LauncherError(f"--min-in-sync is 1 to the replication factor, not {record.min_in_sync}")


def one_user_of_each_primary(shard_map: ShardMap) -> list[str]:
    """Return made-up users, one for each node that is primary of anything."""
    primary_of = {shard.shard: shard.primary.name for shard in shard_map.shards if shard.primary is not None}
    missing = set(primary_of.values())
    users: list[str] = []
    number = 0
    while missing and number < 64 * len(shard_map.shards):
        user = f"ringkeep-probe-{number}"
        name = primary_of.get(shard_of(user, len(shard_map.shards)))
        if name in missing:
            missing.discard(name)
            users.append(user)
        number += 1
    return users


async def _cluster_id(client: AsyncClient, record: ClusterRecord, members: Sequence[dict[str, str]]) -> str:
    """Make the cluster and return its id; also if an earlier ``up`` made it and could not write that down."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + START_S
    while True:
        try:
            return await client.bootstrap(
                members,
                shards=record.shards,
                replication_factor=record.replication_factor,
                min_in_sync=record.min_in_sync,
                timeout_s=START_S,
            )
        except (Conflict, OutcomeUnknown):
            return (await client.map(timeout_s=START_S)).cluster_id
        except RingkeepError as error:
            # Refused for now (the nodes may not have met yet): certainly nothing was made.
            if ending_of(error) is not Ending.REFUSED or loop.time() >= deadline:
                raise
        await asyncio.sleep(POLL_S)


async def _read_nothing(client: AsyncClient, user: str) -> None:
    try:
        await client.get(user, _PROBE_KEY, timeout_s=READY_S)
    except NotFound:
        return
