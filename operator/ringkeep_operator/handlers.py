"""kopf: tells us of each change of a ``Cluster``, and nothing else.

Only low-level event handlers: kopf writes nothing on resources then, no finalizer and no annotation. It lists and watches a
whole kind without a label selector, so children are watched by ``watching``; and a watcher of its that died is not started
again (kopf #1276), so what it tells is compared with our own list (``resync``).

Source: reference/operator.md (b), kopf: production settings and pitfalls.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

import kopf

from ringkeep_core.resource import GROUP, PLURAL, VERSION
from ringkeep_operator.settings import OperatorSettings

SERVER_S = 300.0
CONNECT_S = 30.0
REQUEST_S = 15.0
EXIT_S = 10.0

Login = Callable[[], kopf.ConnectionInfo]


def kopf_settings(settings: OperatorSettings) -> kopf.OperatorSettings:
    """Return kopf's settings: short waits, no peering, no scans of the whole API, a storage prefix of our own."""
    found = kopf.OperatorSettings()
    found.watching.server_timeout = SERVER_S
    found.watching.client_timeout = SERVER_S + 10.0
    found.watching.connect_timeout = CONNECT_S
    found.watching.reconnect_backoff = 1.0
    found.watching.inactivity_timeout = settings.silence_s
    found.networking.request_timeout = REQUEST_S
    found.networking.connect_timeout = 5.0
    found.networking.error_backoffs = (0.5, 1, 2, 3, 5, 5, 5, 5, 5, 5)
    found.queueing.error_delays = (1, 2, 5, 10)
    found.scanning.disabled = True
    found.posting.level = logging.WARNING
    found.peering.standalone = True
    found.process.ultimate_exiting_timeout = EXIT_S
    found.persistence.finalizer = f"{GROUP}/finalizer"
    found.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=f"kopf.{GROUP}")
    found.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=f"kopf.{GROUP}")
    return found


def registry_of(changed: Callable[[Mapping[str, Any]], None], login: Login) -> kopf.OperatorRegistry:
    """Return the handlers: ``changed`` gets each resource as it is seen."""
    registry = kopf.OperatorRegistry()

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def cluster_seen(body: Mapping[str, Any], **_: Any) -> None:
        changed(body)

    # Without it kopf would import the synchronous half of the Kubernetes client to find out who we are.
    @kopf.on.login(registry=registry)
    async def log_in(**_: Any) -> kopf.ConnectionInfo:
        return login()

    return registry


async def run(settings: OperatorSettings, registry: kopf.OperatorRegistry, stop: asyncio.Event) -> None:
    """Run kopf until ``stop``, or until the process is asked to end: kopf takes SIGTERM and SIGINT."""
    await kopf.operator(
        registry=registry,
        settings=kopf_settings(settings),
        standalone=True,
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
        stop_flag=stop,
    )
