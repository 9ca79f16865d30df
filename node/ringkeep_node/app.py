"""One node process: the only place that wires settings, disk, machines, peers and HTTP together.

    environment -> settings -> data directory (locked) -> log, store -> host -> addresses -> peers, gossip, REST
    SIGTERM, SIGINT -> not ready -> running requests end -> Raft leadership and primaries to others, everybody is told
                    -> peers -> store, log -> 0
    a failed disk, a bug in a core task -> 1, at once: what cannot be trusted must not go on answering
    the cluster says that this storage id has left for good -> marked on disk -> 4: with RINGKEEP_LEFT_DATA=empty the
                    next start deletes the data and goes on as a new member

A node that cannot start says why in one log line and in one sentence on standard error, and exits with 1.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import resource
import secrets
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import structlog
from aiohttp import web
from msgspec.structs import replace

from ringkeep_core.errors import BadSetting, RingkeepError, StartRefused
from ringkeep_core.services import Ranges
from ringkeep_core.wire import PROTOCOL_VERSION, Hello
from ringkeep_node.dns.names import RegistryNames
from ringkeep_node.dns.server import DnsServer, DnsSettings
from ringkeep_node.http.consul import consul_handlers
from ringkeep_node.http.consul_answers import Consul
from ringkeep_node.http.consul_waiting import ConsulSettings
from ringkeep_node.http.exchange import Edge
from ringkeep_node.http.server import Api, HttpServer, ServerSettings
from ringkeep_node.logs import LineWriter, configure
from ringkeep_node.machines.gateway import GatewaySettings
from ringkeep_node.machines.node import NodeIdentity
from ringkeep_node.machines.node import NodeSettings as MachineSettings
from ringkeep_node.machines.raft.settings import RaftSettings
from ringkeep_node.machines.recovery import BOOTS_KEPT, RecoveredLog
from ringkeep_node.machines.registry import RegistrySettings
from ringkeep_node.machines.shard.settings import ReplicationSettings
from ringkeep_node.machines.swim.timing import SwimSettings
from ringkeep_node.metrics import NodeMetrics, NodePage
from ringkeep_node.runtime.directory import IDENTITY_NAME, Directory
from ringkeep_node.runtime.disk import RealDisk
from ringkeep_node.runtime.host import Host, HostParts
from ringkeep_node.runtime.importing import Importer, ImportSettings
from ringkeep_node.runtime.listening import listen, open_datagrams
from ringkeep_node.runtime.names import Names, system_lookup
from ringkeep_node.runtime.peers import HELLO_CHANNEL
from ringkeep_node.runtime.service import Service
from ringkeep_node.runtime.services import Services, ServicesSettings
from ringkeep_node.runtime.store.store import Store, StoreSettings
from ringkeep_node.runtime.succeeding import succeed
from ringkeep_node.runtime.trails import Trails
from ringkeep_node.runtime.wal.log import Log, LogSettings
from ringkeep_node.settings import NodeSettings, node_settings, subsystem, unknown, variables_of
from ringkeep_node.tracing import NoTracer, OtelTracer, exporter_of, provider_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_LEFT: Final = 4
GC_THRESHOLDS: Final = (50_000, 20, 100)
OPEN_FILES: Final = 65_536
SWITCH_INTERVAL_S: Final = 0.0005
TRACES_END_S: Final = 2.0
LOG_FIXED: Final = ("salt",)
STORE_FIXED: Final = ("vfs",)

SUBSYSTEMS: Final[Mapping[str, tuple[type[Any], tuple[str, ...]]]] = {
    "RAFT": (RaftSettings, ()),
    "REPLICATION": (ReplicationSettings, ()),
    "SWIM": (SwimSettings, ()),
    "GATEWAY": (GatewaySettings, ()),
    "LOG": (LogSettings, LOG_FIXED),
    "STORE": (StoreSettings, STORE_FIXED),
    "HTTP": (ServerSettings, ()),
    "IMPORT": (ImportSettings, ()),
    "SERVICES": (ServicesSettings, ()),
    "CONSUL": (ConsulSettings, ()),
    "DNS": (DnsSettings, ()),
}
"""Every subsystem whose settings can be set, with the fields that cannot."""

logger: Any = structlog.get_logger()


class Configuration(NamedTuple):
    """Everything that the environment says."""

    node: NodeSettings
    machines: MachineSettings
    log: LogSettings
    store: StoreSettings
    http: ServerSettings
    imports: ImportSettings
    services: ServicesSettings
    consul: ConsulSettings
    dns: DnsSettings
    unknown: tuple[str, ...]
    exporter: str = ""
    """Where OpenTelemetry's spans go, by the name of an exporter; "": there are none."""


class Disk(NamedTuple):
    """What is open on disk."""

    directory: Directory
    log: Log
    recovered: RecoveredLog
    store: Store


def configuration(environment: Mapping[str, str]) -> Configuration:
    """Read the environment. Raises ``BadSetting`` with one sentence."""
    node = node_settings(environment)
    services = subsystem("SERVICES", ServicesSettings, environment)
    known = [variable for prefix, (kind, fixed) in SUBSYSTEMS.items() for variable in variables_of(prefix, kind, fixed)]
    return Configuration(
        node=node,
        machines=MachineSettings(
            raft=subsystem("RAFT", RaftSettings, environment),
            replication=subsystem("REPLICATION", ReplicationSettings, environment),
            swim=subsystem("SWIM", SwimSettings, environment),
            gateway=subsystem("GATEWAY", GatewaySettings, environment),
            services=registry_settings(services, on_loopback=node.advertise.is_loopback)[0],
        ),
        log=subsystem(
            "LOG", LogSettings, environment, **{field: LogSettings()._asdict()[field] for field in LOG_FIXED}
        ),
        store=subsystem(
            "STORE", StoreSettings, environment, **{field: StoreSettings()._asdict()[field] for field in STORE_FIXED}
        ),
        http=subsystem("HTTP", ServerSettings, environment),
        imports=subsystem("IMPORT", ImportSettings, environment),
        services=services,
        consul=subsystem("CONSUL", ConsulSettings, environment),
        dns=subsystem("DNS", DnsSettings, environment),
        unknown=unknown(environment, known),
        exporter=exporter_of(environment),
    )


def registry_settings(services: ServicesSettings, *, on_loopback: bool) -> tuple[RegistrySettings, Ranges]:
    """Return what the settings of the registry mean. Raises ``BadSetting`` with one sentence."""
    try:
        return services.machine(), services.ranges(on_loopback=on_loopback)
    except ValueError as error:
        raise BadSetting(f"the settings RINGKEEP_SERVICES_* make no sense: {error}") from error


# --- the process -------------------------------------------------------------------------------------------------


def run(environment: Mapping[str, str]) -> int:
    """Run one node in the foreground until it is stopped; return the exit code."""
    return _foreground(environment, lambda process: process.run())


def recover(environment: Mapping[str, str], present: Collection[str]) -> int:
    """Begin the next generation on the disk of this node, which is stopped; return the exit code.

    What came of it is one JSON line, ``generation_begun``, or the reason why not. See ``runtime.succeeding``.
    """
    return _foreground(environment, lambda process: process.recover(present))


def _foreground(environment: Mapping[str, str], work: Callable[[Process], Coroutine[Any, Any, int]]) -> int:
    try:
        config = configuration(environment)
    except RingkeepError as error:
        return _refused_early(error, environment)
    writer = LineWriter(sys.stdout.fileno(), config.node.log_lines_max)
    writer.start()
    configure(writer, level=config.node.log_level, node=config.node.name)
    _raise_file_limit()
    _prefer_batches()
    code = EXIT_FAILED
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            code = runner.run(work(Process(config, writer)))
    except RingkeepError as error:
        _refused(error)
    except Exception:  # the edge of the program: whatever it was, people must read it
        logger.exception("node_failed", error_code="internal")
    finally:
        writer.stop()
    if code != EXIT_OK:
        # Threads that hang on a failed disk must not keep a process that says it has ended.
        sys.stderr.flush()
        os._exit(code)
    return code


def _refused(error: RingkeepError) -> None:
    logger.error("start_refused", error_code=error.code, reason=error.detail)
    _tell_people(error.detail)


def _tell_people(sentence: str) -> None:
    """Write a sentence to standard error, unless that is the file of the JSON lines: there the log line has said it."""
    output, errors = (os.fstat(stream.fileno()) for stream in (sys.stdout, sys.stderr))
    if not (stat.S_ISREG(errors.st_mode) and os.path.samestat(output, errors)):
        sys.stderr.write(f"ringkeep-node: {sentence}\n")


def _refused_early(error: RingkeepError, environment: Mapping[str, str]) -> int:
    """Say why before there are settings to log by."""
    writer = LineWriter(sys.stdout.fileno(), 100)
    writer.start()
    configure(writer, level="info", node=environment.get("RINGKEEP_NAME", ""))
    _refused(error)
    writer.stop()
    return EXIT_FAILED


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return how to make a uvloop, or None on a platform that has none."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _prefer_batches() -> None:
    """Ask the scheduler not to interrupt a running thread for one that just woke (Linux).

    Each sync, frame and transaction wakes somebody; if that somebody runs at once it carries one change instead of ten.
    Measured on two cores with 64 clients: a third more puts. On two cores that many other programs wanted as well, with and
    without in turn: no more and no fewer puts, with a fifth fewer syncs and a tenth fewer frames for each.
    """
    if sys.platform == "linux" and os.sched_getscheduler(0) == os.SCHED_OTHER:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class Process:
    """The running node: opens everything in order, waits, closes it in reverse."""

    def __init__(self, config: Configuration, writer: LineWriter) -> None:
        self._config = config
        self._writer = writer
        self._metrics = NodeMetrics()
        self._provider: TracerProvider | None = None
        self._trails: Trails | None = None
        self._ended: asyncio.Future[str] | None = None
        self._has_left = False
        self._dns_counts: Callable[[], dict[str, int]] = dict

    async def run(self) -> int:
        """Run until a signal or a failure; return the exit code. Raises ``StartRefused``."""
        self._ended = asyncio.get_running_loop().create_future()
        self._take_signals()
        started = time.monotonic()
        logger.info("node_starting", version=version("ringkeep"), pid=os.getpid(), settings=self._config.node.shown())
        for name in self._config.unknown:
            logger.warning("setting_unknown", variable=name)
        self._provider, why_not = provider_of(self._config.exporter, name=self._config.node.name)
        if why_not:
            logger.warning("tracing_off", reason=why_not)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._end_tracing)
            disk = await stack.enter_async_context(self._opened_disk())
            host, services = await stack.enter_async_context(self._opened_host(disk))
            edge = await stack.enter_async_context(self._opened_api(host, services, disk, stack))
            self._settle_memory()
            logger.info("node_started", duration_s=round(time.monotonic() - started, 3), url=self._config.node.url)
            reason = await self._ended
            edge.stopping = True
            if reason:
                logger.error("node_failed", error_code="internal", reason=reason)
                _tell_people(reason)
                self._writer.stop()
                # fail-stop: nothing is flushed, closed or said any more
                os._exit(EXIT_LEFT if self._has_left else EXIT_FAILED)
            logger.info("node_stopping")
        logger.info("node_stopped")
        return EXIT_OK

    async def recover(self, present: Collection[str]) -> int:
        """Begin the next generation on this node's disk; return the exit code. Raises ``StartRefused``."""
        self._ended = asyncio.get_running_loop().create_future()
        node = self._config.node
        if not (node.data / IDENTITY_NAME).exists():
            raise StartRefused(f"there is no node's data in {node.data}: nothing to recover from")
        async with self._opened_disk() as disk:
            identity = disk.directory.identity
            own = self._identity_of(disk)
            hello = Hello(
                PROTOCOL_VERSION,
                identity.cluster_id,
                own.name,
                own.storage,
                own.boot,
                own.counter,
                own.url,
                own.peer,
                own.zone,
                HELLO_CHANNEL,
                own.weight,
            )
            work = asyncio.ensure_future(succeed(disk.log, disk.recovered, own=hello, present=present))
            await asyncio.wait((work, self._ended), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                raise StartRefused(await self._ended)
            begun = await work
            logger.warning(
                "generation_begun",
                cluster=identity.cluster_id,
                generation=begun.generation,
                storage=own.storage,
                former_version=begun.former,
                former_voters=begun.voters,
                shards=begun.shards,
                absent=begun.absent,
            )
        return EXIT_OK

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)

    def _stop(self) -> None:
        assert self._ended is not None
        if self._ended.done():
            os._exit(EXIT_FAILED)  # Asked twice: whoever asks does not want to wait.
        self._ended.set_result("")

    def _fatal(self, reason: str) -> None:
        assert self._ended is not None
        if not self._ended.done():
            self._ended.set_result(reason)

    def _mark_left(self, directory: Directory) -> None:
        directory.mark_left()
        self._has_left = True

    def _settle_memory(self) -> None:
        # What exists now lives as long as the process: a full collection need not look at it again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        # The log's thread must not wait 5 ms for the interpreter after each sync: that would be most of a write's time.
        sys.setswitchinterval(SWITCH_INTERVAL_S)

    # --- parts, in the order in which they open ------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _opened_disk(self) -> AsyncIterator[Disk]:
        config, loop = self._config, asyncio.get_running_loop()
        directory = Directory.open(
            config.node.data,
            config.node.name,
            lambda: secrets.token_hex(8),
            empties_left=config.node.left_data == "empty",
        )
        if directory.emptied:
            logger.warning("directory_emptied", storage_id=directory.emptied)
        try:
            store = Store.open(directory.store_folder, config.store)
            applied = {(copy.shard, copy.copy): copy.sn for copy in store.copies()}
            log, recovered = Log.open(RealDisk(directory.log_folder), config.log._replace(salt=directory.salt), applied)
        except OSError as error:
            directory.close()
            raise StartRefused(f"the data in {config.node.data} cannot be read: {error}") from error
        except BaseException:
            directory.close()
            raise
        log.start(loop.call_soon_threadsafe, lambda error: self._fatal(f"the log cannot be written: {error}"))
        store.start(loop.call_soon_threadsafe, lambda error: self._fatal(f"the store cannot be written: {error}"))
        try:
            yield Disk(directory, log, recovered, store)
        finally:
            await loop.run_in_executor(None, store.close)
            await loop.run_in_executor(None, log.close)
            directory.close()

    @contextlib.asynccontextmanager
    async def _opened_host(self, disk: Disk) -> AsyncIterator[tuple[Host, Services]]:
        """The node behind its peer address; it does not run before ``_opened_api`` has taken the last address."""
        config, loop = self._config, asyncio.get_running_loop()
        _, ranges = registry_settings(config.services, on_loopback=config.node.advertise.is_loopback)
        services = Services(config.services, ranges, clock=loop.time)
        identity = self._identity_of(disk)
        self._trails = self._trails_of(identity)
        host = Host(
            identity,
            config.machines,
            draw=random.random,
            metrics=self._metrics,
            services=services,
            trails=self._trails,
        )
        try:
            yield host, services
        finally:
            await services.close()
            await host.close()

    def _trails_of(self, identity: NodeIdentity) -> Trails | None:
        """Return who follows single requests; None, which costs nothing, if neither spans nor debug lines are wanted."""
        says = self._config.node.log_level == "debug"
        if self._provider is None and not says:
            return None
        tracer = NoTracer() if self._provider is None else OtelTracer(self._provider)
        return Trails(tracer, says=says, node=identity.name, storage=identity.storage)

    async def _end_tracing(self) -> None:
        """Send what spans are left. An exporter that hangs is left behind: nobody may wait for it."""
        if self._provider is not None:
            sending = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
            sending.start()
            await asyncio.to_thread(sending.join, TRACES_END_S)

    def _identity_of(self, disk: Disk) -> NodeIdentity:
        """Return who this process is: the directory in its next boot."""
        node, boot = self._config.node, secrets.token_hex(8)
        return NodeIdentity(
            name=node.name,
            storage=disk.directory.identity.storage_id,
            boot=boot,
            counter=disk.recovered.boot_counter + 1,
            url=node.url,
            peer=node.advertise.text,
            zone=node.zone,
            weight=node.weight,
            former=(*disk.recovered.boots, boot)[-BOOTS_KEPT:],
        )

    @contextlib.asynccontextmanager
    async def _opened_api(
        self, host: Host, services: Services, disk: Disk, stack: contextlib.AsyncExitStack
    ) -> AsyncIterator[Edge]:
        """Take all addresses, then start: a refused start must not have spoken to anybody."""
        node, loop = self._config.node, asyncio.get_running_loop()
        service = Service(host, clock=loop.time, wall=time.time)
        edge = Edge(
            service,
            services,
            admin_token=node.admin_token,
            services_token=self._config.services.token or None,
            reading_bytes_max=self._config.http.reading_bytes_max,
        )
        importer = Importer(service, self._config.imports)
        page = NodePage(
            self._metrics,
            numbers=lambda: replace(
                host.numbers(), import_lines=dict(importer.lines), dns_questions=self._dns_counts()
            ),
            problems=lambda: edge.problems,
            dropped=lambda: self._writer.dropped,
            version=version("ringkeep"),
        )
        consul = consul_handlers(Consul(services, host, self._config.consul, clock=loop.time, draw=random.random))
        api = HttpServer(
            Api(edge, importer, self._metrics.requests, page, _request_failed, self._trails, consul),
            self._config.http,
        )
        await api.bind(node.api.host, node.api.port)
        stack.push_async_callback(api.stop)
        accepting = web.Server(host.links.accept, access_log=None)
        peers, _ = await listen(accepting, node.peer.host, node.peer.port, "RINGKEEP_PEER")
        stack.callback(peers.close)
        udp, _ = await open_datagrams(lambda: host.inbox, node.peer.host, node.peer.port, "RINGKEEP_PEER")
        stack.callback(udp.close)
        await stack.enter_async_context(self._opened_dns(host, services))
        await host.start(
            HostParts(
                log=disk.log,
                recovered=disk.recovered,
                store=disk.store,
                cluster_id=disk.directory.identity.cluster_id,
                adopt_cluster=disk.directory.join_cluster,
                udp=udp,
                seeds=node.seeds,
                draw=random.random,
                nonce=lambda: secrets.token_hex(16),
                fatal=self._fatal,
                mark_left=lambda: self._mark_left(disk.directory),
                balanced=node.stop_notice_s > 0,
                version=version("ringkeep"),
            )
        )
        # Only now: a greeting names this boot, so the disk must know it first.
        await peers.start_serving()
        await api.serve()
        try:
            yield edge
        finally:
            # Both at once: a pod that is deleted by force is killed two seconds after it was told to end. Not ready
            # (``edge.stopping``) and still serving: what others have taken over goes on to them from here, until balancers
            # have seen it.
            notice_s = node.stop_notice_s if edge.stopping and host.has_company else 0.0
            await asyncio.gather(host.leave(), asyncio.sleep(notice_s))
            services.release()  # Who waits for a change is answered now; before, he would only have asked again.
            await api.stop()  # Before peers and gossip: running requests still need them.

    @contextlib.asynccontextmanager
    async def _opened_dns(self, host: Host, services: Services) -> AsyncIterator[None]:
        """Answer names, if that is asked for. While the node belongs to no cluster every answer is a failure of ours."""
        node, loop = self._config.node, asyncio.get_running_loop()
        if node.dns is None:
            yield
            return
        hosts = Names(system_lookup(socket.AF_UNSPEC), loop.time, lambda: 0.0)
        names = RegistryNames(
            lambda: services.view,
            lambda: services.nodes_view,
            lambda: host.shard_map,
            hosts.address,
            datacenter=self._config.consul.datacenter,
        )
        server = DnsServer(names, self._config.dns, clock=loop.time, draw=random.random)
        port = await server.start(node.dns.host, node.dns.port)
        self._dns_counts = server.counts
        logger.info("dns_started", host=node.dns.host, port=port, domains=self._config.dns.domains)
        try:
            yield
        finally:
            server.stop()
            await hosts.close()


def _request_failed(request_id: str, error: BaseException) -> None:
    logger.error("request_failed", request_id=request_id, error_code="internal", exc_info=error)
