"""Which cluster a command talks to: ``--url`` or ``RINGKEEP_URL``, else the local cluster of ``--dir``."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import typer

from ringkeep.async_client import AsyncClient
from ringkeep.errors import RingkeepError, Unavailable
from ringkeep.launcher import DEFAULT, ClusterDirectory, NodeRecord
from ringkeep_core.wording import names, verb


class NodesDown(Unavailable):
    """Nobody of a local cluster answers. ``hint`` says how to start its nodes again."""

    def __init__(self, text: str, directory: Path) -> None:
        super().__init__(text)
        where = option_of(directory)
        self.hint = f"Start what is down with `ringkeep up{where}`, one node anew with `ringkeep restart NODE{where}`."


def option_of(directory: Path) -> str:
    """Return the option that a command about this local cluster needs; nothing for the one that is meant without any."""
    return "" if directory == Path(DEFAULT) else f" --dir {shlex.quote(str(directory))}"


def directory_of(given: Path | None) -> Path:
    """Return the directory of the local cluster."""
    return Path(DEFAULT) if given is None else given


def local_node(url: str | None, directory: Path | None, name: str) -> bool:
    """Return whether a node belongs to the local cluster that is meant."""
    record = ClusterDirectory(directory_of(directory)).read() if not url else None
    return record is not None and any(node.name == name for node in record.nodes)


def client_for(url: str | None, directory: Path | None, *, timeout_s: float = 10.0) -> AsyncClient:
    """Return a client of the cluster that was meant.

    It sends to the nodes' own addresses only for the local cluster: behind an address that was given there may be a
    port-forward or a load balancer.

    Raises:
        typer.BadParameter: the address is not one.
        Unavailable: no address was given and no local cluster runs.
    """
    token = os.environ.get("RINGKEEP_ADMIN_TOKEN")
    addresses, cluster_id = addresses_for(url, directory)
    return AsyncClient(addresses, direct=not url, timeout_s=timeout_s, admin_token=token, cluster_id=cluster_id or None)


def addresses_for(url: str | None, directory: Path | None, *, running_only: bool = True) -> tuple[list[str], str]:
    """Return the addresses of nodes of the cluster that was meant, and its id where that is known. Raises as ``client_for``.

    ``running_only``: of a local cluster, those whose process runs.
    """
    if url:
        return [checked_url(part.strip()) for part in url.split(",") if part.strip()], ""
    path = directory_of(directory)
    record = ClusterDirectory(path).read()
    if record is None:
        raise Unavailable(f"no cluster was named and there is no local one in {path}")
    running = [node.url for node in record.nodes if node.is_running]
    if not running:
        raise NodesDown(f"no node of the local cluster in {path} is running: {_down(record.nodes)}", path)
    return running if running_only else [node.url for node in record.nodes], record.cluster_id


def states_of_processes(url: str | None, directory: Path | None) -> dict[str, str]:
    """Return by name how the process of each node of the local cluster is; nothing for a cluster that is elsewhere."""
    record = ClusterDirectory(directory_of(directory)).read() if not url else None
    if record is None:
        return {}
    return {
        node.name: f"runs (pid {node.pid})" if node.is_running else f"is not running (last pid {node.pid})"
        for node in record.nodes
    }


def silent_nodes(url: str | None, directory: Path | None, error: RingkeepError) -> RingkeepError:
    """Return the error to tell where nobody answers: with what this machine knows of the local cluster's processes."""
    path = directory_of(directory)
    record = ClusterDirectory(path).read() if not url else None
    if record is None or isinstance(error, NodesDown):
        return error
    running = [f"{node.name} (pid {node.pid})" for node in record.nodes if node.is_running]
    down = _down([node for node in record.nodes if not node.is_running])
    told = f"{names(running)} {verb(len(running), 'runs', 'run')} and {verb(len(running), 'does', 'do')} not answer in time"
    return NodesDown(f"no node of the local cluster in {path} answers: {'; '.join(filter(None, (told, down)))}", path)


def _down(nodes: Sequence[NodeRecord]) -> str:
    told = [f"{node.name} (last pid {node.pid})" for node in nodes]
    return f"{names(told)} {verb(len(told), 'is', 'are')} down" if told else ""


def checked_url(url: str) -> str:
    """Return the address of a node if it is one; raise ``typer.BadParameter`` otherwise."""
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        fine = False
    if not fine or parts.query or parts.fragment:
        raise typer.BadParameter(f"{url!r} is not an address like http://127.0.0.1:8081", param_hint="--url")
    return url.rstrip("/")
