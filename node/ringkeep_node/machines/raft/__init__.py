"""The Raft core that owns the shard map: elections, log, replication and membership, without input or output."""
