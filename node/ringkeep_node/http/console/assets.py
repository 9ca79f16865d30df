"""The files of the console's page: read and compressed once, at their first request, and served with an ETag.

    /                        the page itself; asked for anew each time (304 if it is still the same)
    /console/<digest>/NAME   its modules; the digest is of all files, so they never change and may be kept

A page of another version asks for another digest (a rolling update behind a balancer): it gets what there is, and may not
keep it.
The style and the few lines that choose the theme stand in the page itself, so that it is painted when it is there: two
round trips less. The policy names both by their hashes. Everything else that the page runs or shows comes from these
files: no other source, no other inline code, no frame.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
from functools import cache
from pathlib import Path
from typing import Final

from msgspec import Struct

from ringkeep_core.errors import NotFound
from ringkeep_node.http.exchange import Exchange
from ringkeep_node.http.replies import Reply
from ringkeep_node.http.routing import parameters

FOLDER: Final = Path(__file__).with_name("page")
INDEX: Final = "index.html"
PLACE: Final = b"DIGEST"
"""What stands in the page where the digest belongs."""
TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
INLINE: Final = {
    "console.css": (b'<link rel="stylesheet" href="/console/DIGEST/console.css">', b"<style>%s</style>"),
    "theme.js": (b'<script src="/console/DIGEST/theme.js"></script>', b"<script>%s</script>"),
}
"""Files that stand in the page: where, and how."""
POLICY: Final = (
    "default-src 'none'; script-src 'self' '{theme.js}'; style-src '{console.css}'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
SECURITY: Final = "Referrer-Policy: no-referrer\r\nCross-Origin-Opener-Policy: same-origin\r\n"
KEPT: Final = "Cache-Control: public, max-age=31536000, immutable\r\n"
ASKED_ANEW: Final = "Cache-Control: no-cache\r\n"


class Asset(Struct, frozen=True):
    """One file, as it is and compressed. ``etag`` in quotes; the compressed form is another representation."""

    content_type: str
    plain: bytes
    packed: bytes
    etag: str


class Assets(Struct, frozen=True):
    """All files by name; ``digest`` is of all of them, ``policy`` the page's Content-Security-Policy."""

    digest: str
    policy: str
    files: dict[str, Asset]


@cache
def assets() -> Assets:
    """Return the files of this version."""
    contents = {path.name: path.read_bytes() for path in sorted(FOLDER.iterdir()) if path.suffix in TYPES}
    whole = hashlib.sha256()
    for name, data in contents.items():
        whole.update(b"%s %d\n" % (name.encode(), len(data)) + data)
    digest = whole.hexdigest()[:16]
    page, policy = contents[INDEX], POLICY
    for name, (place, how) in INLINE.items():
        data = contents.pop(name)
        page = page.replace(place, how.replace(b"%s", data))
        known = base64.b64encode(hashlib.sha256(data).digest()).decode()
        policy = policy.replace(f"{{{name}}}", f"sha256-{known}")
    contents[INDEX] = page.replace(PLACE, digest.encode())
    return Assets(digest, policy, {name: _asset(name, data) for name, data in contents.items()})


def _asset(name: str, data: bytes) -> Asset:
    # No time in it: the same version gives the same bytes on every node.
    packed = gzip.compress(data, 9, mtime=0)
    return Asset(TYPES[Path(name).suffix], data, packed, f'"{hashlib.sha256(data).hexdigest()[:16]}"')


async def page(exchange: Exchange) -> Reply:
    """Send the page."""
    parameters(exchange.target.query, ())
    known = assets()
    lines = f"{ASKED_ANEW}{SECURITY}Content-Security-Policy: {known.policy}\r\n"
    return _sent(exchange, known.files[INDEX], lines)


async def asset(exchange: Exchange) -> Reply:
    """Send a file that the page refers to."""
    parameters(exchange.target.query, ())
    known = assets()
    digest, _, name = exchange.target.key.partition("/")
    found = known.files.get(name) if name != INDEX else None
    if found is None:
        raise NotFound(f"the console has no file {name[:100]!r}")
    return _sent(exchange, found, KEPT if digest == known.digest else "Cache-Control: no-store\r\n")


def _sent(exchange: Exchange, found: Asset, lines: str) -> Reply:
    headers = exchange.request.headers
    packs = _takes_gzip(headers.get("Accept-Encoding", ""))
    etag = f'{found.etag[:-1]}-gzip"' if packs else found.etag
    lines += f"ETag: {etag}\r\nVary: Accept-Encoding\r\n"
    known = {one.strip().removeprefix("W/") for one in headers.get("If-None-Match", "").split(",")}
    if etag in known:
        return exchange.reply(304, lines)
    if packs:
        return exchange.reply(200, f"{lines}Content-Encoding: gzip\r\n", found.packed, found.content_type)
    return exchange.reply(200, lines, found.plain, found.content_type)


def _takes_gzip(accepted: str) -> bool:
    for part in accepted.lower().split(","):
        coding, _, quality = part.partition(";")
        if coding.strip() in ("gzip", "*"):
            return quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
