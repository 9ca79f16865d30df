"""How a node comes to belong to a cluster: by a bootstrap that names it, or by a seed that already belongs to one.

    none --bootstrap here--> founder: first map and first voters on disk, then the id
    none --a seed names a cluster, or its founder tells us--> member: the id on disk, then the ``boot`` entry

Bootstrap happens once: the cluster id is a hash of the first voters' storage ids and a nonce, so a second bootstrap is
always another cluster. The call fails if any named member, or any seed, already belongs to one or cannot be asked. A node
with an empty disk never bootstraps by itself.

Source: replication.md, "Raft group: Bootstrap"; counterexamples.md S11.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

import aiohttp
from msgspec import Struct
from msgspec.structs import replace
from xxhash import xxh3_64_hexdigest

from ringkeep_core.electorate import voters_wanted
from ringkeep_core.errors import BadFrame, BadRequest, Conflict
from ringkeep_core.hashing import is_shard_count
from ringkeep_core.ids import is_identity, is_node_name
from ringkeep_core.maprules import bootstrap
from ringkeep_core.shardmap import Member, Settings, ShardMap
from ringkeep_core.wire import Hello
from ringkeep_node.runtime.peers import FOUNDED_CHANNEL, greet

SEED_POLL_S = 0.15
TELLS_MAX = 20
MEMBERS_MAX = 200
WEIGHT_MAX = 100.0


class FirstMember(Struct, frozen=True):
    """A member that a bootstrap names, with the storage id its caller has seen and its peer address."""

    name: str
    storage_id: str
    peer: str


class BootstrapRequest(Struct, frozen=True):
    """The body of ``POST /v1/cluster/bootstrap``."""

    members: tuple[FirstMember, ...]
    shards: int = 256
    replication_factor: int = 3
    min_in_sync: int = 2


class Asked(Struct, frozen=True):
    """The members of a bootstrap as they are now, in the order of the request, and their weights by name."""

    members: tuple[Member, ...]
    weights: dict[str, float]


class Founded(Struct, frozen=True):
    """What a bootstrap decided: to be made durable before the cluster id is."""

    cluster_id: str
    first_map: ShardMap
    voters: tuple[str, ...]


def check_request(request: BootstrapRequest, *, name: str, storage: str) -> None:
    """Raise ``BadRequest`` with one clear sentence if the call makes no sense on this node."""
    members = request.members
    if not 0 < len(members) <= MEMBERS_MAX:
        raise BadRequest(f"a bootstrap names 1..{MEMBERS_MAX} members, not {len(members)}")
    for member in members:
        if not is_node_name(member.name):
            raise BadRequest(f"{member.name!r} is not a node name (an RFC 1123 label)")
        if not is_identity(member.storage_id):
            raise BadRequest(f"{member.storage_id!r} is not a storage id (16 hexadecimal digits)")
    if len({member.name for member in members}) < len(members):
        raise BadRequest("two members have the same name")
    if len({member.storage_id for member in members}) < len(members):
        raise BadRequest("two members have the same storage id")
    if not any(member.name == name and member.storage_id == storage for member in members):
        raise BadRequest(f"this node ({name}, storage {storage}) is not among the members")
    if not is_shard_count(request.shards):
        raise BadRequest(f"shards must be a power of two from 16 to 65536, not {request.shards}")
    if not 1 <= request.replication_factor <= 7:
        raise BadRequest(f"replication_factor must be 1..7, not {request.replication_factor}")
    if not 1 <= request.min_in_sync <= request.replication_factor:
        raise BadRequest(f"min_in_sync must be 1..{request.replication_factor}, not {request.min_in_sync}")


async def ask_members(
    session: aiohttp.ClientSession, own: Hello, request: BootstrapRequest, seeds: Sequence[str]
) -> Asked:
    """Greet everybody a bootstrap concerns and return the members as they are now.

    Raises ``Conflict``: somebody already has a cluster, is another node than named, or cannot be asked; or nobody has a
    weight above 0.
    """
    peers = {member.peer: member for member in request.members if member.storage_id != own.storage}
    strangers = [seed for seed in seeds if seed not in peers and seed != own.peer]
    greetings = await asyncio.gather(
        *(greet(session, address, own) for address in (*peers, *strangers)), return_exceptions=True
    )
    members = [own]
    for address, answer in zip((*peers, *strangers), greetings, strict=True):
        named = peers.get(address)
        if isinstance(answer, BaseException):
            if named is None and not isinstance(answer, BadFrame):
                continue  # A seed that is not up and not named holds nobody back; the named ones must answer.
            raise Conflict(f"{address} cannot be asked whether it has a cluster: {answer or type(answer).__name__}")
        if answer.cluster_id:
            raise Conflict(f"{answer.name} at {address} already belongs to cluster {answer.cluster_id}")
        if named is not None:
            if (answer.name, answer.storage) != (named.name, named.storage_id):
                raise Conflict(f"{address} is {answer.name} with storage {answer.storage}, not {named.name}")
            members.append(answer)
    order = {member.storage_id: place for place, member in enumerate(request.members)}
    members.sort(key=lambda member: order[member.storage])
    weights = {member.name: _weight(member) for member in members}
    if not any(weights.values()):
        raise Conflict("every member is a pure gateway (weight 0): somebody has to hold the copies")
    return Asked(tuple(_member(member) for member in members), weights)


def found(request: BootstrapRequest, members: tuple[Member, ...], weights: Mapping[str, float], nonce: str) -> Founded:
    """Return the new cluster: its id, its first map and its first voters."""
    voters = tuple(member.storage for member in members[: voters_wanted(len(members))])
    cluster_id = xxh3_64_hexdigest("/".join((*voters, nonce)).encode())
    first_map = bootstrap(
        cluster_id=cluster_id,
        members=members,
        shards=request.shards,
        settings=Settings(replication_factor=request.replication_factor, min_in_sync=request.min_in_sync),
        weights=weights,
    )
    return Founded(cluster_id, first_map, voters)


async def tell_founded(session: aiohttp.ClientSession, own: Hello, members: Sequence[FirstMember]) -> None:
    """Tell the members that a bootstrap named that they have a cluster.

    Each is told by its storage id: whoever has its address by now has another one and does not listen. A member would
    hear it from its seeds too, but their names may not be known yet, and that they are not is remembered by resolvers for
    half a minute. A member that cannot be told is left to its seeds.
    """

    async def tell(member: FirstMember) -> None:
        hello = replace(own, channel=FOUNDED_CHANNEL + member.storage_id)
        for _ in range(TELLS_MAX):
            try:
                await greet(session, member.peer, hello)
                return
            except (OSError, BadFrame, aiohttp.ClientError):
                await asyncio.sleep(SEED_POLL_S)

    await asyncio.gather(*(tell(member) for member in members if member.storage_id != own.storage))


async def wait_for_cluster(
    session: aiohttp.ClientSession,
    own: Callable[[], Hello],
    seeds: Sequence[str],
    adopt: Callable[[str], Awaitable[None]],
) -> None:
    """Ask the seeds, for as long as it takes, for a cluster id and adopt the first one named."""
    while not own().cluster_id:
        others = [seed for seed in seeds if seed != own().peer]
        for answer in await asyncio.gather(*(greet(session, seed, own()) for seed in others), return_exceptions=True):
            if not isinstance(answer, BaseException) and answer.cluster_id and not own().cluster_id:
                await adopt(answer.cluster_id)
                return
        await asyncio.sleep(SEED_POLL_S)


def _weight(hello: Hello) -> float:
    # Also not a number is refused: the comparison is false for it.
    if not 0.0 <= hello.weight <= WEIGHT_MAX:
        raise Conflict(f"{hello.name} has weight {hello.weight}, which is not 0..{WEIGHT_MAX:.0f}")
    return hello.weight


def _member(hello: Hello) -> Member:
    return Member(
        storage=hello.storage,
        name=hello.name,
        boot=hello.boot,
        boot_counter=hello.counter,
        url=hello.url,
        peer=hello.peer,
        zone=hello.zone,
        since=0,
    )


__all__ = [
    "Asked",
    "BootstrapRequest",
    "FirstMember",
    "Founded",
    "ask_members",
    "check_request",
    "found",
    "tell_founded",
    "wait_for_cluster",
]
