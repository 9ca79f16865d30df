"""The metrics of a node: their names, and how they come to the exposition page.

The hot path only adds numbers: requests go into a ``Durations`` (a list of counts), and everything else is read from the
node at the moment somebody scrapes (``NodeNumbers``). Names and labels are a contract; docs/metrics.md is made from the
descriptions here by tools/metrics_doc.py.

    request --> Durations.observe        scrape --> NodePage.text --> NodeNumbers --> exposition format 0.0.4

The page is written here and not by prometheus-client, which takes 9 us a sample: with 60 kinds of requests that is 12 ms in
which the event loop does nothing else. What the process and Python say of themselves still comes from that library.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate

from msgspec import Struct, field
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest

PREFIX = "ringkeep_node_"
REQUEST_BOUNDS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
STAGE_BOUNDS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
LAG_BOUNDS_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 3.0, 10.0)


_BOUND_NAMES: dict[tuple[float, ...], tuple[str, ...]] = {}


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

    def buckets(self) -> list[tuple[str, int]]:
        """Return (upper bound, how many were at most that), as the exposition format wants them."""
        names = _BOUND_NAMES.get(self.bounds)
        if names is None:
            names = _BOUND_NAMES[self.bounds] = (*(f"{bound:g}" for bound in self.bounds), "+Inf")
        return list(zip(names, accumulate(self.counts), strict=True))


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
    store_queued_bytes: int = 0
    disk_free_bytes: int = 0
    disk_volume_bytes: int = 0
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
    leader_known: bool = False
    raft_term: int = 0
    raft_is_leader: bool = False
    raft_commit_index: int = 0
    raft_elections: int = 0
    map_version: int = 0
    shards: Mapping[tuple[str, str], int] = {}
    """By role of this node (primary, in_sync, learner) and state (ok, under_replicated, moving, unavailable)."""
    cluster_shards: Mapping[str, int] = {}
    """Of the whole cluster by the held map, by state; of those that are ``without_primary`` that is the state."""
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
CLUSTER_SHARD_STATES = (*SHARD_STATES, "without_primary")
STAGES_OF_A_COMMIT = ("log_wait", "fsync", "replicate")


class Scalar(Struct, frozen=True):
    """A metric without labels, read from the attribute of ``NodeNumbers`` called ``source``.

    ``text`` is what the page says of it; ``more`` is said in the documentation as well.
    """

    name: str
    text: str
    source: str
    counter: bool = False
    more: str = ""


class Labelled(Struct, frozen=True):
    """A metric with one label; each of ``values`` is always shown, so that no series appears out of nothing."""

    name: str
    text: str
    source: str
    label: str
    values: tuple[str, ...]
    counter: bool = False
    more: str = ""


class Described(Struct, frozen=True):
    """A family as people read of it: ``labels`` with their values, none where those are told in the text."""

    name: str
    kind: str
    labels: tuple[tuple[str, tuple[str, ...]], ...]
    text: str
    more: str = ""


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
    Scalar("store_queued_bytes", "Bytes of committed entries that wait for the store's thread", "store_queued_bytes"),
    Scalar("disk_free_bytes", "Free space of the data directory's volume", "disk_free_bytes"),
    Scalar("disk_volume_bytes", "Size of the data directory's volume", "disk_volume_bytes"),
    Scalar(
        "disk_full",
        "1 while less is free than a segment of the log needs",
        "disk_full",
        more="A segment has `RINGKEEP_LOG_SEGMENT_BYTES`. Nothing is refused for it: the node ends when the disk is full",
    ),
    Scalar("disk_stalled", "1 while a sync of the log takes longer than 2 s", "disk_stalled"),
    Scalar("suspicion_refutes_total", "Suspicions of this node that it refuted", "refutes", True),
    Scalar("leader_known", "1 while this node knows a Raft leader", "leader_known"),
    Scalar("raft_term", "Raft term", "raft_term", more="0 on a node that does not vote"),
    Scalar("raft_leader", "1 while this node is the Raft leader", "raft_is_leader"),
    Scalar("raft_commit_index", "Raft commit index", "raft_commit_index"),
    Scalar("raft_elections_total", "Elections that this node started", "raft_elections", True),
    Scalar("map_version", "Version of the shard map that this node holds", "map_version"),
    Scalar(
        "hot_spot_swaps_total",
        "Swaps of a heavy for a light shard that this leader ordered",
        "hot_spot_swaps",
        True,
        "Only with the setting `hot_spot_swaps`",
    ),
    Scalar(
        "busiest_load_share",
        "Part of the cluster's writes and strict reads that go to its busiest node; 0 unless swaps are wanted",
        "busiest_load_share",
        more="As nodes tell each other; the busiest node is the one that leads the busiest shards",
    ),
    Scalar(
        "copies_moved_total",
        "Copies on this node that became in sync",
        "copies_moved",
        True,
        "Moved here, or caught up after a restart",
    ),
    Scalar(
        "plan_copies_left",
        "Copies that the plan of this leader still has to bring in sync; 0 elsewhere",
        "plan_copies_left",
    ),
    Scalar(
        "service_waits",
        "Queries that wait for a change of the registry",
        "service_waits",
        more="At most `RINGKEEP_SERVICES_WAITERS_MAX`",
    ),
    Scalar(
        "copy_bytes",
        "Size of the materialised store's files",
        "copy_bytes",
        more="The SQLite file that holds all copies, with its write-ahead file: deleted rows free space inside it first",
    ),
    Scalar(
        "cold_copies",
        "Removed copies that are kept for a while, for a rescue by hand",
        "cold_copies",
        more="The map no longer lists them: they are no copies any more, and never served",
    ),
    Scalar(
        "peers_refused_total",
        "Connections and dials refused: of another cluster, or not understood",
        "refused",
        True,
        "Or of another node than expected",
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
        "snapshot_bytes_total",
        "Bytes of documents in snapshots",
        "snapshot_bytes",
        "direction",
        DIRECTIONS,
        True,
        "With their names, for copies that lack more than the log has; repeats included",
    ),
    Labelled("snapshot_rows_total", "Documents in snapshots", "snapshot_rows", "direction", DIRECTIONS, True),
    Labelled("snapshot_streams", "Snapshots under way", "snapshot_streams", "direction", DIRECTIONS),
    Labelled(
        "services",
        "Registered instances of services, as this node sees them",
        "services",
        "status",
        SERVICE_STATES,
        more="Those of all nodes (discovery.md)",
    ),
    Labelled(
        "service_events_total",
        "What happened in the registry here",
        "service_events",
        "event",
        SERVICE_EVENTS,
        True,
        "A ttl ran out; an instance of a dead node was taken over; what a dead node owned was forgotten; a client changed "
        "too much; a waiting query was woken",
    ),
    Labelled(
        "dns_questions_total",
        "Questions over DNS",
        "dns_questions",
        "result",
        DNS_RESULTS,
        True,
        "Answered, told to come over TCP, or neither, as a network asks too much or too many connections are open "
        "(discovery-consul.md)",
    ),
    Labelled("import_lines_total", "Lines of imports that have ended", "import_lines", "result", RESULTS, True),
    Labelled(
        "hand_overs_total",
        "Shards whose hand-over began here",
        "hand_overs",
        "result",
        HAND_OVER_RESULTS,
        True,
        "Many `kept`: their primaries are too busy to drain in 30 ms",
    ),
    Labelled(
        "cluster_shards",
        "Shards of the whole cluster as this node sees them",
        "cluster_shards",
        "state",
        CLUSTER_SHARD_STATES,
        more="By the map it holds, and by gossip: `without_primary` are those whose primary it calls dead, or which ended; "
        "`unavailable` have fewer copies in sync than they need, and refuse writes",
    ),
)

REQUESTS = Described(
    "request_duration_seconds",
    "histogram",
    (("route", ()), ("method", ()), ("code", ())),
    "Time from a request's headers to its answer",
    "`documents` are lists, `asset` files of the console, `console_events` its streams, counted when they open; `code` is "
    "the HTTP status. A series appears with its first request",
)
STAGES = Described(
    "commit_stage_seconds",
    "histogram",
    (("stage", STAGES_OF_A_COMMIT),),
    "Time of one stage of a commit",
    "At the primary: from append to the start of the sync that covers it; one write and sync of a batch; from append to the "
    "last acknowledgement needed. `log_wait` is that of the first append of each batch; `replicate` is a sample: one change "
    "at a time is followed",
)
PAUSES = Described(
    "hand_over_pause_seconds",
    "histogram",
    (),
    "How long a shard that is handed over admitted no writes here",
    "They waited meanwhile",
)
LOOP_LAG = Described(
    "loop_lag_seconds",
    "histogram",
    (),
    "How late the event loop ran a timer",
    "That of the node's machines, several times a second",
)
PROBLEMS = Described(
    "problems_total",
    "counter",
    (("error", ()),),
    "Requests answered with a problem document, by its code",
    "`error` is the stable `code` of the problem document; `internal` is a bug. Every code is shown from the start",
)
SHARDS = Described(
    "shards",
    "gauge",
    (("role", ROLES), ("state", SHARD_STATES)),
    "Shards that this node holds, by its role and the shard's state",
)
LOG_LINES_DROPPED = Described("log_lines_dropped_total", "counter", (), "Log lines dropped because nobody read them")
INFO = Described("info", "gauge", (("version", ()),), "1; the label says which version runs")


def described() -> list[Described]:
    """Return every family of a node, in the order of the page."""
    scalars = [Described(one.name, _kind(one.counter), (), one.text, one.more) for one in SCALARS]
    labelled = [
        Described(one.name, _kind(one.counter), ((one.label, one.values),), one.text, one.more) for one in LABELLED
    ]
    return [REQUESTS, STAGES, PAUSES, LOOP_LAG, PROBLEMS, *scalars, *labelled, SHARDS, LOG_LINES_DROPPED, INFO]


def _kind(counter: bool) -> str:
    return "counter" if counter else "gauge"


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


class NodePage:
    """Turns the numbers of this moment into the exposition page. ``problems``: how many answers had each error's code."""

    def __init__(
        self,
        metrics: NodeMetrics,
        *,
        numbers: Callable[[], NodeNumbers],
        problems: Callable[[], Mapping[str, int]],
        dropped: Callable[[], int],
        version: str,
    ) -> None:
        self._metrics = metrics
        self._numbers = numbers
        self._problems = problems
        self._dropped = dropped
        self._version = version
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        PlatformCollector(registry=self._process)
        GCCollector(registry=self._process)

    def __call__(self) -> bytes:
        """Return the whole page."""
        return self.text().encode() + generate_latest(self._process)

    def text(self) -> str:
        """Return every family of the node, also those that are still zero."""
        numbers = self._numbers()
        lines: list[str] = []
        self._histograms(lines, numbers)
        _begin(lines, PROBLEMS)
        for code, count in sorted(self._problems().items()):
            _sample(lines, PROBLEMS.name, f'{{error="{code}"}}', count)
        for scalar in SCALARS:
            _begin(lines, scalar)
            _sample(lines, scalar.name, "", getattr(numbers, scalar.source))
        for labelled in LABELLED:
            _begin(lines, labelled)
            values: Mapping[str, int] = getattr(numbers, labelled.source)
            for value in labelled.values:
                _sample(lines, labelled.name, f'{{{labelled.label}="{value}"}}', values.get(value, 0))
        _begin(lines, SHARDS)
        for role in ROLES:
            for state in SHARD_STATES:
                _sample(lines, SHARDS.name, f'{{role="{role}",state="{state}"}}', numbers.shards.get((role, state), 0))
        _begin(lines, LOG_LINES_DROPPED)
        _sample(lines, LOG_LINES_DROPPED.name, "", self._dropped())
        _begin(lines, INFO)
        _sample(lines, INFO.name, f'{{version="{self._version}"}}', 1)
        return "".join(lines)

    def _histograms(self, lines: list[str], numbers: NodeNumbers) -> None:
        _begin(lines, REQUESTS)
        for (route, method, status), durations in self._metrics.requests.items():
            _histogram(lines, REQUESTS.name, f'route="{route}",method="{method}",code="{status}"', durations)
        _begin(lines, STAGES)
        for stage in STAGES_OF_A_COMMIT:
            _histogram(lines, STAGES.name, f'stage="{stage}"', getattr(self._metrics.stages, stage))
        _begin(lines, PAUSES)
        _histogram(lines, PAUSES.name, "", numbers.hand_over_pauses)
        _begin(lines, LOOP_LAG)
        _histogram(lines, LOOP_LAG.name, "", self._metrics.loop_lag)


# No label and no text here holds a character that the format would want escaped: all are from closed sets of this module,
# but the codes of errors and the version, which are words. A test has the library's parser read the page.


def _begin(lines: list[str], family: Described | Scalar | Labelled) -> None:
    kind = family.kind if isinstance(family, Described) else _kind(family.counter)
    lines.append(f"# HELP {PREFIX}{family.name} {family.text}\n# TYPE {PREFIX}{family.name} {kind}\n")


def _sample(lines: list[str], name: str, labels: str, value: float) -> None:
    lines.append(f"{PREFIX}{name}{labels} {float(value)!r}\n")


def _histogram(lines: list[str], name: str, labels: str, durations: Durations) -> None:
    start = f"{PREFIX}{name}_bucket{{{labels}," if labels else f"{PREFIX}{name}_bucket{{"
    buckets = durations.buckets()
    lines.extend([f'{start}le="{bound}"}} {count}\n' for bound, count in buckets])
    ending = f"{{{labels}}}" if labels else ""
    lines.append(
        f"{PREFIX}{name}_count{ending} {buckets[-1][1]}\n{PREFIX}{name}_sum{ending} {float(durations.sum_s)!r}\n"
    )
