"""The changes of the shard map: what a Raft entry may ask for, and its bytes.

A change is the payload of a Raft entry. Each is a compare-and-set: shard changes on the shard's ``revision``, the
wanted state on ``wanted.revision``; the rules (``ringkeep_core.maprules``) are checked again when the entry is applied,
on every node with the same result. A change over many shards succeeds or fails shard by shard.

Source: replication.md, "The shard map", rules 0, 3, 4, 5, 8 and "Majority lost for ever"; counterexamples.md S1, S2,
S6, S12, L8.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from ringkeep_core.shardmap import Wanted


class Boot(Struct, frozen=True, array_like=True, tag="boot"):
    """A started node registers its boot. ``live`` is filled in by the leader: storages it believes alive.

    ``former`` are the boot ids this directory was started in, this one the newest: the registered boot must be among them,
    or the directory is older than the map, or a copy. ``replaces`` is the storage id that had the name in the proposer's
    map, "" for nobody: a storage that is not registered gets the name only if that is still so. None is not compared.
    """

    name: str
    storage: str
    boot: str
    counter: int
    url: str
    peer: str
    zone: str = ""
    live: tuple[str, ...] = ()
    former: tuple[str, ...] = ()
    replaces: str | None = None


class Shrink(Struct, frozen=True, array_like=True, tag="shrink"):
    """Remove members from in_sync (never the primary, never the last)."""

    shard: int
    revision: int
    storages: tuple[str, ...]


class Grow(Struct, frozen=True, array_like=True, tag="grow"):
    """The primary lets a learner into in_sync. Only the primary in this boot and epoch may say so."""

    shard: int
    revision: int
    storage: str
    boot: str
    added: int
    epoch: int
    primary_boot: str


class Failover(Struct, frozen=True, array_like=True, tag="failover"):
    """Give the shard to ``to``, in a new epoch: its primary cannot serve. ``live``: who the leader sees alive."""

    shard: int
    revision: int
    to: str
    live: tuple[str, ...]


class Move(Struct, frozen=True, array_like=True, tag="move"):
    """Give the shard to another in-sync member, in a new epoch, sets unchanged."""

    shard: int
    revision: int
    to: str


class AddLearner(Struct, frozen=True, array_like=True, tag="learner"):
    """A member starts to hold a copy."""

    shard: int
    revision: int
    storage: str


class RemoveCopy(Struct, frozen=True, array_like=True, tag="remove"):
    """A copy outside eligible is given up: a learner, or a member of in_sync that enough others stand in for."""

    shard: int
    revision: int
    storage: str
    added: int


class Unfit(Struct, frozen=True, array_like=True, tag="unfit"):
    """A copy is damaged, too short or about to be overwritten: it leaves every set and starts anew as a learner."""

    shard: int
    revision: int
    storage: str
    added: int


class Touch(Struct, frozen=True, array_like=True, tag="touch"):
    """Change nothing but the revision: whatever was proposed on the old one can no longer commit."""

    shard: int
    revision: int


ShardChange = Shrink | Grow | Failover | Move | AddLearner | RemoveCopy | Unfit | Touch


class ShardChanges(Struct, frozen=True, array_like=True, tag="shards"):
    """Changes of many shards in one entry; each stands or falls alone.

    They are applied in order, so several changes of one shard name revisions that follow on each other.
    """

    changes: tuple[ShardChange, ...]
    reason: str


class SetWanted(Struct, frozen=True, array_like=True, tag="wanted"):
    """Replace the wanted state, if ``wanted.revision`` is one above the present revision."""

    wanted: Wanted
    reason: str


class Leave(Struct, frozen=True, array_like=True, tag="leave"):
    """A member is gone for good; applied only if its storage id is in no set of any shard."""

    storage: str
    reason: str


class NewGeneration(Struct, frozen=True, array_like=True, tag="generation"):
    """The majority of the voters is lost for ever: the cluster goes on from the map of one of them, ``storage``.

    It is never proposed: ``ringkeep recover`` writes it as the first entry of the new generation's log, and it is applied
    nowhere else. ``former`` is the version of the map that it was made from.
    """

    generation: int
    name: str
    storage: str
    former: int
    reason: str


MapChange = Boot | ShardChanges | SetWanted | Leave | NewGeneration

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[MapChange] = msgspec.msgpack.Decoder(MapChange)


def encode_change(change: MapChange) -> bytes:
    """Return a change as the payload of a Raft entry."""
    return _encoder.encode(change)


def decode_change(payload: bytes) -> MapChange:
    """Return the change in a Raft entry's payload. Raises ``msgspec.DecodeError`` otherwise."""
    return _decoder.decode(payload)
