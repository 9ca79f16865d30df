"""Options that several commands share, and what one invocation remembers of them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer


class Output(StrEnum):
    """Rich text for people or JSON for programs."""

    TEXT = "text"
    JSON = "json"


class Invocation(msgspec.Struct):
    """One run of the command; errors are told in the form that was asked for."""

    output: Output = Output.TEXT


def _remember_output(context: typer.Context, value: Any) -> Any:
    if isinstance(context.obj, Invocation) and value is not None:
        context.obj.output = Output(value)
    return value


UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url", envvar="RINGKEEP_URL", show_default=False, help="Address of any node; several are separated by commas."
    ),
]
DirOption = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        envvar="RINGKEEP_DIR",
        show_default=False,
        help="Directory of the local cluster (default ./.ringkeep).",
    ),
]
OutputOption = Annotated[
    Output,
    typer.Option("--output", callback=_remember_output, help="json prints the REST answer unchanged."),
]
TimeoutOption = Annotated[
    float, typer.Option("--timeout", min=0.01, max=60, metavar="SECONDS", help="Deadline with all retries.")
]
UserArgument = Annotated[str, typer.Argument(metavar="USER", show_default=False, help="The user whose data it is.")]
KeyArgument = Annotated[str, typer.Argument(metavar="KEY", show_default=False, help="The document's key.")]
NodeArgument = Annotated[str, typer.Argument(metavar="NODE", show_default=False, help="A node's name, as n1.")]
