"""The metrics of a node: their names, and how they come to the exposition page.

The hot path only adds numbers: requests go into a ``Durations`` (a list of counts), and everything else is read from the
node at the moment somebody scrapes (``NodeNumbers``). Names and labels are a contract; docs/metrics.md describes each, and a
test holds the two together.

    request --> Durations.observe        scrape --> NodeCollector.collect --> NodeNumbers --> exposition
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping

from msgspec import Struct, field
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

PREFIX = "ringkeep_node_"
REQUEST_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
STAGE_BOUNDS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
LAG_BOUNDS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 3.0, 10.0)


class Durations:
    """A histogram of seconds that costs a search and two additions per observation. Not for several threads."""

    __slots__ = ("bounds", "counts", "sum_s")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum_s += seconds

    @property
    def count(self) -> int:
        """How many were observed."""
        return sum(self.counts)

    def buckets(self) -> list[tuple[str, float]]:
        """Return (upper bound, how many were at most that), as the exposition format wants them."""
        total = 0
        rows: list[tuple[str, float]] = []
        for bound, count in zip((*(f"{bound:g}" for bound in self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            rows.append((bound, float(total)))
        return rows


class CommitStages(Struct, frozen=True):
    """How long the parts of a commit take at the primary. The runtime observes, the collector reads."""

    log_wait: Durations = field(default_factory=lambda: Durations(STAGE_BOUNDS_S))
    """From append to the start of the sync that makes it durable; the first append of each batch."""
    fsync: Durations = field(default_factory=lambda: Durations(STAGE_BOUNDS_S))
    """One write and sync of a batch."""
    replicate: Durations = field(default_factory=lambda: Durations(STAGE_BOUNDS_S))
    """From append to the last acknowledgement that the commit needed; one change at a time is followed."""


class Traffic(Struct):
    """What left and what came, since the start: plain numbers that one thread adds to."""

    sent: int = 0
    sent_bytes: int = 0
    received: int = 0
    received_bytes: int = 0

    def counts(self) -> dict[str, int]:
        """Return how many, by direction."""
        return {"sent": self.sent, "received": self.received}

    def sizes(self) -> dict[str, int]:
        """Return how many bytes, by direction."""
        return {"sent": self.sent_bytes, "received": self.received_bytes}


class NodeNumbers(Struct, frozen=True, kw_only=True):
    """Counters and gauges of one moment. Counters only grow within a boot; sizes are in bytes, times in seconds.

    Mappings are keyed by the values of their label; a value that never occurred may be left out.
    """

    open_requests: int = 0
    open_bytes: int = 0
    shed: int = 0
    forwards: int = 0
    retries: int = 0
    writes_committed: int = 0
    reads_answered: Mapping[str, int] = {}
    """By consistency: strict or local."""
    log_bytes: int = 0
    log_queued_bytes: int = 0
    disk_free_bytes: int = 0
    disk_full: bool = False
    disk_stalled: bool = False
    members: Mapping[str, int] = {}
    """By state: joining, alive, suspect, dead or left."""
    verdicts: Mapping[str, int] = {}
    """State changes of others that this node decided or heard of, by state: suspect or dead."""
    refutes: int = 0
    gossip_messages: Mapping[str, int] = {}
    """By direction: sent or received."""
    gossip_bytes: Mapping[str, int] = {}
    peer_frames: Mapping[str, int] = {}
    peer_bytes: Mapping[str, int] = {}
    raft_term: int = 0
    raft_is_leader: bool = False
    raft_commit_index: int = 0
    raft_elections: int = 0
    map_version: int = 0
    shards: Mapping[tuple[str, str], int] = {}
    """By role of this node (primary, in_sync, learner) and state (ok, under_replicated, moving, unavailable)."""
    copy_bytes: int = 0
    cold_copies: int = 0
    refused: int = 0
    import_lines: Mapping[str, int] = {}
    """By result: stored or failed."""
    hand_overs: Mapping[str, int] = {}
    """By result: moved, or kept because another change came first or too much was pending."""
    hand_over_pauses: Durations = field(default_factory=lambda: Durations(()))
    snapshot_bytes: Mapping[str, int] = {}
    snapshot_rows: Mapping[str, int] = {}
    snapshot_streams: Mapping[str, int] = {}
    copies_moved: int = 0
    plan_copies_left: int = 0
    services: Mapping[str, int] = {}
    """Registered instances of all nodes, by status."""
    service_events: Mapping[str, int] = {}
    service_waits: int = 0
    dns_questions: Mapping[str, int] = {}
    hot_spot_swaps: int = 0
    busiest_load_share: float = 0.0


MEMBER_STATES = ("joining", "alive", "suspect", "dead", "left")
VERDICTS = ("suspect", "dead")
DIRECTIONS = ("sent", "received")
RESULTS = ("stored", "failed")
HAND_OVER_RESULTS = ("moved", "kept")
CONSISTENCIES = ("strict", "local")
ROLES = ("primary", "in_sync", "learner")
SERVICE_STATES = ("passing", "warning", "critical")
DNS_RESULTS = ("answered", "truncated", "dropped")
SERVICE_EVENTS = ("lapsed", "adopted", "owner_removed", "refused", "woken")
SHARD_STATES = ("ok", "under_replicated", "moving", "unavailable")


class Scalar(Struct, frozen=True):
    """A metric without labels, read from the attribute of ``NodeNumbers`` with the same name unless ``source`` says so."""

    name: str
    text: str
    source: str
    counter: bool = False


class Labelled(Struct, frozen=True):
    """A metric with one label; each of ``values`` is always shown, so that no series appears out of nothing."""

    name: str
    text: str
    source: str
    label: str
    values: tuple[str, ...]
    counter: bool = False


SCALARS = (
    Scalar("requests_in_flight", "Requests taken and not yet answered", "open_requests"),
    Scalar("requests_in_flight_bytes", "Bytes that requests in flight hold", "open_bytes"),
    Scalar("requests_shed_total", "Requests refused as overloaded before any work was done", "shed", True),
    Scalar("forwards_total", "Requests sent on to another node", "forwards", True),
    Scalar("retries_total", "Attempts inside a request after its first", "retries", True),
    Scalar(
        "writes_committed_total", "Changes of shards led by this node that were committed", "writes_committed", True
    ),
    Scalar("log_bytes", "Size of the write-ahead log on disk", "log_bytes"),
    Scalar("log_queued_bytes", "Bytes that wait for the log's thread", "log_queued_bytes"),
    Scalar("disk_free_bytes", "Free space of the data directory's volume", "disk_free_bytes"),
    Scalar("disk_full", "1 while less is free than a segment of the log needs", "disk_full"),
    Scalar("disk_stalled", "1 while a sync of the log takes longer than 2 s", "disk_stalled"),
    Scalar("suspicion_refutes_total", "Suspicions of this node that it refuted", "refutes", True),
    Scalar("raft_term", "Raft term", "raft_term"),
    Scalar("raft_leader", "1 while this node is the Raft leader", "raft_is_leader"),
    Scalar("raft_commit_index", "Raft commit index", "raft_commit_index"),
    Scalar("raft_elections_total", "Elections that this node started", "raft_elections", True),
    Scalar("map_version", "Version of the shard map that this node holds", "map_version"),
    Scalar(
        "hot_spot_swaps_total", "Swaps of a heavy for a light shard that this leader ordered", "hot_spot_swaps", True
    ),
    Scalar(
        "busiest_load_share",
        "Part of the cluster's writes and strict reads that go to its busiest node; 0 unless swaps are wanted",
        "busiest_load_share",
    ),
    Scalar("copies_moved_total", "Copies on this node that became in sync", "copies_moved", True),
    Scalar(
        "plan_copies_left",
        "Copies that the plan of this leader still has to bring in sync; 0 elsewhere",
        "plan_copies_left",
    ),
    Scalar("copy_bytes", "Size of the materialised store's files", "copy_bytes"),
    Scalar("cold_copies", "Removed copies that are kept for a while, for a rescue by hand", "cold_copies"),
    Scalar("service_waits", "Queries that wait for a change of the registry", "service_waits"),
    Scalar(
        "peers_refused_total", "Connections and dials refused: of another cluster, or not understood", "refused", True
    ),
)

LABELLED = (
    Labelled(
        "reads_answered_total", "Reads answered by this node", "reads_answered", "consistency", CONSISTENCIES, True
    ),
    Labelled("members", "Members as this node sees them", "members", "state", MEMBER_STATES),
    Labelled(
        "failure_verdicts_total",
        "Members that this node came to see in this state",
        "verdicts",
        "state",
        VERDICTS,
        True,
    ),
    Labelled("gossip_messages_total", "Gossip datagrams", "gossip_messages", "direction", DIRECTIONS, True),
    Labelled("gossip_bytes_total", "Bytes of gossip datagrams", "gossip_bytes", "direction", DIRECTIONS, True),
    Labelled("peer_frames_total", "Frames between nodes", "peer_frames", "direction", DIRECTIONS, True),
    Labelled("peer_bytes_total", "Bytes of frames between nodes", "peer_bytes", "direction", DIRECTIONS, True),
    Labelled(
        "snapshot_bytes_total", "Bytes of documents in snapshots", "snapshot_bytes", "direction", DIRECTIONS, True
    ),
    Labelled("snapshot_rows_total", "Documents in snapshots", "snapshot_rows", "direction", DIRECTIONS, True),
    Labelled("snapshot_streams", "Snapshots under way", "snapshot_streams", "direction", DIRECTIONS),
    Labelled(
        "services", "Registered instances of services, as this node sees them", "services", "status", SERVICE_STATES
    ),
    Labelled(
        "service_events_total", "What happened in the registry here", "service_events", "event", SERVICE_EVENTS, True
    ),
    Labelled("dns_questions_total", "Questions over DNS", "dns_questions", "result", DNS_RESULTS, True),
    Labelled("import_lines_total", "Lines of imports that have ended", "import_lines", "result", RESULTS, True),
    Labelled("hand_overs_total", "Shards whose hand-over began here", "hand_overs", "result", HAND_OVER_RESULTS, True),
)

REQUESTS = "request_duration_seconds"
STAGES = "commit_stage_seconds"
SHARDS = "shards"
LOOP_LAG = "loop_lag_seconds"
PAUSES = "hand_over_pause_seconds"
LOG_LINES_DROPPED = "log_lines_dropped_total"
INFO = "info"


class Requests:
    """Durations of HTTP requests by route, method and status code; all three come from closed sets."""

    __slots__ = ("_by_labels",)

    def __init__(self) -> None:
        self._by_labels: dict[tuple[str, str, int], Durations] = {}

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        labels = (route, method, status)
        durations = self._by_labels.get(labels)
        if durations is None:
            durations = self._by_labels[labels] = Durations(REQUEST_BOUNDS_S)
        durations.observe(seconds)

    def items(self) -> Iterable[tuple[tuple[str, str, int], Durations]]:
        """Return everything seen so far, in a stable order."""
        return sorted(self._by_labels.items())


class NodeMetrics(Struct, frozen=True):
    """Everything that code in the node adds to; one object per process."""

    requests: Requests = field(default_factory=Requests)
    stages: CommitStages = field(default_factory=CommitStages)
    loop_lag: Durations = field(default_factory=lambda: Durations(LAG_BOUNDS_S))


class NodeCollector(Collector):
    """Turns the numbers of this moment into metric families."""

    def __init__(
        self, metrics: NodeMetrics, *, numbers: Callable[[], NodeNumbers], dropped: Callable[[], int], version: str
    ) -> None:
        self._metrics = metrics
        self._numbers = numbers
        self._dropped = dropped
        self._version = version

    def collect(self) -> Iterator[Metric]:
        """Return every family, also those that are still zero."""
        numbers = self._numbers()
        yield from self._histograms(numbers)
        for scalar in SCALARS:
            yield _family(scalar.name, scalar.text, scalar.counter, float(getattr(numbers, scalar.source)))
        for labelled in LABELLED:
            yield _labelled(labelled, getattr(numbers, labelled.source))
        yield _shards(numbers)
        yield _family(LOG_LINES_DROPPED, "Log lines dropped because nobody read them", True, float(self._dropped()))
        info = GaugeMetricFamily(PREFIX + INFO, "1; the label says which version runs", labels=["version"])
        info.add_metric([self._version], 1.0)
        yield info

    def _histograms(self, numbers: NodeNumbers) -> Iterator[Metric]:
        requests = HistogramMetricFamily(
            PREFIX + REQUESTS, "Time from a request's headers to its answer", labels=["route", "method", "code"]
        )
        for (route, method, status), durations in self._metrics.requests.items():
            requests.add_metric([route, method, str(status)], durations.buckets(), durations.sum_s)
        yield requests
        stages = HistogramMetricFamily(PREFIX + STAGES, "Time of one stage of a commit", labels=["stage"])
        for stage in ("log_wait", "fsync", "replicate"):
            durations = getattr(self._metrics.stages, stage)
            stages.add_metric([stage], durations.buckets(), durations.sum_s)
        yield stages
        pauses = HistogramMetricFamily(PREFIX + PAUSES, "How long a shard that is handed over admitted no writes here")
        pauses.add_metric([], numbers.hand_over_pauses.buckets(), numbers.hand_over_pauses.sum_s)
        yield pauses
        lag = HistogramMetricFamily(PREFIX + LOOP_LAG, "How late the event loop ran a timer")
        lag.add_metric([], self._metrics.loop_lag.buckets(), self._metrics.loop_lag.sum_s)
        yield lag


def registry_of(collector: NodeCollector) -> CollectorRegistry:
    """Return a registry of its own (never the global one) with this node's and the process's metrics."""
    registry = CollectorRegistry()
    registry.register(collector)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def _family(name: str, text: str, counter: bool, value: float) -> Metric:
    kind = CounterMetricFamily if counter else GaugeMetricFamily
    family = kind(PREFIX + name.removesuffix("_total"), text)
    family.add_metric([], value)
    return family


def _labelled(what: Labelled, values: Mapping[str, int]) -> Metric:
    kind = CounterMetricFamily if what.counter else GaugeMetricFamily
    family = kind(PREFIX + what.name.removesuffix("_total"), what.text, labels=[what.label])
    for value in what.values:
        family.add_metric([value], float(values.get(value, 0)))
    return family


def _shards(numbers: NodeNumbers) -> Metric:
    family = GaugeMetricFamily(
        PREFIX + SHARDS, "Shards that this node holds, by its role and the shard's state", labels=["role", "state"]
    )
    for role in ROLES:
        for state in SHARD_STATES:
            family.add_metric([role, state], float(numbers.shards.get((role, state), 0)))
    return family
