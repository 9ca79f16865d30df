"""Who acts: the operator that holds the Lease. What it has under way ends before anybody else may begin.

    standby --the Lease is free, or its holder was silent for lease_s--> holder --no renewal for 2/3 lease_s--> standby
                                                                               --asked to end--> gives it back

Silence is measured on our own monotonic clock, from when the Lease last changed before our eyes: clocks of machines may
differ. A holder that cannot renew cancels its work a third of ``lease_s`` before another may take over, and every change
it makes is a compare-and-set on the Lease's resourceVersion. (kopf's peering is no lock: its
keep-alives are times of a wall clock, and two of equal priority pause each other.)

Source: client-go leaderelection, for the record's fields and the order of its time-outs.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import structlog

from ringkeep_core.errors import RingkeepError
from ringkeep_operator.kube import Api, ApiError, Changed, Json
from ringkeep_operator.settings import OperatorSettings

RENEWALS = 4
"""So many renewals fit into ``lease_s``."""
LOOKS = 8
"""So many looks of who does not hold it: after an outage of the API server nothing else tells that it is back."""
HELD_SHARE = 2 / 3

logger = structlog.get_logger()


class Lost(RingkeepError):
    """The Lease is no longer ours: what was under way has been cancelled."""

    code = "lease_lost"
    retryable = True


class Leadership:
    """Takes and keeps a Lease. ``clock`` is monotonic, ``now`` the wall clock that the record shows to people."""

    def __init__(
        self,
        api: Api,
        settings: OperatorSettings,
        identity: str,
        *,
        clock: Callable[[], float],
        now: Callable[[], float],
        told: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._api, self._namespace, self._name = api, settings.lease_namespace, settings.lease_name
        self._identity, self._lease_s = identity, settings.lease_s
        self._clock, self._now, self._told = clock, now, told
        self._seen: tuple[str, str] = ("", "")
        self._seen_at = clock()
        self._held: Json | None = None
        self._renewed_at = 0.0
        self._random = random.Random()  # noqa: S311 - spreads attempts, protects nothing
        self.is_leading = False

    @property
    def may_act(self) -> bool:
        """Whether the Lease is ours now, by our own clock: what is under way is cancelled only once the loop turns."""
        return self.is_leading and self._left_s(self._lease_s * HELD_SHARE) > 0

    async def lead(self, work: Callable[[], Awaitable[None]]) -> None:
        """For ever: take the Lease, and do ``work`` while it is ours. What ``work`` raises ends it; so does cancelling."""
        try:
            while True:
                await self._take()
                self._tell(leading=True)
                try:
                    await self._work_while_held(work)
                except Lost as error:
                    logger.warning("leadership_lost", error=error.detail)
                finally:
                    self._tell(leading=False)
        finally:
            await self._give_back()

    async def _take(self) -> None:
        within_s, every_s = self._lease_s / RENEWALS, self._lease_s / LOOKS
        is_ours = await self._try(within_s)
        while not is_ours:
            await asyncio.sleep(every_s * (0.75 + self._random.random() / 2))
            is_ours = await self._try(within_s)

    async def _work_while_held(self, work: Callable[[], Awaitable[None]]) -> None:
        working = asyncio.ensure_future(work())
        keeping = asyncio.ensure_future(self._keep())
        try:
            done, _ = await asyncio.wait({working, keeping}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (working, keeping):
                task.cancel()
            await asyncio.gather(working, keeping, return_exceptions=True)

    async def _keep(self) -> None:
        every_s, held_s = self._lease_s / RENEWALS, self._lease_s * HELD_SHARE
        while True:
            # An API server that takes a request and is silent must not hold us beyond the end either.
            await asyncio.sleep(min(every_s, max(0.0, self._left_s(held_s))))
            left_s = self._left_s(held_s)
            if left_s <= 0:
                raise Lost(f"the Lease could not be renewed for {held_s:.1f} s")
            await self._try(left_s)
            if self._held is None:
                raise Lost("another operator has the Lease")

    def _left_s(self, held_s: float) -> float:
        return self._renewed_at + held_s - self._clock()

    async def _try(self, within_s: float) -> bool:
        """Take or renew the Lease if we may; return whether that succeeded."""
        try:
            async with asyncio.timeout(within_s):
                return await self._try_once()
        except Changed:
            return False  # Somebody else was faster; the next look says who.
        except (ApiError, TimeoutError) as error:
            logger.info("lease_not_renewed", error=str(error) or "no answer in time")
            return False

    async def _try_once(self) -> bool:
        began = self._clock()
        found = await self._api.get("Lease", self._namespace, self._name)
        if found is not None and not self._may_take(found):
            self._held = None
            return False
        record = self._record(found)
        if found is None:
            self._held = await self._api.create(record, self._namespace)
        else:
            self._held = await self._api.replace(record, self._namespace)
        # Counted from before the request: others may have seen it that early.
        self._renewed_at = began
        return True

    def _may_take(self, found: Json) -> bool:
        spec = found.get("spec") or {}
        holder = str(spec.get("holderIdentity") or "")
        seen = (holder, str((found.get("metadata") or {}).get("resourceVersion", "")))
        if seen != self._seen:
            self._seen, self._seen_at = seen, self._clock()
        if holder in ("", self._identity):
            return True
        lease_s = max(float(spec.get("leaseDurationSeconds") or 0), self._lease_s)
        return self._clock() - self._seen_at >= lease_s

    def _record(self, found: Json | None) -> Json:
        at = datetime.fromtimestamp(self._now(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        before = (found or {}).get("spec") or {}
        is_ours = before.get("holderIdentity") == self._identity
        transitions = int(before.get("leaseTransitions") or 0)
        metadata: Json = {"name": self._name, "namespace": self._namespace}
        if found is not None:
            metadata["resourceVersion"] = found["metadata"]["resourceVersion"]
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": self._identity,
                "leaseDurationSeconds": max(1, round(self._lease_s)),
                "acquireTime": before.get("acquireTime", at) if is_ours else at,
                "renewTime": at,
                "leaseTransitions": transitions if is_ours or found is None else transitions + 1,
            },
        }

    async def _give_back(self) -> None:
        """Free the Lease, so that another operator takes over at once; quietly, as we are ending anyway."""
        if self._held is None:
            return
        record = self._record(self._held)
        record["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            async with asyncio.timeout(self._lease_s / RENEWALS):
                await self._api.replace(record, self._namespace)
        except (ApiError, TimeoutError) as error:
            logger.info("lease_not_given_back", error=str(error) or "no answer in time")
        self._held = None

    def _tell(self, *, leading: bool) -> None:
        self.is_leading = leading
        logger.info("leadership_taken" if leading else "leadership_ended", identity=self._identity)
        self._told(leading)
