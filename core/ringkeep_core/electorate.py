"""How many members vote: one sum for the bootstrap, for the leader that replaces voters, and for refused requests.

Source: replication.md, "Raft group".
"""

from __future__ import annotations


def voters_wanted(members: int) -> int:
    """Return how many of so many members vote: 1, 2, 3, 3, then 5."""
    return min(members, 3) if members < 5 else 5
