"""kopf: tells us of each change of a ``Cluster``, and nothing else.

Only low-level event handlers: kopf writes nothing on resources then, no finalizer and no annotation. It lists and watches a
whole kind without a label selector, so children are watched by ``watching``; and a watcher of its that died is not started
again (kopf #1276), so what it tells is compared with our own list (``resync``).

Source: kopf, "Configuration"; kopf #1276, #1145, #957 for what happens without.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import kopf

from ringkeep_core.resource import GROUP, PLURAL, VERSION
from ringkeep_operator.kube import CA_FILE, TOKEN_FILE, Configuration
from ringkeep_operator.settings import OperatorSettings

SERVER_S = 300  # a whole number: the API server takes no other
CONNECT_S = 30.0
REQUEST_S = 15.0
EXIT_S = 10.0
BACKOFFS_S = (0.5, 1.0, 2.0) + (3.0,) * 1200
"""An hour: a list that outlives its retries ends kopf's watcher and so the process, and the kubelet slows its restarts."""

Login = Callable[[], kopf.ConnectionInfo]
Changed = Callable[[Mapping[str, Any]], None]


def kopf_settings(settings: OperatorSettings) -> kopf.OperatorSettings:
    """Return kopf's settings: short waits, no peering, no scans of the whole API, a storage prefix of our own."""
    found = kopf.OperatorSettings()
    found.watching.server_timeout = SERVER_S
    found.watching.client_timeout = SERVER_S + 10
    found.watching.connect_timeout = CONNECT_S
    found.watching.reconnect_backoff = 1.0
    found.watching.inactivity_timeout = settings.silence_s
    found.networking.request_timeout = REQUEST_S
    found.networking.connect_timeout = 5.0
    found.networking.error_backoffs = BACKOFFS_S
    found.queueing.error_delays = (1, 2, 5, 10)
    found.scanning.disabled = True
    found.posting.level = logging.WARNING
    found.peering.standalone = True
    found.process.ultimate_exiting_timeout = EXIT_S
    found.persistence.finalizer = f"{GROUP}/finalizer"
    found.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=f"kopf.{GROUP}")
    found.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=f"kopf.{GROUP}")
    return found


def registry_of(changed: Changed, login: Login) -> kopf.OperatorRegistry:
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


def connection(where: Configuration) -> kopf.ConnectionInfo:
    """Return how kopf reaches the API server; asked again when the API server no longer takes the token."""
    token = str(where.api_key.get("BearerToken", "")).removeprefix("bearer ").removeprefix("Bearer ")
    if where.ssl_ca_cert == CA_FILE:
        # The kubelet renews the file about once an hour; what was read at the start is old by then.
        token = Path(TOKEN_FILE).read_text().strip()
    return kopf.ConnectionInfo(
        server=str(where.host),
        ca_path=where.ssl_ca_cert or None,
        insecure=not where.verify_ssl,
        scheme="Bearer" if token else None,
        token=token or None,
        certificate_path=where.cert_file or None,
        private_key_path=where.key_file or None,
    )


async def run(settings: OperatorSettings, identity: str, changed: Changed, login: Login) -> None:
    """Run kopf until cancelled; ``changed`` gets each resource as it is seen, on this loop.

    kopf has a thread and a loop of its own: when it ends it cancels every task of its loop that it does not know.
    """
    loop, stop = asyncio.get_running_loop(), threading.Event()

    def forward(body: Mapping[str, Any]) -> None:
        loop.call_soon_threadsafe(changed, dict(body))

    async def watch() -> None:
        try:
            await kopf.operator(
                registry=registry_of(forward, login),
                settings=kopf_settings(settings),
                standalone=True,
                clusterwide=not settings.namespaces,
                namespaces=settings.namespaces,
                stop_flag=stop,
                # Without one it asks for the name of the user, and a user of a container need not have any.
                identity=cast(Any, identity),
            )
        finally:
            # One of its threads waits for this, and its loop for that thread: a kopf that failed would never end.
            stop.set()

    def work() -> None:
        asyncio.run(watch())

    try:
        await asyncio.to_thread(work)
    finally:
        stop.set()
