"""``put``, ``get``, ``rm``, ``ls`` and ``import``: users' documents."""

from __future__ import annotations

import asyncio
import mimetypes
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
import typer

from ringkeep.answers import ImportResult, Page
from ringkeep.async_client import PAGE_MAX, AsyncClient
from ringkeep.command.endpoint import client_for
from ringkeep.command.options import (
    DirOption,
    KeyArgument,
    Output,
    OutputOption,
    TimeoutOption,
    UrlOption,
    UserArgument,
)
from ringkeep.command.screen import Meter, console, table, write_bytes, write_json
from ringkeep.transport import documents_path, query_of

IfVersion = Annotated[
    int | None, typer.Option("--if-version", min=0, help="Only if the document has exactly this version.")
]
IdempotencyKey = Annotated[
    str | None, typer.Option("--idempotency-key", help="Your name of this change, to repeat it safely.")
]


def put(
    user: UserArgument,
    key: KeyArgument,
    value: Annotated[str | None, typer.Argument(help="The document's text.", show_default=False)] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read it from a file; - is the input.")] = None,
    content_type: Annotated[str | None, typer.Option("--content-type", help="Guessed if left out.")] = None,
    if_version: IfVersion = None,
    if_absent: Annotated[bool, typer.Option("--if-absent", help="Only if there is no such document.")] = False,
    idempotency_key: IdempotencyKey = None,
    timeout: TimeoutOption = 10.0,
    url: UrlOption = None,
    directory: DirOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Store a document; done means: on disk on every in-sync copy."""
    content: bytes | str = _content(value, file)
    kind = content_type or _guessed_type(file)

    async def run() -> None:
        async with client_for(url, directory, timeout_s=timeout) as client:
            written = await client.put(
                user,
                key,
                content,
                content_type=kind,
                if_version=if_version,
                if_absent=if_absent,
                idempotency_key=idempotency_key,
            )
        if output is Output.JSON:
            write_json(msgspec.json.encode({"version": written.version, "created": written.created}))
        else:
            console().print(f"{'stored' if written.created else 'replaced'}, version {written.version}", markup=False)

    asyncio.run(run())


def get(
    user: UserArgument,
    key: KeyArgument,
    out: Annotated[Path | None, typer.Option("--out", help="Write it to a file instead of the output.")] = None,
    local: Annotated[bool, typer.Option("--local", help="From any copy at once; may be a little old.")] = False,
    timeout: TimeoutOption = 10.0,
    url: UrlOption = None,
    directory: DirOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Print a document's bytes, unchanged."""

    async def run() -> bytes:
        async with client_for(url, directory, timeout_s=timeout) as client:
            return (await client.get(user, key, consistency="local" if local else "strict")).value

    value = asyncio.run(run())
    if out is None:
        write_bytes(value + b"\n" if sys.stdout.isatty() and not value.endswith(b"\n") else value)
    else:
        _write_file(out, value)


def rm(
    user: UserArgument,
    key: KeyArgument,
    if_version: IfVersion = None,
    idempotency_key: IdempotencyKey = None,
    timeout: TimeoutOption = 10.0,
    url: UrlOption = None,
    directory: DirOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Delete a document."""

    async def run() -> None:
        async with client_for(url, directory, timeout_s=timeout) as client:
            await client.delete(user, key, if_version=if_version, idempotency_key=idempotency_key)
        if output is Output.TEXT:
            console().print("deleted", markup=False)

    asyncio.run(run())


def ls(
    user: UserArgument,
    prefix: Annotated[str, typer.Option("--prefix", help="Only keys that begin so.")] = "",
    after: Annotated[str, typer.Option("--after", help="Only keys after this one.")] = "",
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many; all if left out.")] = None,
    values: Annotated[bool, typer.Option("--values", help="With the documents themselves.")] = False,
    timeout: TimeoutOption = 10.0,
    url: UrlOption = None,
    directory: DirOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """List a user's documents in the order of their keys."""

    async def run() -> list[bytes]:
        async with client_for(url, directory, timeout_s=timeout) as client:
            return [page async for page in _raw_pages(client, user, prefix, after, limit, values)]

    pages = asyncio.run(run())
    if output is Output.JSON:
        write_json(_joined(pages))
        return
    rows = table("KEY", ">VERSION", ">BYTES", "TYPE", *(["VALUE"] if values else []))
    for page in pages:
        for row in msgspec.json.decode(page, type=Page).docs:
            shown = row.value_b64 if row.value is None else msgspec.json.encode(row.value).decode()
            cells = [row.key, str(row.version), f"{row.bytes:,}", row.content_type, *([shown or ""] if values else [])]
            rows.add_row(*(_plain(cell) for cell in cells))
    console().print(rows)


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="NDJSON; - is the input.", show_default=False)],
    url: UrlOption = None,
    directory: DirOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Store many documents from NDJSON lines: user, key, value or value_b64, content_type."""

    async def run(lines: BinaryIO, size: int | None) -> ImportResult:
        async with client_for(url, directory) as client:
            source = CountedLines(lines, size)
            with Meter("import", unit="lines") as meter:
                return await client.import_lines(
                    source, on_progress=lambda result: meter.update(result.lines, source.expected())
                )

    if str(file) == "-":
        result = asyncio.run(run(sys.stdin.buffer, None))
    else:
        with _opened(file) as lines:
            result = asyncio.run(run(lines, file.stat().st_size))
    _tell_import(result, output)


class CountedLines:
    """The lines of a file, counted while they are read, to guess how many there are."""

    def __init__(self, lines: BinaryIO, size: int | None) -> None:
        self._lines, self._size = lines, size
        self._count = self._bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        for line in self._lines:
            self._count += 1
            self._bytes += len(line)
            yield line

    def expected(self) -> int | None:
        """Return how many lines the whole file has, if its other lines are as long as those read so far."""
        if not self._size or not self._bytes:
            return None
        return max(self._count, round(self._count * self._size / self._bytes))


async def _raw_pages(client: AsyncClient, user: str, prefix: str, after: str, limit: int | None, values: bool) -> Any:
    left = limit
    while True:
        size = PAGE_MAX if left is None else min(left, PAGE_MAX)
        query = query_of(prefix=prefix or None, after=after or None, limit=size, values="true" if values else None)
        body = await client.read(f"{documents_path(user)}?{query}")
        yield body
        page = msgspec.json.decode(body, type=Page)
        left = None if left is None else left - len(page.docs)
        if page.next is None or left == 0:
            return
        after = page.next


def _joined(pages: list[bytes]) -> bytes:
    """Return one page unchanged, and several as one."""
    if len(pages) == 1:
        return pages[0]
    decoded = [msgspec.json.decode(page) for page in pages]
    docs = [row for page in decoded for row in page["docs"]]
    return msgspec.json.encode({**decoded[-1], "docs": docs})


def _tell_import(result: ImportResult, output: Output) -> None:
    if output is Output.JSON:
        write_json(msgspec.json.encode(result))
    else:
        console().print(f"{result.stored:,} of {result.lines:,} lines stored, {result.failed:,} failed", markup=False)
        for problem in result.errors:
            console().print(f"line {problem.line}: {problem.code}: {problem.detail}", markup=False)
    if result.failed:
        raise typer.Exit(1)


def _content(value: str | None, file: Path | None) -> bytes | str:
    if value is not None and file is not None:
        raise typer.BadParameter("give the document either as VALUE or with --file, not both", param_hint="--file")
    if value is not None:
        return value
    if file is None and sys.stdin.isatty():
        raise typer.BadParameter("give the document as VALUE, with --file, or on the input", param_hint="VALUE")
    if file is None or str(file) == "-":
        return sys.stdin.buffer.read()
    with _opened(file) as opened:
        return opened.read()


def _guessed_type(file: Path | None) -> str | None:
    return None if file is None else mimetypes.guess_type(file.name)[0]


def _opened(file: Path) -> BinaryIO:
    try:
        return file.open("rb")
    except OSError as error:
        raise typer.BadParameter(f"cannot read {file}: {error.strerror}", param_hint="FILE") from error


def _write_file(file: Path, value: bytes) -> None:
    try:
        file.write_bytes(value)
    except OSError as error:
        raise typer.BadParameter(f"cannot write {file}: {error.strerror}", param_hint="--out") from error


def _plain(text: str) -> str:
    """Return text that rich does not take for markup."""
    return text.replace("[", "\\[")
