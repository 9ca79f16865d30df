"""The records of a node's log: the one durable truth of Raft and of all shard copies.

Every record has the same five numbers, so that a batch header can name what it carries without understanding it:
``kind``, ``shard``, ``copy`` (the map version at which this copy of the shard was added), ``epoch`` and ``sn``. For Raft
the epoch is the term and the sn the index. Nothing is cut in place: ``cut``, ``reset`` and ``drop`` are records too, and
replay obeys them in order.

Source: replication.md, Storage; counterexamples.md S7 and S8.
"""

from __future__ import annotations

from enum import IntEnum

from msgspec import Struct

NO_SHARD = -1


class Kind(IntEnum):
    """What a record says. The numbers are the on-disk format: never reuse one."""

    RAFT_STATE = 1  # epoch = term, payload = the vote (storage id) or nothing
    RAFT_ENTRY = 2  # epoch = term, sn = index, payload = one byte entry kind + the entry's payload
    RAFT_CUT = 3  # keep entries up to index sn
    RAFT_SNAPSHOT = 4  # own compaction: payload = encoded Snapshot at (epoch, sn); later entries stay
    RAFT_RESET = 5  # every entry before this record goes; payload = encoded Snapshot, or nothing: in no group any more
    MAP_ENTRY = 6  # a non-voter's pulled map entry: sn = index, payload = encoded change
    MAP_SNAPSHOT = 7  # a non-voter's pulled whole map: sn = index it is current through, payload = encoded map
    BOOT = 8  # sn = the boot counter, raised before each boot entry; payload = the boots of this directory, newest last
    RAFT_END = 9  # repeat of Raft's log end (epoch, sn) and terms; written by the log alone, at the start of a segment
    SHARD_ENTRY = 10  # payload = encoded shard entry
    SHARD_PROMISE = 11  # nothing below ``epoch`` is accepted by this copy any more
    SHARD_CUT = 12  # keep entries up to (epoch, sn)
    SHARD_RESET = 13  # the copy restarts from a snapshot that ends at (epoch, sn); payload = encoded epoch table
    SHARD_DROP = 14  # the copy is gone; its records before this one mean nothing
    SHARD_END = 15  # repeat of a copy's promise, log end and epoch table; written by the log alone, as RAFT_END is


class Record(Struct, frozen=True, array_like=True, gc=False):
    """One record of the log."""

    kind: int
    shard: int
    copy: int
    epoch: int
    sn: int
    payload: bytes = b""


class EpochStart(Struct, frozen=True, array_like=True, gc=False):
    """The first sn that an epoch wrote into a copy's log. A copy's epoch table is a tuple of these, ascending."""

    epoch: int
    first_sn: int
