"""``services``: what is registered, and what the cluster offers by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import typer
from rich.markup import escape

from ringkeep.command.endpoint import client_for
from ringkeep.command.options import DirOption, Output, OutputOption, TimeoutOption, UrlOption
from ringkeep.command.screen import console, table, write_json
from ringkeep.services import SERVICES_PATH, service_path, service_query

_COLOURS = {"passing": "green", "warning": "yellow", "critical": "red"}


def services(
    name: Annotated[str, typer.Argument(metavar="[NAME]", show_default=False, help="Only this service.")] = "",
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Only instances with this tag; repeatable.")] = None,
    passing: Annotated[bool, typer.Option("--passing", help="Only instances that pass.")] = False,
    timeout: TimeoutOption = 5.0,
    url: UrlOption = None,
    directory: DirOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """List the services, or the instances of one."""
    if not name and (tag or passing):
        raise typer.BadParameter("--tag and --passing choose instances: name a service")
    query = service_query(tag or (), passing=passing)
    path = SERVICES_PATH if not name else service_path(name) + (f"?{query}" if query else "")

    async def read() -> bytes:
        async with client_for(url, directory, timeout_s=timeout) as client:
            return await client.read(path)

    body = asyncio.run(read())
    if output is Output.JSON:
        write_json(body)
        return
    told = msgspec.json.decode(body)
    if name and not told["instances"]:
        console().print(escape(f"no instance of {name} is registered{_wish(tag or (), passing=passing)}"))
    elif name:
        _show_instances(told["instances"])
    else:
        _show_services(told["services"])


def _wish(tags: Sequence[str], *, passing: bool) -> str:
    wishes = ["has " + " and ".join(tags)] * bool(tags) + ["passes"] * passing
    return f" that {' and '.join(wishes)}" if wishes else ""


def _show_services(rows: list[dict[str, Any]]) -> None:
    shown = table("NAME", ">INSTANCES", ">PASSING", "TAGS")
    for row in rows:
        colour = "green" if row["passing"] == row["instances"] else "yellow" if row["passing"] else "red"
        passing = f"[{colour}]{row['passing']}[/{colour}]"
        shown.add_row(escape(row["name"]), str(row["instances"]), passing, escape(" ".join(row["tags"])))
    console().print(shown)


def _show_instances(rows: list[dict[str, Any]]) -> None:
    shown = table("ID", "STATUS", "ADDRESS", "NODE", "TAGS", "WHY")
    for row in rows:
        status = f"[{_COLOURS[row['status']]}]{row['status']}[/{_COLOURS[row['status']]}]"
        host = f"[{row['address']}]" if ":" in row["address"] else row["address"]
        why = "; ".join(f"{it['id']}: {it['output']}" for it in row["checks"] if it["status"] != "passing")
        cells = (f"{host}:{row['port']}", row["node"]["name"], " ".join(row["tags"]), why)
        shown.add_row(escape(row["id"]), status, *map(escape, cells))
    console().print(shown)
