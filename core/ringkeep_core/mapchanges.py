"""The changes of the shard map and the rules that decide whether one applies: the public face of four modules.

    mapentries   the kinds of change and their bytes (the payload of a Raft entry)
    shardrules   the rules of one shard
    maprules     ``bootstrap`` and ``apply``: the state machine that Raft drives
    mapchecks    ``check`` (what always holds) and ``diff`` (what people are told)

Source: replication.md, "The shard map" and rules 0, 3, 4, 5, 8; counterexamples.md S1, S2, S6, S12.
"""

from ringkeep_core.mapchecks import EventKind, MapEvent, check, diff
from ringkeep_core.mapentries import (
    AddLearner,
    Boot,
    Failover,
    Grow,
    Leave,
    MapChange,
    Move,
    NewGeneration,
    RemoveCopy,
    SetWanted,
    ShardChange,
    ShardChanges,
    Shrink,
    Touch,
    Unfit,
    decode_change,
    encode_change,
)
from ringkeep_core.maprules import Applied, apply, bootstrap, reason_of
from ringkeep_core.shardrules import Refusal

__all__ = [
    "AddLearner",
    "Applied",
    "Boot",
    "EventKind",
    "Failover",
    "Grow",
    "Leave",
    "MapChange",
    "MapEvent",
    "Move",
    "NewGeneration",
    "Refusal",
    "RemoveCopy",
    "SetWanted",
    "ShardChange",
    "ShardChanges",
    "Shrink",
    "Touch",
    "Unfit",
    "apply",
    "bootstrap",
    "check",
    "decode_change",
    "diff",
    "encode_change",
    "reason_of",
]
