"""`make demo`: run the story, and end every process that it started, however it ends.

DEMO_KEEP=1 leaves the cluster running. Exit code 0 only if nothing was lost and everything matches.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ringkeep.demo.interrupts import Interrupts
from ringkeep.demo.story import Outcome, Story, failure_of
from ringkeep.errors import RingkeepError
from ringkeep.launcher import LocalCluster
from ringkeep.launcher.local import NODE_COMMAND

DIRECTORY = Path(".ringkeep-demo")
INTERRUPTED = 130


def main() -> None:
    """Run the demo in the current folder and end with its exit code."""
    screen = Console(file=sys.stdout, highlight=False)
    raise SystemExit(run(DIRECTORY, screen, keep=os.environ.get("DEMO_KEEP", "") not in ("", "0")))


def run(
    directory: Path,
    screen: Console,
    *,
    keep: bool,
    node_command: Sequence[str] = NODE_COMMAND,
    source: Path | None = None,
) -> int:
    """Run the demo in ``directory`` and return the exit code. A signal does nothing afterwards."""
    interrupts = Interrupts()
    cluster = LocalCluster(directory, node_command=node_command)
    outcome: Outcome | None = None
    code = 1
    try:
        interrupts.listen()
        _clear(cluster, screen)
        outcome = asyncio.run(interrupts.watch(Story(cluster, screen, source=source).tell()))
        code = 0 if outcome.is_perfect else 1
    except (asyncio.CancelledError, RingkeepError, BaseExceptionGroup, OSError) as error:
        # The signal decides and not the error: what was cancelled may end with an error of its own, or a group of them.
        code = INTERRUPTED if interrupts.came else 1
        said = "interrupted" if interrupts.came else f"the demo failed: {failure_of(error)}"
        screen.print(f"\n{said}", markup=False, soft_wrap=True)
    finally:
        kept = keep and outcome is not None
        if not kept:
            # Data and logs stay only where they may explain a failure.
            _end(cluster, screen, wipe=code in (0, INTERRUPTED))
    if outcome is not None:
        screen.print(_address(outcome, directory, kept=kept), markup=False, soft_wrap=True)
        screen.print(outcome.last_line(), markup=False, soft_wrap=True)
    return code


def _clear(cluster: LocalCluster, screen: Console) -> None:
    """Take away what an earlier run left (it was kept, or it failed and its logs were of use)."""
    if cluster.directory.read() is not None:
        ended = cluster.down(wipe=True)
        if ended:
            screen.print("ended the cluster that an earlier demo had left running", markup=False)


def _end(cluster: LocalCluster, screen: Console, *, wipe: bool) -> None:
    try:
        if cluster.directory.read() is not None:
            cluster.down(wipe=wipe, grace_s=5.0)
            if not wipe:
                screen.print(f"the nodes' logs are in {cluster.directory.path}/n*/log.jsonl", markup=False)
    except RingkeepError as error:
        screen.print(f"could not end the cluster: {error}", markup=False, soft_wrap=True)


def _address(outcome: Outcome, directory: Path, *, kept: bool) -> str:
    if kept:
        return f"\nopen {outcome.url} (stop it with `.venv/bin/ringkeep down --wipe --dir {directory}`)"
    return f"\nopen {outcome.url} while it runs: DEMO_KEEP=1 make demo leaves it running"


if __name__ == "__main__":
    main()
