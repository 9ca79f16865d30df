"""``recover``: begin the next generation on the disk of a voter that is stopped, after a last look for the others.

    directory locked, log open -> what it says of map and voters -> nobody else answers -> one batch of records, synced

It runs in a process of its own, beside no node. A member that answers a greeting is refused: while others run nothing is
lost, or two generations would serve at once. A member that cannot be reached is not known to be stopped; that is what
the operator states by the call.

Source: replication.md, "Majority lost for ever"; counterexamples.md L8.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

import aiohttp

from ringkeep_core.errors import StartRefused
from ringkeep_core.wire import Hello
from ringkeep_node.machines.generation import Succession, succession
from ringkeep_node.machines.records import Record
from ringkeep_node.machines.recovery import RecoveredLog
from ringkeep_node.runtime.peers import greet
from ringkeep_node.runtime.wal.log import Log


async def succeed(log: Log, recovered: RecoveredLog, *, own: Hello, present: Collection[str]) -> Succession:
    """Begin the next generation on an open log and return what it is. Raises ``StartRefused``; nothing was changed then.

    ``own`` is how this node greets; ``present`` are storage ids whose disks the caller knows to be there.
    """
    begun = succession(recovered, me=own.storage, present=present)
    running = await _who_answers(begun, own)
    if running:
        raise StartRefused(
            f"{', '.join(running)} still run: stop every other node first, or let them go on if they are a majority"
        )
    await durable(log, begun.records)
    return begun


async def _who_answers(begun: Succession, own: Hello) -> list[str]:
    """Return the names of the other members of this cluster that answer a greeting."""
    async with aiohttp.ClientSession() as session:
        answers = await asyncio.gather(*(greet(session, peer, own) for _, peer in begun.others), return_exceptions=True)
    return [answer.name for answer in answers if isinstance(answer, Hello) and answer.cluster_id == own.cluster_id]


async def durable(log: Log, records: Sequence[Record]) -> None:
    """Return when the records are on disk; only while nobody else uses the log's callback."""
    synced = asyncio.Event()
    ticket = log.append(records)

    def on_synced(through: int) -> None:
        if through >= ticket:
            synced.set()

    log.on_synced = on_synced
    await synced.wait()
