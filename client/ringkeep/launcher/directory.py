"""The directory of a local cluster: ``cluster.json``, one folder for each node, a lock.

    D/cluster.json      {cluster_id, nodes: [{name, pid, started, url, peer}]} and the settings of the bootstrap
    D/lock              held by the one launcher that changes anything
    D/<name>/data       the node's data
    D/<name>/log.jsonl  what the node says

``cluster_id`` is empty until the bootstrap was answered, so an interrupted ``up`` is finished by the next one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from ringkeep.errors import RingkeepError
from ringkeep.launcher.processes import Process, is_running

DEFAULT = ".ringkeep"
FILE = "cluster.json"


class LauncherError(RingkeepError):
    """The local cluster could not be started, stopped or found. The text says what to do next."""

    code = "launcher"


class NodeRecord(msgspec.Struct, frozen=True):
    """A node of the local cluster. ``peer`` is host:port; ``pid`` is 0 before its first start."""

    name: str
    url: str
    peer: str
    pid: int = 0
    started: str = ""

    @property
    def process(self) -> Process:
        """The process that was started last under this name."""
        return Process(self.pid, self.started)

    @property
    def is_running(self) -> bool:
        """Whether that process still runs."""
        return is_running(self.process)

    @property
    def api(self) -> str:
        """The address of the REST interface as host:port."""
        return urlsplit(self.url).netloc

    @property
    def ports(self) -> tuple[int, int]:
        """The ports of the REST interface and of the peers."""
        return int(self.api.rpartition(":")[2]), int(self.peer.rpartition(":")[2])


class ClusterRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What ``cluster.json`` holds.

    ``removing`` names the nodes that are on their way out of the cluster, ``storages`` their storage ids as far as the
    cluster knew them. ``fresh`` names those that were made and never wanted: they cannot have been given anything.
    """

    cluster_id: str = ""
    nodes: tuple[NodeRecord, ...]
    removing: tuple[str, ...] = ()
    storages: dict[str, str] = {}
    fresh: tuple[str, ...] = ()
    shards: int = 256
    replication_factor: int = 3
    min_in_sync: int = 2

    def node(self, name: str) -> NodeRecord:
        """Return the node with this name; raise ``LauncherError`` with the names there are."""
        for node in self.nodes:
            if node.name == name:
                return node
        names = ", ".join(node.name for node in self.nodes)
        raise LauncherError(f"there is no node {name!r} in this cluster; its nodes are {names}")

    def with_node(self, changed: NodeRecord) -> ClusterRecord:
        """Return the record with one node replaced."""
        nodes = tuple(changed if node.name == changed.name else node for node in self.nodes)
        return msgspec.structs.replace(self, nodes=nodes)

    def without(self, name: str) -> ClusterRecord:
        """Return the record without a node."""
        nodes = tuple(node for node in self.nodes if node.name != name)
        return msgspec.structs.replace(self.kept((name,)).wanted((name,)), nodes=nodes)

    def removed(self, names: Collection[str], storages: Mapping[str, str]) -> ClusterRecord:
        """Return the record in which these are on their way out. A storage id that was written down stays."""
        removing = tuple(dict.fromkeys((*self.removing, *names)))
        found = {name: storage for name in names if (storage := storages.get(name))}
        return msgspec.structs.replace(self, removing=removing, storages=found | self.storages)

    def kept(self, names: Collection[str]) -> ClusterRecord:
        """Return the record in which these are not on their way out."""
        removing = tuple(name for name in self.removing if name not in names)
        storages = {name: storage for name, storage in self.storages.items() if name not in names}
        return msgspec.structs.replace(self, removing=removing, storages=storages)

    def wanted(self, names: Collection[str]) -> ClusterRecord:
        """Return the record in which these may have been given data."""
        return msgspec.structs.replace(self, fresh=tuple(name for name in self.fresh if name not in names))


class _Identity(msgspec.Struct, frozen=True):
    """What a launcher reads of a node's ``identity.json``."""

    storage_id: str = ""
    cluster_id: str = ""


class ClusterDirectory:
    """Reads and writes one directory. Writers hold ``locked()``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> ClusterRecord | None:
        """Return what is written down, or None if there is no cluster here."""
        try:
            text = (self.path / FILE).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return msgspec.json.decode(text, type=ClusterRecord)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise LauncherError(
                f"{self.path / FILE} is not readable ({error}): end its nodes by hand and delete {self.path}"
            ) from error

    def existing(self) -> ClusterRecord:
        """Return what is written down; raise ``LauncherError`` if there is no cluster here."""
        record = self.read()
        if record is None:
            raise LauncherError(
                f"there is no local cluster in {self.path}: start one with `ringkeep up --dir {self.path}`"
            )
        return record

    def write(self, record: ClusterRecord) -> None:
        """Replace ``cluster.json`` in one step, so that a reader never sees half of it."""
        fresh = self.path / f"{FILE}.tmp"
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
        os.replace(fresh, self.path / FILE)

    def data(self, name: str) -> Path:
        """Return where a node keeps its data."""
        return self.path / name / "data"

    def storage(self, name: str) -> str:
        """Return the storage id of a node's data, or "" if it has none that belongs to a cluster."""
        try:
            identity = msgspec.json.decode((self.data(name) / "identity.json").read_bytes(), type=_Identity)
        except (OSError, msgspec.DecodeError):
            return ""
        return identity.storage_id if identity.cluster_id else ""

    def log(self, name: str) -> Path:
        """Return where a node writes what it says."""
        return self.path / name / "log.jsonl"

    @contextmanager
    def locked(self, *, create: bool = False) -> Iterator[None]:
        """Hold the directory for this launcher alone; raise ``LauncherError`` if another one has it."""
        if create:
            self._create()
        elif not self.path.is_dir():
            self.existing()
        with (self.path / "lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LauncherError(f"another ringkeep command is at work in {self.path}: wait for it") from None
            yield

    def forget(self, record: ClusterRecord, name: str) -> ClusterRecord:
        """Delete what a node has on disk, then its record; return the record without it."""
        shutil.rmtree(self.path / name, ignore_errors=True)
        record = record.without(name)
        self.write(record)
        return record

    def wipe(self, record: ClusterRecord) -> None:
        """Delete what the launcher made, and the directory itself if nothing else is in it."""
        (self.path / FILE).unlink(missing_ok=True)
        for node in record.nodes:
            shutil.rmtree(self.path / node.name, ignore_errors=True)
        (self.path / "lock").unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def _create(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise LauncherError(f"cannot make the directory {self.path}: {error.strerror}") from error
