"""Scale a local cluster: who is started, who leaves, in which order, so that it can be interrupted anywhere.

    plan -> (refused? nothing is changed) -> records, processes -> joining -> wanted -> moved -> leave -> stop -> delete

What cannot be seen in the cluster is written down before it is done: new nodes are in ``cluster.json`` before they are
started, and those that go are named in ``removing``, with their storage ids, before they are drained. Data is deleted
only after the cluster has let the node go, which is the proof that it holds nothing: that its storage id is among those
that have left, or the answer to its leaving. That somebody does not know the node is none: its map may be old.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from contextlib import suppress

import msgspec

from ringkeep.async_client import AsyncClient
from ringkeep.errors import Conflict, NotFound
from ringkeep.launcher.directory import ClusterDirectory, ClusterRecord, LauncherError, NodeRecord
from ringkeep.launcher.nodes import Nodes, Say, client_of, planned
from ringkeep.membership import (
    Choice,
    Impossible,
    Told,
    change_wanted,
    choose,
    leave,
    reason_of,
    taking_part,
    until_draining,
    until_listed,
    until_moved,
)

JOIN_S = 30.0
LEAVE_GRACE_S = 15.0
DRAIN_SEEN_S = 15.0
"""A drain that the cluster has accepted is known to every node after so long."""


class Scaling:
    """Scales the cluster of a directory that the caller has locked."""

    def __init__(self, directory: ClusterDirectory, nodes: Nodes, *, ports_first: tuple[int, int]) -> None:
        self._directory = directory
        self._nodes = nodes
        self._ports_first = ports_first

    async def to(self, count: int, *, say: Say, told: Told) -> ClusterRecord:
        """Have ``count`` nodes take part; see ``LocalCluster.scale``."""
        record = self._existing()
        running = [node for node in record.nodes if node.is_running]
        if not running:
            raise LauncherError(f"no node in {self._directory.path} is running: start them with `ringkeep up`")
        async with client_of(*running, direct=True, cluster_id=record.cluster_id) as client:
            members = (await client.wanted())["members"]
            shard_map = await client.map()
            listed = {member.name: member.storage_id for member in shard_map.members}
            left = {name for name in record.removing if shard_map.has_left(name, record.storages.get(name, ""))}
            draining = {name for name, one in members.items() if one["draining"]}
            choice = choose(
                [node.name for node in record.nodes], count, draining=draining | set(record.removing), left=left
            )
            is_settled = not choice.coming and not choice.going and set(choice.staying) <= members.keys() - draining
            if is_settled and (await client.plan()).is_done:
                say("nothing to do")
                return record
            await self._check_possible(client, choice, members)
            record = await self._joined(client, record.wanted(members), choice, listed, say)
            record = record.wanted(choice.names)
            await self._moved(client, record, choice, members, say, told)
            for name in choice.going:
                record = await self._gone(client, record, name, say)
            return record

    async def let_go(self, name: str, *, say: Say) -> bytes | None:
        """Let a drained node leave, stop it and delete what it has on disk; return the cluster's answer."""
        record = self._existing()
        node = record.node(name)
        others = [other for other in record.nodes if other.is_running and other.name != name]
        async with client_of(*(others or [node]), direct=True, cluster_id=record.cluster_id) as client:
            if name not in record.removing:
                await until_draining(client, name, limit_s=DRAIN_SEEN_S)
            storage = (await client.map()).storage_of(name)
            record = record.removed([name], {name: storage}).wanted([name])
            _check_identified(record, [name])
            self._directory.write(record)
            answer = await leave(client, name, storage=record.storages[name])
        await self._dropped(record, name, say)
        return answer

    def _existing(self) -> ClusterRecord:
        record = self._directory.existing()
        if not record.cluster_id:
            raise LauncherError("this cluster is not complete: run `ringkeep up` first")
        return record

    async def _check_possible(self, client: AsyncClient, choice: Choice, members: Collection[str]) -> None:
        """Ask for the plan before anything is done: what is impossible is refused while nothing has changed."""
        others = (name for name in members if name not in choice.going and name not in choice.names)
        try:
            await client.what_if(members=(*choice.names, *others))
        except Conflict as error:
            count = len(choice.names)
            raise Impossible(f"cannot scale to {count}: {reason_of(error) or error}") from error

    async def _joined(
        self, client: AsyncClient, record: ClusterRecord, choice: Choice, listed: Mapping[str, str], say: Say
    ) -> ClusterRecord:
        """Start who is to come; return once the cluster knows them."""
        taken = {port for node in record.nodes for port in node.ports}
        fresh = planned(choice.coming, ports_first=self._ports_first, taken=taken)
        record = record.kept(choice.names).removed(choice.going, listed)
        _check_identified(record, choice.going)
        coming = (*record.fresh, *choice.coming)
        record = msgspec.structs.replace(record, nodes=(*record.nodes, *fresh), fresh=coming)
        self._directory.write(record)
        unlisted = [name for name in choice.names if name not in listed]
        down = [name for name in unlisted if not record.node(name).is_running]
        if down:
            say(f"starting {', '.join(down)}")
            record = self._nodes.start(record, down)
        if unlisted:
            say(f"waiting until the cluster knows {', '.join(unlisted)}")
            joining = [record.node(name) for name in unlisted]
            await until_listed(client, unlisted, check=lambda: self._check_running(joining), limit_s=JOIN_S)
        return record

    async def _moved(
        self,
        client: AsyncClient,
        record: ClusterRecord,
        choice: Choice,
        members: Collection[str],
        say: Say,
        told: Told,
    ) -> None:
        """Say who takes part, and wait until the data lies where it should."""
        self._directory.write(record)  # From now on nobody who takes part is fresh.
        revision = await change_wanted(client, lambda present: taking_part(present, choice.names, choice.going))
        new = [record.node(name) for name in choice.names if name not in members]
        say(f"moving copies to {', '.join(node.name for node in new)}" if new else "moving copies")
        await until_moved(
            client,
            revision=revision,
            # A node that runs and is not alive yet is one for which the leader plans nothing.
            present=lambda: [name for name in choice.names if record.node(name).is_running],
            empty=choice.going,
            told=told,
            check=lambda: self._check_running(new),
        )
        for name in choice.names:
            if not record.node(name).is_running:
                say(f"{name} is down: its copies stay its own until it is back, or has been away for too long")

    async def _gone(self, client: AsyncClient, record: ClusterRecord, name: str, say: Say) -> ClusterRecord:
        """Let a node go. One that was never wanted holds nothing: it ends first, so that it cannot register again."""
        if name in record.fresh:
            await self._stopped(record.node(name), say)
            with suppress(NotFound):
                await leave(client, name, unknown_s=0.0)
            return await self._dropped(record, name, say)
        if record.node(name).is_running:
            say(f"{name} leaves")
        await leave(client, name, storage=record.storages[name])
        return await self._dropped(record, name, say)

    async def _dropped(self, record: ClusterRecord, name: str, say: Say) -> ClusterRecord:
        await self._stopped(record.node(name), say)
        return self._directory.forget(record, name)

    async def _stopped(self, node: NodeRecord, say: Say) -> None:
        if node.is_running:
            say(f"stopping {node.name}")
            await asyncio.to_thread(self._nodes.end, [node], grace_s=LEAVE_GRACE_S)

    def _check_running(self, nodes: Collection[NodeRecord]) -> None:
        for node in nodes:
            self._nodes.check_running(node)


def _check_identified(record: ClusterRecord, names: Collection[str]) -> None:
    """Refuse to remove a node whose storage id nobody told: it could not be seen to have left."""
    for name in names:
        if name not in record.storages and name not in record.fresh:
            raise LauncherError(f"the node that was asked does not know {name} (yet): try again, nothing was deleted")
