"""The write-ahead log of a node: one for Raft and all shard copies. The log is the truth (replication.md, Storage)."""

from ringkeep_node.runtime.wal.log import Log, LogGone, LogSettings

__all__ = ["Log", "LogGone", "LogSettings"]
