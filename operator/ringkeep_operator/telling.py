"""Kubernetes events about a Cluster: each said once in a while, and never so many that they bury one another.

Source: client-go's EventCorrelator, for what is told once and how many at a time.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from ringkeep_core.resource import API_VERSION, KIND, ClusterResource
from ringkeep_operator.kube import Api, ApiError
from ringkeep_operator.state import Tell

REPEAT_S = 600.0
"""The same sentence again, at the earliest."""
BURST = 20
EVERY_S = 10.0
"""A cluster may have ``BURST`` events at once, and one more each so many seconds."""
REMEMBERED_MAX = 2_000
MESSAGE_MAX = 1_000

logger = structlog.get_logger()


class Teller:
    """Posts events. A failure to post one is logged, and stops nothing."""

    def __init__(self, api: Api, *, component: str, instance: str, now: Callable[[], float]) -> None:
        self._api, self._component, self._instance, self._now = api, component, instance, now
        self._said: dict[tuple[str, str, str], float] = {}
        self._tokens: dict[str, tuple[float, float]] = {}

    async def tell(self, about: ClusterResource, what: Tell) -> bool:
        """Post an event unless it was said a moment ago or there are too many; return whether it was posted."""
        now, said = self._now(), (about.uid, what.reason, what.message)
        if now - self._said.get(said, float("-inf")) < REPEAT_S or not self._may(about.uid, now):
            return False
        if len(self._said) >= REMEMBERED_MAX:
            self._said = {key: at for key, at in self._said.items() if now - at < REPEAT_S / 2}
        self._said[said] = now
        try:
            await self._api.create(self._manifest(about, what, now), about.namespace)
        except ApiError as error:
            logger.warning("event_not_posted", reason=what.reason, error=error.detail, error_code=error.code)
            return False
        return True

    def _may(self, uid: str, now: float) -> bool:
        if len(self._tokens) >= REMEMBERED_MAX:
            self._tokens.clear()
        left, at = self._tokens.get(uid, (float(BURST), now))
        left = min(float(BURST), left + (now - at) / EVERY_S)
        allowed = left >= 1
        self._tokens[uid] = (left - 1 if allowed else left, now)
        return allowed

    def _manifest(self, about: ClusterResource, what: Tell, now: float) -> dict[str, object]:
        at = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{about.name}.{secrets.token_hex(8)}", "namespace": about.namespace},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": about.name,
                "namespace": about.namespace,
                "uid": about.uid,
                "resourceVersion": about.version,
            },
            "type": what.kind,
            "reason": what.reason,
            "message": what.message[:MESSAGE_MAX],
            "action": what.reason,
            "count": 1,
            "firstTimestamp": at,
            "lastTimestamp": at,
            "source": {"component": self._component},
            "reportingComponent": self._component,
            "reportingInstance": self._instance,
        }
