"""Documents over HTTP: PUT, GET, HEAD and DELETE of one, the listing of a user's, and where a user lives.

Document bytes go out with ``Content-Security-Policy: sandbox``: they are the users', and a page of theirs must not act
in the name of whoever looks at it from the same address as the web console.
"""

from __future__ import annotations

from base64 import b64encode
from functools import lru_cache

import msgspec

from ringkeep_core.errors import BadRequest
from ringkeep_core.ids import VALUE_BYTES_MAX
from ringkeep_node.http.conditions import conditions_of
from ringkeep_node.http.exchange import Exchange
from ringkeep_node.http.replies import STATUS_LINES, Reply, http_date, iso_date
from ringkeep_node.http.routing import parameters, switch, whole_number
from ringkeep_node.machines.documents import Row
from ringkeep_node.runtime.service import (
    LIST_LIMIT_DEFAULT,
    UNCONDITIONAL,
    Delete,
    Get,
    List,
    Put,
    Unchanged,
)

DEFAULT_TYPE = "application/octet-stream"
CONSISTENCIES = ("strict", "local")
_PRIVATE = "Cache-Control: no-cache\r\nContent-Security-Policy: sandbox; default-src 'none'\r\n"


@lru_cache(maxsize=4096)
def _modified(second: int) -> str:
    return http_date(second)


async def put(exchange: Exchange) -> Reply:
    """Store the body: 201 if the document is new, 200 if it replaced one."""
    target, headers = exchange.target, exchange.request.headers
    if target.query:
        parameters(target.query, ())
    value = await exchange.body(VALUE_BYTES_MAX, "a document")
    if "Content-Range" in headers:
        raise BadRequest("a PUT stores a whole document: Content-Range is not possible")
    written = await exchange.edge.service.put(
        Put(
            target.user,
            target.key,
            value,
            headers.get("Content-Type", DEFAULT_TYPE),
            conditions_of(exchange),
            headers.get("Idempotency-Key"),
            exchange.timeout_s(),
            exchange.cause,
        )
    )
    edge = exchange.edge
    return Reply(
        201 if written.created else 200,
        f"{STATUS_LINES[201 if written.created else 200]}Content-Length: 0\r\n"
        f'ETag: "{written.version}"\r\nRingkeep-Shard: {written.shard}\r\nRingkeep-Epoch: {written.epoch}\r\n'
        f"Ringkeep-Request-Id: {exchange.id}\r\n{edge.lines}{edge.clock.date()}",
        closes=exchange.closes,
        outgoing=edge.outgoing,
    )


async def delete(exchange: Exchange) -> Reply:
    """Remove a document: 204, or 404 if there is none."""
    target = exchange.target
    if target.query:
        parameters(target.query, ())
    written = await exchange.edge.service.delete(
        Delete(
            target.user,
            target.key,
            conditions_of(exchange),
            exchange.request.headers.get("Idempotency-Key"),
            exchange.timeout_s(),
            exchange.cause,
        )
    )
    return exchange.reply(
        204,
        f'ETag: "{written.version}"\r\nRingkeep-Shard: {written.shard}\r\nRingkeep-Epoch: {written.epoch}\r\n',
    )


async def get(exchange: Exchange) -> Reply:
    """Send a document (HEAD: all but its bytes), or 304 if the client has it."""
    target = exchange.target
    headers = exchange.request.headers
    local = bool(target.query) and _is_local(parameters(target.query, ("consistency",)))
    conditional = "If-None-Match" in headers or "If-Match" in headers
    found = await exchange.edge.service.get(
        Get(
            target.user,
            target.key,
            exchange.request.method == "HEAD",
            local,
            conditions_of(exchange) if conditional else UNCONDITIONAL,
            exchange.timeout_s(),
            exchange.cause,
        )
    )
    edge = exchange.edge
    if isinstance(found, Unchanged):
        return exchange.reply(
            304,
            f'ETag: "{found.version}"\r\n{_PRIVATE}Ringkeep-Shard: {found.shard}\r\nRingkeep-Epoch: {found.epoch}\r\n',
        )
    row = found.row
    lag = f"Ringkeep-Lag: {found.lag}\r\n" if local else ""
    return Reply(
        200,
        f"HTTP/1.1 200 OK\r\nContent-Type: {row.content_type or DEFAULT_TYPE}\r\nContent-Length: {found.size}\r\n"
        f'ETag: "{row.version}"\r\nLast-Modified: {_modified(row.modified_ms // 1000)}\r\n'
        f"Ringkeep-Shard: {found.shard}\r\nRingkeep-Epoch: {found.epoch}\r\n{lag}{_PRIVATE}"
        f"Ringkeep-Request-Id: {exchange.id}\r\n{edge.lines}{edge.clock.date()}",
        row.value,
        closes=exchange.closes,
        outgoing=edge.outgoing,
    )


async def listing(exchange: Exchange) -> Reply:
    """Send a sorted page of a user's documents."""
    target = exchange.target
    asked = parameters(target.query, ("prefix", "after", "limit", "values", "consistency"))
    values = switch(asked.get("values", "false"), "values")
    local = _is_local(asked)
    page = await exchange.edge.service.list(
        List(
            user=target.user,
            prefix=asked.get("prefix", ""),
            after=asked.get("after", ""),
            limit=whole_number(asked["limit"], "limit") if "limit" in asked else LIST_LIMIT_DEFAULT,
            values=values,
            local=local,
            timeout_s=exchange.timeout_s(),
            cause=exchange.cause,
        )
    )
    lag = f"Ringkeep-Lag: {page.lag}\r\n" if local else ""
    return exchange.json(
        {"docs": [row_of(row, values=values) for row in page.rows], "next": page.next},
        lines=f"Ringkeep-Shard: {page.shard}\r\nRingkeep-Epoch: {page.epoch}\r\n{lag}",
    )


async def route(exchange: Exchange) -> Reply:
    """Say where a user lives."""
    parameters(exchange.target.query, ())
    found = exchange.edge.service.route(exchange.target.user)
    return exchange.json(found, lines=f"Ringkeep-Shard: {found.shard}\r\nRingkeep-Epoch: {found.epoch}\r\n")


def row_of(row: Row, *, values: bool) -> dict[str, object]:
    """Return a document as a listing shows it. A value is JSON where the document is, else base64."""
    shown: dict[str, object] = {
        "key": row.key,
        "version": row.version,
        "content_type": row.content_type,
        "bytes": len(row.value),
        "modified": iso_date(row.modified_ms),
    }
    if values and is_json(row.content_type) and _is_well_formed(row.value):
        shown["value"] = msgspec.Raw(row.value)
    elif values:
        shown["value_b64"] = b64encode(row.value).decode()
    return shown


def is_json(content_type: str) -> bool:
    """Return whether a media type is JSON: application/json or one that ends in +json."""
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == "application/json" or media_type.endswith("+json")


def _is_well_formed(value: bytes) -> bool:
    try:
        msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False
    return True


def _is_local(asked: dict[str, str]) -> bool:
    consistency = asked.get("consistency", "strict")
    if consistency not in CONSISTENCIES:
        raise BadRequest(f"consistency is strict or local, not {consistency[:50]!r}")
    return consistency == "local"
