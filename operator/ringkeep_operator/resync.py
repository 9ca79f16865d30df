"""A list of all clusters every half minute: finds what no watch told, and notices when kopf's watcher is dead.

    list --> queue.add(each)
         --> a generation that kopf has not shown some lists later: its watcher is dead, and so is the process

Source: kopf #1276, #1145, #980.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from ringkeep_operator.kube import Api, ApiError
from ringkeep_operator.metrics import OperatorMetrics
from ringkeep_operator.queueing import Key, KeyQueue

LISTS_MISSED_MAX = 2

logger = structlog.get_logger()


def key_of(manifest: Mapping[str, Any]) -> Key:
    """Return the key of a Cluster."""
    metadata = manifest.get("metadata") or {}
    return str(metadata.get("namespace", "")), str(metadata.get("name", ""))


class Resync:
    """Lists and compares. ``clock`` is the event loop's."""

    def __init__(
        self,
        api: Api,
        queue: KeyQueue,
        metrics: OperatorMetrics,
        namespaces: tuple[str, ...],
        every_s: float,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._api, self._queue, self._metrics = api, queue, metrics
        self._namespaces, self._every_s, self._clock = namespaces or ("",), every_s, clock
        self._shown: dict[tuple[Key, str], int] = {}
        self._missed: dict[tuple[Key, str], int] = {}
        self.keys: tuple[Key, ...] = ()
        self.turned_at = clock()
        self.is_behind = False

    def shown_by_kopf(self, manifest: Mapping[str, Any]) -> None:
        """Note that kopf told of a resource, and have it looked at."""
        metadata = manifest.get("metadata") or {}
        who = key_of(manifest), str(metadata.get("uid", ""))
        self._shown[who] = max(self._shown.get(who, 0), int(metadata.get("generation") or 0))
        self._queue.add(who[0])

    def all_again(self) -> None:
        """Have every known cluster looked at: something may have been missed."""
        for key in self.keys:
            self._queue.add(key)

    async def run(self) -> None:
        """List until cancelled."""
        while True:
            try:
                await self.turn()
                wait_s = self._every_s
            except ApiError as error:
                logger.info("resync_failed", error=error.detail, error_code=error.code)
                wait_s = min(self._every_s, 2.0)
            self.turned_at = self._clock()
            await asyncio.sleep(wait_s)

    async def turn(self) -> None:
        """List once. Raises ``ApiError``."""
        found: list[Mapping[str, Any]] = []
        for namespace in self._namespaces:
            listing = await self._api.list("Cluster", namespace, metadata_only=True)
            found.extend(listing.items)
        gone = set(self.keys) - {key_of(manifest) for manifest in found}
        self.keys = tuple(sorted(key_of(manifest) for manifest in found))
        for key in (*self.keys, *gone):
            self._queue.add(key)
        self._metrics.clusters.set(len(self.keys))
        self._compare(found)

    def _compare(self, found: list[Mapping[str, Any]]) -> None:
        missed = {}
        present = set()
        for manifest in found:
            metadata = manifest["metadata"]
            who = key_of(manifest), str(metadata.get("uid", ""))
            present.add(who)
            if self._shown.get(who, 0) < int(metadata.get("generation") or 0):
                missed[who] = self._missed.get(who, 0) + 1
        self._missed = missed
        self._shown = {who: generation for who, generation in self._shown.items() if who in present}
        was_behind, self.is_behind = self.is_behind, any(count > LISTS_MISSED_MAX for count in missed.values())
        if self.is_behind and not was_behind:
            logger.error("watcher_dead", clusters=[key[1] for (key, _), count in missed.items() if count > 1])
