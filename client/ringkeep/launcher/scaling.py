"""Scale a local cluster: who is started, who leaves, in which order, so that it can be interrupted anywhere.

    plan -> (refused? nothing is changed) -> records, processes -> joining -> wanted -> moved -> leave -> stop -> delete

What cannot be seen in the cluster is written down before it is done: new nodes are in ``cluster.json`` before they are
started, and those that go are named in ``removing`` before they are drained. Data is deleted only after the cluster has
let the node go, which is the proof that it holds nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import msgspec

from ringkeep.async_client import AsyncClient
from ringkeep.errors import Conflict
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
    until_listed,
    until_moved,
)

JOIN_S = 30.0
LEAVE_GRACE_S = 15.0


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
        async with client_of(*running, direct=True) as client:
            members = (await client.wanted())["members"]
            listed = {member.name for member in (await client.map()).members}
            # A node that is being removed and that the map does not name any more has left for good.
            left = {name for name in record.removing if name not in listed}
            draining = {name for name, one in members.items() if one["draining"]}
            choice = choose(
                [node.name for node in record.nodes], count, draining=draining | set(record.removing), left=left
            )
            is_settled = not choice.coming and not choice.going and set(choice.staying) <= members.keys() - draining
            if is_settled and (await client.plan()).is_done:
                say("nothing to do")
                return record
            await self._check_possible(client, choice, members)
            record = await self._joined(client, record, choice, listed, say)
            await self._moved(client, record, choice, members, say, told)
            for name in choice.going:
                record = await self._gone(client, record, name, is_known=name in members, say=say)
            return record

    async def let_go(self, name: str, *, say: Say) -> bytes | None:
        """Let a drained node leave, stop it and delete what it has on disk; return the cluster's answer."""
        record = self._existing()
        node = record.node(name)
        record = msgspec.structs.replace(record, removing=tuple(dict.fromkeys((*record.removing, name))))
        self._directory.write(record)
        others = [other for other in record.nodes if other.is_running and other.name != name]
        async with client_of(*(others or [node]), direct=True) as client:
            answer = await leave(client, name)
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
        self, client: AsyncClient, record: ClusterRecord, choice: Choice, listed: Collection[str], say: Say
    ) -> ClusterRecord:
        """Start who is to come; return once the cluster knows them."""
        taken = {port for node in record.nodes for port in node.ports}
        fresh = planned(choice.coming, ports_first=self._ports_first, taken=taken)
        removing = tuple(name for name in record.removing if name not in choice.names)
        removing = tuple(dict.fromkeys((*removing, *choice.going)))
        record = msgspec.structs.replace(record, nodes=(*record.nodes, *fresh), removing=removing)
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

    async def _gone(
        self, client: AsyncClient, record: ClusterRecord, name: str, *, is_known: bool, say: Say
    ) -> ClusterRecord:
        """Let a node go. One that was never listed holds nothing: it ends first, so that it cannot register again."""
        if not is_known:
            await self._stopped(record.node(name), say)
        elif record.node(name).is_running:
            say(f"{name} leaves")
        await leave(client, name)
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
