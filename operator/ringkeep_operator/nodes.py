"""The nodes' REST interface, as far as the operator needs it: what they say of themselves and their cluster, and changes.

    pods --GET /v1/cluster, all at once--> who answers --the leader first, then whoever knows most--> map, members, plan
    map?wait_newer_than= ---> told at once when something moved

All but the question who a node is names the cluster that is meant, so a stranger that has got the address of a pod that is
gone refuses it (decision 0021). Any node answers for the cluster, so a question that one cannot answer goes to the next.
Pods are asked at their IP: names need a DNS that may be late by the time it matters. A refused change of the wanted state
is a value, not an error.

Source: node/ringkeep_node/http/{cluster,administration}.py, and /openapi.json of any node.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import aiohttp
import msgspec
from msgspec import Struct

from ringkeep_core.errors import RingkeepError
from ringkeep_core.shardmap import Copy, Member, MemberState, Primary, Shard, ShardMap, Wanted
from ringkeep_operator.failpoints import Reached, around, never
from ringkeep_operator.shards import counts_of
from ringkeep_operator.state import (
    Bootstrap,
    Leave,
    Refusal,
    SeenCluster,
    SeenMember,
    SeenNode,
    SeenPlan,
    SeenPod,
    SetWanted,
    TransferLeader,
)

API_PORT = 8080
ANSWER_S = 2.0
WHO_S = 1.0
"""A node that begins to hang delays one pass by so much, and with it whatever else there is to do."""
LATE_S = 0.2
"""And each later pass by so much: whoever did not answer last time is hardly waited for."""
LATE_KEPT_MAX = 1_000
CONNECT_S = 0.5
CHANGE_S = 10.0
POLL_S = 25.0
ANSWER_BYTES_MAX = 64 << 20
T = TypeVar("T")

_REFUSED = re.compile(r"([a-z_]+): (.*)", re.DOTALL)


class NodeError(RingkeepError):
    """A node refused a change. ``status`` is its HTTP status. Nothing was changed."""

    code = "node_refused"

    def __init__(self, detail: str = "", *, status: int = 0) -> None:
        super().__init__(detail)
        self.status = status


class NodeSilent(RingkeepError):
    """A node could not be asked, or did not answer in time. A change may or may not have been made: look again."""

    code = "node_silent"
    retryable = True


# --- shapes of answers -------------------------------------------------------------------------------------------


class _Summary(Struct, frozen=True):
    node: str
    storage_id: str = ""
    peer: str = ""
    url: str = ""
    has_left: bool = False
    cluster_id: str = ""
    version: int = 0
    leader: str | None = None


class _MapMember(Struct, frozen=True):
    name: str
    storage_id: str
    boot_id: str
    url: str = ""
    boot_counter: int = 0
    peer: str = ""
    zone: str = ""
    since: int = 0
    state: MemberState = MemberState.MEMBER


class _Primary(Struct, frozen=True):
    storage_id: str
    boot_id: str


class _Copy(Struct, frozen=True):
    storage_id: str
    added: int


class _Shard(Struct, frozen=True):
    epoch: int
    revision: int
    primary: _Primary
    in_sync: tuple[_Copy, ...]
    eligible: tuple[_Copy, ...]
    learners: tuple[_Copy, ...]
    need: int


class _Map(Struct, frozen=True):
    cluster_id: str
    version: int
    members: tuple[_MapMember, ...]
    wanted: Wanted
    shards: tuple[_Shard, ...]
    left: tuple[str, ...] = ()


class _Version(Struct, frozen=True):
    version: int


class _Accusation(Struct, frozen=True):
    by: str = ""
    why: str = ""


class _Member(Struct, frozen=True):
    name: str
    state: str
    storage_id: str
    boot_id: str = ""
    zone: str = ""
    weight: float = 1.0
    draining: bool = False
    copies: int = 0
    primaries: int = 0
    since: float = 0.0
    evidence: tuple[_Accusation, ...] = ()


class _Members(Struct, frozen=True):
    members: tuple[_Member, ...]


class _Leader(Struct, frozen=True):
    name: str | None = None
    term: int = 0


class _Running(Struct, frozen=True):
    copies: int = 0
    copies_done: int = 0
    waiting: tuple[str, ...] = ()


class _Plan(Struct, frozen=True):
    copies: int = 0
    primaries: int = 0
    bytes: int = 0
    opinion: str = "none"
    running: _Running | None = None


class _Problem(Struct, frozen=True):
    code: str = ""
    detail: str = ""


def map_from(data: bytes) -> ShardMap:
    """Return the map that a node's ``GET /v1/cluster/map`` shows. Raises ``msgspec.DecodeError``."""
    shown = msgspec.json.decode(data, type=_Map)
    members = {
        member.storage_id: Member(
            storage=member.storage_id,
            name=member.name,
            boot=member.boot_id,
            boot_counter=member.boot_counter,
            url=member.url,
            peer=member.peer,
            zone=member.zone,
            since=member.since,
            state=member.state,
        )
        for member in shown.members
    }
    shards = tuple([_shard_from(shard) for shard in shown.shards])
    return ShardMap(shown.cluster_id, shown.version, members, shown.wanted, shards, shown.left)


def _shard_from(shown: _Shard) -> Shard:
    return Shard(
        epoch=shown.epoch,
        revision=shown.revision,
        primary=Primary(shown.primary.storage_id, shown.primary.boot_id),
        in_sync=_copies_from(shown.in_sync),
        eligible=_copies_from(shown.eligible),
        learners=_copies_from(shown.learners),
        need=shown.need,
    )


def _copies_from(shown: tuple[_Copy, ...]) -> tuple[Copy, ...]:
    return tuple([Copy(copy.storage_id, copy.added) for copy in shown])


# --- asking ------------------------------------------------------------------------------------------------------


class Answering(Struct, frozen=True):
    """A node that answered: what it says of itself, where it was asked, and how much of the cluster it knows."""

    node: SeenNode
    base: str
    version: int
    leader: str


def pod_address(pod: SeenPod) -> str:
    """Return the base URL of the node in a pod, at the pod's IP."""
    host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
    return f"http://{host}:{API_PORT}"


class Nodes:
    """Asks nodes, and asks changes of them. ``address`` says where the node of a pod is."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        address: Callable[[SeenPod], str] = pod_address,
        reached: Reached = never,
        count: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._session, self._address, self._reached, self._count = session, address, reached, count
        self._late: dict[str, asyncio.Task[Answering | None]] = {}
        """The last question to each node that had not answered when a pass went on."""

    async def close(self) -> None:
        """End the questions that nobody waits for."""
        for task in self._late.values():
            task.cancel()
        await asyncio.gather(*self._late.values(), return_exceptions=True)

    async def answering(self, pods: Sequence[SeenPod]) -> tuple[Answering, ...]:
        """Ask every running pod who it is, all at once; return those that answered, whoever knows most first.

        A node that did not answer last time is waited for only shortly. The question goes on meanwhile: once it is
        answered, however late, the node is waited for again.
        """
        bases = {self._address(pod): pod.name for pod in pods if pod.ip and pod.phase == "Running"}
        found = await asyncio.gather(*(self._who_in_time(base) for base in sorted(bases)))
        # The address of a pod whose Node is gone may belong to another one by now, of another cluster.
        answers = [one for one in found if one is not None and one.node.name == bases[one.base]]
        leaders = {answer.leader for answer in answers} - {""}
        return tuple(sorted(answers, key=lambda one: (one.node.name not in leaders, -one.version, one.node.name)))

    async def _who_in_time(self, base: str) -> Answering | None:
        before = self._late.get(base)
        is_late = before is not None and not (before.done() and before.result() is not None)
        task = asyncio.create_task(self._who(base)) if before is None or before.done() else before
        if len(self._late) >= LATE_KEPT_MAX:  # Of pods that are gone: nobody asks for them any more.
            self._late = {one: kept for one, kept in self._late.items() if not kept.done()}
        self._late[base] = task
        await asyncio.wait([task], timeout=LATE_S if is_late else None)
        answer = task.result() if task.done() else None
        if answer is not None:
            del self._late[base]
        return answer

    async def _who(self, base: str) -> Answering | None:
        try:
            said = await self._get(f"{base}/v1/cluster", _Summary, timeout_s=WHO_S)
        except NodeSilent:
            return None
        node = SeenNode(
            name=said.node,
            storage_id=said.storage_id,
            peer=said.peer,
            url=said.url,
            cluster_id=said.cluster_id,
            has_left=said.has_left,
        )
        return Answering(node, base, said.version, said.leader or "")

    async def cluster(self, answering: Sequence[Answering], cluster_id: str) -> SeenCluster | None:
        """Return the cluster as the first of these nodes that can tell sees it; None if none can.

        ``cluster_id`` is the one that is meant, here and wherever a change is asked: "" while it is not known.
        """
        for one in answering:
            if not one.version or one.node.has_left:
                continue
            try:
                return await self._cluster_at(one.base, cluster_id)
            except NodeSilent:
                continue
        return None

    async def _cluster_at(self, base: str, cluster_id: str) -> SeenCluster:
        # The members are asked for after the map: none of them has died since without being counted.
        held = await self._map_at(base, cluster_id)
        members, leader, plan = await asyncio.gather(
            self._get(f"{base}/v1/cluster/members", _Members, cluster_id),
            self._get(f"{base}/v1/cluster/leader", _Leader, cluster_id),
            self._get(f"{base}/v1/cluster/plan", _Plan, cluster_id),
        )
        seen = tuple([_member(member, held.wanted) for member in members.members])
        counts = counts_of(held, seen)
        running = plan.running or _Running()
        return SeenCluster(
            shard_map=held,
            members=seen,
            leader=leader.name or "",
            term=leader.term if leader.name else 0,
            plan=SeenPlan(
                copies=plan.copies,
                primaries=plan.primaries,
                bytes=plan.bytes,
                copies_total=running.copies,
                copies_done=running.copies_done,
                opinion=plan.opinion,
                waiting=running.waiting,
            ),
            shards_ok=counts.ok,
            shards_moving=counts.moving,
            shards_under_replicated=counts.under_replicated,
            shards_unavailable=counts.unavailable,
        )

    async def _map_at(self, base: str, cluster_id: str) -> ShardMap:
        data = await self._read(f"{base}/v1/cluster/map", ANSWER_S, _meant(cluster_id))
        try:
            return map_from(data)
        except msgspec.DecodeError as error:
            raise NodeSilent(f"{base} sent no map: {error}") from error

    async def wait_newer_than(self, base: str, version: int, cluster_id: str, timeout_s: float = POLL_S) -> int:
        """Return the version of the node's map when it is newer than ``version`` or time is up. Raises ``NodeSilent``."""
        url = f"{base}/v1/cluster/map?wait_newer_than={version}"
        headers = {"Ringkeep-Timeout": f"{timeout_s:g}", **_meant(cluster_id)}
        data = await self._read(url, timeout_s + ANSWER_S, headers)
        try:
            return msgspec.json.decode(data, type=_Version).version
        except msgspec.DecodeError as error:
            raise NodeSilent(f"{base} sent no map: {error}") from error

    async def _get(self, url: str, type_: type[T], cluster_id: str = "", *, timeout_s: float = ANSWER_S) -> T:
        data = await self._read(url, timeout_s, _meant(cluster_id))
        try:
            return msgspec.json.decode(data, type=type_)
        except msgspec.DecodeError as error:
            raise NodeSilent(f"{url} sent something else than expected: {error}") from error

    async def _read(self, url: str, timeout_s: float, headers: Mapping[str, str]) -> bytes:
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=CONNECT_S)
        try:
            async with self._session.get(url, timeout=timeout, headers=headers, allow_redirects=False) as answer:
                data = await _body_of(answer)
                if answer.status != 200:
                    raise NodeSilent(f"{url} answered {answer.status}")
                return data
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NodeSilent(f"{url} did not answer: {str(error) or type(error).__name__}") from error

    # --- changes

    async def bootstrap(self, base: str, wish: Bootstrap, token: str) -> str:
        """Found the cluster; return its id. Raises ``NodeError`` if it exists already or a member cannot be asked."""
        body = {
            "members": [{"name": node.name, "storage_id": node.storage_id, "peer": node.peer} for node in wish.members],
            "shards": wish.shards,
            "replication_factor": wish.replication_factor,
            "min_in_sync": wish.min_in_sync,
        }
        said = await self._change("bootstrap", "POST", f"{base}/v1/cluster/bootstrap", body, token)
        return str(said.get("cluster_id", ""))

    async def set_wanted(self, base: str, wish: SetWanted, token: str, cluster_id: str) -> Refusal | None:
        """Change the wanted state; return why it was refused, or None if it was accepted.

        Raises ``NodeError`` with status 409 if somebody else changed it meanwhile: look again.
        """
        try:
            await self._change("set_wanted", "PUT", f"{base}/v1/cluster/wanted", dict(wish.body), token, cluster_id)
        except NodeError as error:
            refused = _REFUSED.fullmatch(error.detail)
            if error.status == 409 and refused is not None:
                return Refusal(wish.asked, refused[1], refused[2])
            if error.status == 400:
                return Refusal(wish.asked, "bad_request", error.detail)
            raise
        return None

    async def leave(self, base: str, wish: Leave, token: str, cluster_id: str) -> None:
        """Let a drained member go for good. Raises ``NodeError`` if it still holds something."""
        await self._change("leave", "POST", f"{base}/v1/cluster/members/{wish.name}/leave", {}, token, cluster_id)

    async def transfer_leader(self, base: str, wish: TransferLeader, token: str, cluster_id: str) -> None:
        """Have leadership handed over. Raises ``NodeError`` if that voter cannot lead."""
        url = f"{base}/v1/cluster/transfer-leader"
        await self._change("transfer_leader", "POST", url, {"to": wish.to}, token, cluster_id)

    async def _change(
        self, name: str, method: str, url: str, body: Mapping[str, object], token: str, cluster_id: str = ""
    ) -> dict[str, Any]:
        timeout = aiohttp.ClientTimeout(total=CHANGE_S + ANSWER_S, sock_connect=CONNECT_S)
        headers = {
            "Content-Type": "application/json",
            "Ringkeep-Timeout": f"{CHANGE_S:g}",
            **({"Authorization": f"Bearer {token}"} if token else {}),
            **_meant(cluster_id),
        }
        async with around(self._reached, f"node:{name}"):
            try:
                sent = msgspec.json.encode(body)
                async with self._session.request(
                    method, url, data=sent, headers=headers, timeout=timeout, allow_redirects=False
                ) as answer:
                    data = await answer.read()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise NodeSilent(f"{url} did not answer: {str(error) or type(error).__name__}") from error
            self._count(name)
            if answer.status != 200:
                raise _error_of(answer.status, data)
        try:
            return msgspec.json.decode(data, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise NodeSilent(f"{url} sent no JSON object: {error}") from error


def _meant(cluster_id: str) -> dict[str, str]:
    """Return the header that names the cluster that a request is for; there is none before the cluster is founded."""
    return {"Ringkeep-Cluster": cluster_id} if cluster_id else {}


async def _body_of(answer: aiohttp.ClientResponse) -> bytes:
    """Return a bounded body: whatever a pod that calls itself ours sends, it does not fill our memory."""
    body = bytearray()
    async for part in answer.content.iter_any():
        body += part
        if len(body) > ANSWER_BYTES_MAX:
            raise NodeSilent(f"{answer.url} sends more than {ANSWER_BYTES_MAX} bytes")
    return bytes(body)


def _error_of(status: int, data: bytes) -> RingkeepError:
    try:
        problem = msgspec.json.decode(data, type=_Problem)
    except msgspec.DecodeError:
        problem = _Problem()
    detail = problem.detail or f"HTTP {status}"
    return NodeSilent(detail) if status >= 500 else NodeError(detail, status=status)


def _member(shown: _Member, wanted: Wanted) -> SeenMember:
    want = wanted.members.get(shown.name)
    return SeenMember(
        name=shown.name,
        state=shown.state,
        storage_id=shown.storage_id,
        boot_id=shown.boot_id,
        # Copies are placed by the zone that is wanted; a node in a pod does not know its own.
        zone=(want.zone if want is not None else "") or shown.zone,
        weight=shown.weight,
        draining=shown.draining,
        copies=shown.copies,
        primaries=shown.primaries,
        since=shown.since,
        evidence=tuple([f"{one.by}: {one.why}" for one in shown.evidence]),
    )
