"""Wires an operator together: the only place that does.

    kopf, watches, resync ---> queue ---> reconciler (while the Lease is ours) ---> API server, nodes
    health server: /livez, /readyz, /metrics

Whatever part ends, the others end with it, the Lease is given back, and the process ends: a supervisor starts it again.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import structlog
from aiohttp import web

from ringkeep_core.errors import BadSetting
from ringkeep_operator import logs
from ringkeep_operator.acting import Actor
from ringkeep_operator.failpoints import KillAt, Reached, never
from ringkeep_operator.health import Health, health_app
from ringkeep_operator.kube import Api, Configuration, Json, configuration
from ringkeep_operator.leadership import Leadership
from ringkeep_operator.metrics import OperatorMetrics
from ringkeep_operator.naming import CLUSTER_LABEL
from ringkeep_operator.nodes import Nodes, pod_address
from ringkeep_operator.observing import WATCHED_KINDS, Observer, cluster_of
from ringkeep_operator.queueing import KeyQueue
from ringkeep_operator.reconciler import Reconciler
from ringkeep_operator.resync import Resync
from ringkeep_operator.settings import OperatorSettings, settings_from
from ringkeep_operator.state import Decision, Seen, SeenPod
from ringkeep_operator.telling import Teller
from ringkeep_operator.watching import Scope, Watch

Feed = Callable[[Callable[[Mapping[str, Any]], None]], Coroutine[Any, Any, None]]
"""Tells of every change of a Cluster until it is cancelled: kopf."""

logger = structlog.get_logger()


class Operator:
    """One operator process, but for its environment. ``feed`` runs kopf; ``address`` says where a pod's node is."""

    def __init__(
        self,
        settings: OperatorSettings,
        where: Configuration,
        decide: Callable[[Seen], Decision],
        feed: Feed,
        *,
        reached: Reached = never,
        address: Callable[[SeenPod], str] = pod_address,
        first_wait_s: float = 0.5,
    ) -> None:
        self.settings, self._where, self._decide, self._feed = settings, where, decide, feed
        self._reached, self._address, self._first_wait_s = reached, address, first_wait_s
        self.metrics = OperatorMetrics()
        self.identity = settings.identity or f"{socket.gethostname()}-{secrets.token_hex(4)}"
        self.port = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Run until ``stop``, or until anything ends that should not."""
        settings, clock = self.settings, asyncio.get_running_loop().time
        async with AsyncExitStack() as stack:
            api = Api(
                self._where,
                field_manager=settings.field_manager,
                reached=self._reached,
                count=self.metrics.wrote,
                first_wait_s=self._first_wait_s / 2,
            )
            stack.push_async_callback(api.close)
            session = await stack.enter_async_context(_node_session())
            nodes = Nodes(session, address=self._address, reached=self._reached, count=self.metrics.asked)
            stack.push_async_callback(nodes.close)
            queue = KeyQueue(clock)
            resync = Resync(api, queue, self.metrics, settings.namespaces, settings.resync_s, clock=clock)
            watches = self._watches(api, queue, resync, clock)
            told = self.metrics.leading.set
            leadership = Leadership(api, settings, self.identity, clock=clock, now=time.time, told=told)
            reconciler = self._reconciler(api, nodes, queue, clock, lambda: not settings.lease or leadership.may_act)
            self.metrics.leading.set(not settings.lease)
            health = Health(
                watches, resync, queue, lambda: not settings.lease or leadership.is_leading, settings.resync_s, clock
            )
            self.metrics.show_ages(health.ages)
            await self._serve(stack, health)

            async def work() -> None:
                resync.all_again()
                await reconciler.work(settings.passes)

            await _until_the_first_ends(
                _waited(stop),
                self._feed(resync.shown_by_kopf),
                resync.run(),
                leadership.lead(work) if settings.lease else work(),
                *(watch.run() for watch in watches),
            )

    def _reconciler(
        self, api: Api, nodes: Nodes, queue: KeyQueue, clock: Callable[[], float], may_act: Callable[[], bool]
    ) -> Reconciler:
        teller = Teller(api, component=self.settings.field_manager, instance=self.identity, now=time.time)
        observer = Observer(api, nodes, now=time.time, clock=clock)
        return Reconciler(
            api,
            nodes,
            observer,
            Actor(api, nodes, teller),
            self._decide,
            queue,
            self.metrics,
            clock=clock,
            now=time.time,
            may_act=may_act,
        )

    def _watches(self, api: Api, queue: KeyQueue, resync: Resync, clock: Callable[[], float]) -> list[Watch]:
        def changed(manifest: Json) -> None:
            key = cluster_of(manifest)
            if key is not None:
                queue.add(key)

        def restarted(kind: str) -> None:
            self.metrics.restarts.labels(kind).inc()
            resync.all_again()

        return [
            Watch(
                api,
                Scope(kind, namespace, CLUSTER_LABEL),
                changed,
                restarted,
                silence_s=self.settings.silence_s,
                clock=clock,
                first_wait_s=self._first_wait_s,
            )
            for kind in WATCHED_KINDS
            for namespace in self.settings.namespaces or ("",)
        ]

    async def _serve(self, stack: AsyncExitStack, health: Health) -> None:
        runner = web.AppRunner(health_app(health, self.metrics), access_log=None)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        # Probes and Prometheus come from outside of the pod; there is nothing to change here.
        site = web.SockSite(runner, _listening(self.settings.port))
        await site.start()
        self.port = runner.addresses[0][1]


def _listening(port: int) -> socket.socket:
    """Listen on every address of both families: the kubelet asks at the pod's, which may be either."""
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError:
            pass  # The kernel knows IPv6 and has it switched off, or the port is taken: then this fails as well.
    return socket.create_server(("", port))


def _node_session() -> aiohttp.ClientSession:
    """Never through a proxy: nodes are asked at addresses of their pods."""
    return aiohttp.ClientSession(trust_env=False, connector=aiohttp.TCPConnector(limit=256, limit_per_host=16))


async def _waited(stop: asyncio.Event) -> None:
    await stop.wait()


async def _until_the_first_ends(*parts: Awaitable[None]) -> None:
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# --- a process ---------------------------------------------------------------------------------------------------


def run(environ: Mapping[str, str]) -> int:
    """Run an operator in the foreground; return its exit code."""
    try:
        settings = settings_from(environ)
        reached: Reached = KillAt(settings.failpoint) if settings.failpoint else never
    except (BadSetting, ValueError) as error:
        os.write(2, f"ringkeep-operator: {error}\n".encode())
        return 2
    logs.configure(settings.log_level)
    logger.info("operator_starts", **settings.shown())
    try:
        asyncio.run(_main(settings, reached))
    except Exception:
        logger.exception("operator_failed")
        return 1
    logger.info("operator_ended")
    return 0


async def _main(settings: OperatorSettings, reached: Reached) -> None:
    # Only here: kopf costs memory and a tenth of a second that tests and --help need not pay.
    from ringkeep_operator import handlers
    from ringkeep_operator.plan import plan

    where = await configuration()

    async def feed(changed: Callable[[Mapping[str, Any]], None]) -> None:
        await handlers.run(settings, settings.identity or "operator", changed, lambda: handlers.connection(where))

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await Operator(settings, where, plan, feed, reached=reached).run(stop)
