"""Watches of what belongs to clusters, that neither stop nor fall asleep unseen.

    list --> changed(each) --> watch from there --+-- line, bookmark: remember its version
      ^                                           +-- ended, cut, silent: watch on from the last version, after a while
      +------------ 410: that version is gone ----+

Only labels matter here: which cluster should be looked at again. Whoever looks reads everything anew, so a change that is
told twice, late or out of order does no harm, and one that is lost is found by the resync.

Source: Kubernetes API concepts ("Efficient detection of changes"); kopf #1276, #1145, #980 (watchers that die unseen).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from ringkeep_operator.kube import Api, ApiError, Denied, Expired, Json, Missing

FIRST_WAIT_S = 0.5
WAIT_MAX_S = 5.0
ABSENT_WAIT_S = 60.0
"""How long a kind that is not there, or that we may not see, is left alone."""
STUCK_S = 30.0

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Scope:
    """What one watch looks at; no namespace: all of them."""

    kind: str
    namespace: str
    selector: str


class Watch:
    """Watches one kind for ever. ``changed`` gets every object; ``restarted`` is told when changes may have been missed."""

    def __init__(
        self,
        api: Api,
        scope: Scope,
        changed: Callable[[Json], None],
        restarted: Callable[[str], None],
        *,
        silence_s: float,
        clock: Callable[[], float],
        first_wait_s: float = FIRST_WAIT_S,
    ) -> None:
        self._api, self.scope, self._changed, self._restarted = api, scope, changed, restarted
        self._silence_s, self._clock, self._first_wait_s = silence_s, clock, first_wait_s
        self._version = ""
        self._random = random.Random()  # noqa: S311 - spreads retries, protects nothing
        self.heard_at = clock()
        self.tried_at = clock()
        self.is_absent = False

    def age(self) -> float:
        """Seconds since the server said anything; 0 for a kind that we need not see."""
        return 0.0 if self.is_absent else self._clock() - self.heard_at

    def is_stuck(self) -> bool:
        """Return whether it neither heard nor tried anything for longer than it ever waits: then it is dead."""
        return self._clock() - max(self.heard_at, self.tried_at) > self._silence_s + ABSENT_WAIT_S + STUCK_S

    async def run(self) -> None:
        """Watch until cancelled."""
        wait_s = self._first_wait_s
        while True:
            before, self.tried_at = self.heard_at, self._clock()
            try:
                await self._once()
                pause_s = self._first_wait_s / 5
            except Expired:
                self._version = ""
                pause_s = self._first_wait_s / 5
            except (Denied, Missing) as error:
                if not self.is_absent:
                    logger.warning("watch_refused", kind=self.scope.kind, error=error.detail)
                self.is_absent, self._version, pause_s = True, "", ABSENT_WAIT_S
            except ApiError as error:
                wait_s = self._first_wait_s if self.heard_at > before else min(wait_s * 2, WAIT_MAX_S)
                pause_s = wait_s * (0.5 + self._random.random() / 2)
                logger.info("watch_ended", kind=self.scope.kind, error=error.detail, error_code=error.code)
                self._restarted(self.scope.kind)
            await asyncio.sleep(pause_s)

    async def _once(self) -> None:
        scope = self.scope
        if not self._version:
            listing = await self._api.list(scope.kind, scope.namespace, scope.selector, metadata_only=True)
            self._heard()
            for item in listing.items:
                self._changed(item)
            # What was deleted before the list is in no list: whoever had it is looked at again.
            self._restarted(scope.kind)
            self._version = listing.version
        changes = self._api.watch(scope.kind, scope.namespace, scope.selector, self._version, silence_s=self._silence_s)
        async for change in changes:
            self._heard()
            self._version = change.version or self._version
            if change.kind != "BOOKMARK":
                self._changed(change.object)

    def _heard(self) -> None:
        self.heard_at, self.is_absent = self._clock(), False
