"""The command line as a whole: its commands, and how a run ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import msgspec
import typer

from ringkeep.command import cluster, documents, local, plans, services, status, top
from ringkeep.command.options import Invocation, Output, OutputOption
from ringkeep.command.outcome import FAILED, tell
from ringkeep.command.screen import console, write_json
from ringkeep.errors import RingkeepError

app = typer.Typer(
    name="ringkeep",
    help="Keeps each user's data on a few nodes, and answers for any user at any node.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_LOCAL, _CLUSTER, _DOCUMENTS = "Local cluster", "Cluster", "Documents"

app.command("up", rich_help_panel=_LOCAL)(local.up)
app.command("scale", rich_help_panel=_LOCAL)(local.scale)
app.command("kill", rich_help_panel=_LOCAL)(local.kill)
app.command("restart", rich_help_panel=_LOCAL)(local.restart)
app.command("recover", rich_help_panel=_LOCAL)(local.recover)
app.command("down", rich_help_panel=_LOCAL)(local.down)
app.command("node", rich_help_panel=_LOCAL)(local.node)
app.command("status", rich_help_panel=_CLUSTER)(status.status)
app.command("top", rich_help_panel=_CLUSTER)(top.top)
app.command("members", rich_help_panel=_CLUSTER)(cluster.members)
app.command("shards", rich_help_panel=_CLUSTER)(cluster.shards)
app.command("plan", rich_help_panel=_CLUSTER)(plans.plan)
app.command("drain", rich_help_panel=_CLUSTER)(plans.drain)
app.command("route", rich_help_panel=_CLUSTER)(cluster.route)
app.command("services", rich_help_panel=_CLUSTER)(services.services)
app.command("put", rich_help_panel=_DOCUMENTS)(documents.put)
app.command("get", rich_help_panel=_DOCUMENTS)(documents.get)
app.command("rm", rich_help_panel=_DOCUMENTS)(documents.rm)
app.command("ls", rich_help_panel=_DOCUMENTS)(documents.ls)
app.command("import", rich_help_panel=_DOCUMENTS)(documents.import_)


@app.command("version")
def show_version(output: OutputOption = Output.TEXT) -> None:
    """Print the version of this program."""
    if output is Output.JSON:
        write_json(msgspec.json.encode({"version": own_version()}))
    else:
        console().print(f"ringkeep {own_version()}", markup=False)


def own_version() -> str:
    """Return the version of the installed distribution."""
    try:
        return version("ringkeep")
    except PackageNotFoundError:
        return "unknown (not installed)"


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    invocation = Invocation()
    try:
        app(args=list(arguments), prog_name="ringkeep", obj=invocation)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else FAILED if ended.code else 0
    except RingkeepError as error:
        return tell(error, invocation.output)
    except BrokenPipeError:
        # The reader of our output has gone (`ringkeep ls ada | head`): nothing is wrong, and nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return 0
