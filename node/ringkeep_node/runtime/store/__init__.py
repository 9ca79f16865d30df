"""The materialised shard copies of a node, in one SQLite file. The log is the truth (replication.md, Storage)."""

from ringkeep_node.runtime.store.store import Page, Store, StoreDamaged, StoredCopy, StoreSettings

__all__ = ["Page", "Store", "StoreDamaged", "StoreSettings", "StoredCopy"]
