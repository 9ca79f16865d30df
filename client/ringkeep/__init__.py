"""Ringkeep for its users: the client library, the `ringkeep` command and the local launcher.

    async with ringkeep.AsyncClient("http://127.0.0.1:8081") as client:
        written = await client.put("ada", "notes/1", b"hello")
        document = await client.get("ada", "notes/1")

``ringkeep.Client`` is the same for programs without an event loop; ``ringkeep.errors`` has a class for each error code.
"""

from __future__ import annotations

from ringkeep import errors
from ringkeep.answers import (
    Copy,
    Document,
    DocumentInfo,
    Event,
    ImportProblem,
    ImportResult,
    Leader,
    Listed,
    MapMember,
    Member,
    NodeAddress,
    Page,
    Plan,
    PlannedChange,
    PlannedNode,
    PlannedStep,
    Primary,
    Route,
    RunningPlan,
    Shard,
    ShardMap,
    Written,
)
from ringkeep.async_client import AsyncClient
from ringkeep.errors import RingkeepError
from ringkeep.retries import RetryPolicy
from ringkeep.sync_client import Client
from ringkeep_core.summary import Finding, Severity, Summary

__all__ = [
    "AsyncClient",
    "Client",
    "Copy",
    "Document",
    "DocumentInfo",
    "Event",
    "Finding",
    "ImportProblem",
    "ImportResult",
    "Leader",
    "Listed",
    "MapMember",
    "Member",
    "NodeAddress",
    "Page",
    "Plan",
    "PlannedChange",
    "PlannedNode",
    "PlannedStep",
    "Primary",
    "RetryPolicy",
    "RingkeepError",
    "Route",
    "RunningPlan",
    "Severity",
    "Shard",
    "ShardMap",
    "Summary",
    "Written",
    "errors",
]
