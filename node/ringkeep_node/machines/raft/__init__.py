"""The Raft core that owns the shard map: elections, log, replication and membership, without input or output.

Import from here; the modules behind it are the parts of one machine.
"""

from __future__ import annotations

from ringkeep_node.machines.raft.log import RaftLogDamaged
from ringkeep_node.machines.raft.machine import Raft, Role
from ringkeep_node.machines.raft.messages import (
    CONFIGURATION,
    NOOP,
    NORMAL,
    AppendAnswer,
    AppendEntries,
    Configuration,
    Entry,
    HardState,
    Heartbeat,
    HeartbeatAnswer,
    InstallSnapshot,
    NotLeader,
    Proposed,
    RaftMessage,
    RaftStep,
    ReadIndexAnswer,
    ReadIndexRequest,
    ReadReady,
    Recovered,
    Refused,
    RequestVote,
    Send,
    Snapshot,
    SnapshotAnswer,
    TimeoutNow,
    VoteAnswer,
    decode_configuration,
    encode_configuration,
)
from ringkeep_node.machines.raft.settings import RaftSettings

__all__ = [
    "CONFIGURATION",
    "NOOP",
    "NORMAL",
    "AppendAnswer",
    "AppendEntries",
    "Configuration",
    "Entry",
    "HardState",
    "Heartbeat",
    "HeartbeatAnswer",
    "InstallSnapshot",
    "NotLeader",
    "Proposed",
    "Raft",
    "RaftLogDamaged",
    "RaftMessage",
    "RaftSettings",
    "RaftStep",
    "ReadIndexAnswer",
    "ReadIndexRequest",
    "ReadReady",
    "Recovered",
    "Refused",
    "RequestVote",
    "Role",
    "Send",
    "Snapshot",
    "SnapshotAnswer",
    "TimeoutNow",
    "VoteAnswer",
    "decode_configuration",
    "encode_configuration",
]
