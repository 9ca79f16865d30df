"""Shard replication as a pure machine: who orders writes, who holds them, what may be answered (replication.md)."""
