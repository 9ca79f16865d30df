"""``up``, ``kill``, ``restart``, ``recover``, ``down`` and ``node``: a cluster of processes on this machine."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from ringkeep.command.endpoint import directory_of
from ringkeep.command.options import DirOption, NodeArgument, Output, OutputOption
from ringkeep.command.screen import console, moving, span, steps, table, write_json
from ringkeep.launcher import LauncherError, LocalCluster
from ringkeep.launcher.local import NODE_COMMAND, NODES_MAX

SHARDS_NAMED_MAX = 20


def up(
    nodes: Annotated[
        int | None, typer.Option("-n", "--nodes", min=1, max=NODES_MAX, help="How many nodes (default 3).")
    ] = None,
    replication_factor: Annotated[
        int | None, typer.Option("--rf", min=1, max=7, help="Copies of each shard (default 3).")
    ] = None,
    shards: Annotated[
        int | None, typer.Option("--shards", min=16, max=65_536, help="A power of two (default 256).")
    ] = None,
    min_in_sync: Annotated[
        int | None, typer.Option("--min-in-sync", min=1, max=7, help="Copies that each write needs (default 2).")
    ] = None,
    directory: DirOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Start a cluster on this machine, or what is down of one; returns when it takes writes."""
    path = directory_of(directory)
    started = time.monotonic()
    with steps("up") as say:
        record = asyncio.run(
            LocalCluster(path).up(
                nodes, shards=shards, replication_factor=replication_factor, min_in_sync=min_in_sync, say=say
            )
        )
    if output is Output.JSON:
        write_json((path / "cluster.json").read_bytes())
        return
    rows = table("NODE", "URL", "PEER", ">PID")
    for node in record.nodes:
        rows.add_row(node.name, node.url, node.peer, str(node.pid))
    console().print(rows)
    ready = f"cluster {record.cluster_id} in {path} takes writes after {span(time.monotonic() - started)}"
    console().print(f"{ready}; open {record.nodes[0].url}", markup=False)


def scale(
    nodes: Annotated[int, typer.Argument(metavar="N", show_default=False, help="How many nodes are to take part.")],
    directory: DirOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Start or remove nodes until N take part; returns when the data lies where it should."""
    cluster = _cluster(directory)
    if not 1 <= nodes <= NODES_MAX:
        raise typer.BadParameter(f"a local cluster has 1 to {NODES_MAX} nodes, not {nodes}", param_hint="N")
    before = {node.name for node in cluster.directory.existing().nodes}
    started = time.monotonic()
    with moving("scale", unit="copies") as (say, told):
        record = asyncio.run(cluster.scale(nodes, say=say, told=told))
    if output is Output.JSON:
        write_json((cluster.directory.path / "cluster.json").read_bytes())
        return
    after = {node.name for node in record.nodes}
    changes = [f"added {', '.join(sorted(after - before))}"] if after - before else []
    changes += [f"removed {', '.join(sorted(before - after))}"] if before - after else []
    what = "; ".join(changes) or "nothing to change"
    console().print(f"{len(after)} nodes take part after {span(time.monotonic() - started)}: {what}", markup=False)


def kill(node: NodeArgument, directory: DirOption = None, output: OutputOption = Output.TEXT) -> None:
    """End a node as a crash would (SIGKILL)."""
    killed = _cluster(directory).kill(node)
    _tell(output, {"node": node, "pid": killed.pid}, f"{node} (pid {killed.pid}) is killed")


def restart(node: NodeArgument, directory: DirOption = None, output: OutputOption = Output.TEXT) -> None:
    """Start a node again, ending it first if it runs."""
    started = time.monotonic()
    with steps("restart") as say:
        record = asyncio.run(_cluster(directory).restart(node, say=say))
    text = f"{node} (pid {record.pid}) is ready after {span(time.monotonic() - started)}"
    _tell(output, {"node": node, "pid": record.pid}, text)


def recover(
    source: Annotated[
        str, typer.Option("--from", metavar="NODE", show_default=False, help="The voter whose map is gone on from.")
    ],
    directory: DirOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Go on from one voter when the majority of the voters is lost for ever. Every other node must be stopped."""
    with steps("recover") as say:
        begun = asyncio.run(_cluster(directory).recover(source, say=say))
    held = begun.shards - len(begun.absent)
    text = (
        f"generation {begun.generation} begins with what {source} knew (map version {begun.former_version}): it holds "
        f"{held} of {begun.shards} shards"
    )
    if begun.absent:
        named = ", ".join(str(shard) for shard in begun.absent[:SHARDS_NAMED_MAX])
        more = ", ..." if len(begun.absent) > SHARDS_NAMED_MAX else ""
        text += f"; unavailable until a node with a complete copy comes back: {named}{more}"
    _tell(output, {"node": source, **msgspec.structs.asdict(begun)}, text)


def down(
    wipe: Annotated[bool, typer.Option("--wipe", help="Delete the data as well.")] = False,
    directory: DirOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Stop every node of the local cluster."""
    path = directory_of(directory)
    stopped = _cluster(directory).down(wipe=wipe)
    text = f"stopped {', '.join(stopped)}" if stopped else "no node was running"
    data = "its data is deleted" if wipe else f"its data stays in {path}"
    _tell(output, {"stopped": stopped, "wiped": wipe}, f"{text}; {data}")


def node(
    name: Annotated[str | None, typer.Option("--name", envvar="RINGKEEP_NAME", help="An RFC 1123 label.")] = None,
    data: Annotated[Path | None, typer.Option("--data", envvar="RINGKEEP_DATA", help="Data directory.")] = None,
    api: Annotated[str | None, typer.Option("--api", envvar="RINGKEEP_API", help="host:port of REST.")] = None,
    peer: Annotated[str | None, typer.Option("--peer", envvar="RINGKEEP_PEER", help="host:port for peers.")] = None,
    advertise: Annotated[
        str | None, typer.Option("--advertise", envvar="RINGKEEP_ADVERTISE", help="host:port that peers dial.")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", envvar="RINGKEEP_SEEDS", help="host:port,... of other nodes.")
    ] = None,
    zone: Annotated[str | None, typer.Option("--zone", envvar="RINGKEEP_ZONE", help="Failure zone.")] = None,
    weight: Annotated[str | None, typer.Option("--weight", envvar="RINGKEEP_WEIGHT", help="Share of shards.")] = None,
) -> None:
    """Run one node in the foreground. Options not given here come from the environment (RINGKEEP_...)."""
    given = {
        "NAME": name,
        "DATA": None if data is None else str(data),
        "API": api,
        "PEER": peer,
        "ADVERTISE": advertise,
        "SEEDS": seeds,
        "ZONE": zone,
        "WEIGHT": weight,
    }
    environment = {**os.environ, **{f"RINGKEEP_{k}": v for k, v in given.items() if v is not None}}
    sys.stdout.flush()
    # The node takes the place of this process, so that signals and the exit code are its own.
    os.execve(NODE_COMMAND[0], NODE_COMMAND, environment)  # noqa: S606 - no shell, and the program is this Python


def _cluster(directory: Path | None) -> LocalCluster:
    path = directory_of(directory)
    cluster = LocalCluster(path)
    if cluster.directory.read() is None:
        raise LauncherError(f"there is no local cluster in {path}: start one with `ringkeep up`")
    return cluster


def _tell(output: Output, told: dict[str, object], text: str) -> None:
    if output is Output.JSON:
        write_json(msgspec.json.encode(told))
    else:
        console().print(text, markup=False)
