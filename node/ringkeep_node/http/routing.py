"""Which resource a request target names. The target is split as it was sent, before any percent-decoding.

    /v1/users/{user}/docs/{key...}     "/" in a user only as %2F; in a key "/" and %2F mean the same
    /v1/users/{user}/docs|route        /v1/import        /v1/cluster[/...]        /livez /readyz /metrics /
    /v1/cluster/members/{name}/drain|leave                /v1/console/events        /console/{digest}/{file}
    /v1/services[/{name}[/watch | /{id}[/renew]]]      /v1/sd/prometheus
    /v1/agent|catalog|health|status/...: see ``consul_routing``

Nothing is normalised: two spellings that decode to the same bytes name the same document, and no others do. A segment "."
or "..", encoded or not, is refused, since proxies and clients on the way disagree on what it means.

Source: interface.md, "Paths and limits"; RFC 3986, sections 2.1 and 3.3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

from msgspec import Struct

from ringkeep_core.errors import BadRequest, MethodNotAllowed, NotFound
from ringkeep_node.http import consul_routing

USERS = "/v1/users/"
WATCH = "watch"
"""In the place of an instance's id: so no instance can have this id."""
MEMBERS = "/v1/cluster/members/"
SERVICES = "/v1/services/"
CONSOLE = "/console/"
_BAD_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PLAIN = re.compile(r"[!\"$&-~]*").fullmatch
"""Visible ASCII without "%" and "#": such a segment means what it says."""


class Target(Struct, frozen=True, gc=False):
    """What a request names. ``route`` is the metrics' label; ``user`` and ``key`` are decoded; ``query`` is raw.

    ``key`` is the member's name where a route is about one member, ``digest/file`` of the console's files, and what a path
    of Consul ends with (as it was sent); ``service`` and ``key`` name an instance of a service.
    """

    route: str
    user: str = ""
    key: str = ""
    query: str = ""
    service: str = ""


ROUTES: Mapping[str, str] = {
    "/": "root",
    "/livez": "livez",
    "/readyz": "readyz",
    "/metrics": "metrics",
    "/openapi.json": "openapi",
    "/v1/import": "import",
    "/v1/cluster": "cluster",
    "/v1/cluster/members": "members",
    "/v1/cluster/map": "map",
    "/v1/cluster/leader": "leader",
    "/v1/cluster/summary": "summary",
    "/v1/cluster/plan": "plan",
    "/v1/cluster/events": "events",
    "/v1/cluster/bootstrap": "bootstrap",
    "/v1/cluster/wanted": "wanted",
    "/v1/cluster/transfer-leader": "transfer_leader",
    "/v1/services": "services",
    "/v1/sd/prometheus": "sd_prometheus",
    "/v1/cluster/rates": "rates",
    "/v1/console/events": "console_events",
}

MEMBER_ROUTES = ("drain", "leave")
"""What follows the name of a member."""

METHODS: Mapping[str, tuple[str, ...]] = {
    "document": ("GET", "HEAD", "PUT", "DELETE"),
    "documents": ("GET", "HEAD"),
    "route": ("GET", "HEAD"),
    "root": ("GET", "HEAD"),
    "livez": ("GET", "HEAD"),
    "readyz": ("GET", "HEAD"),
    "metrics": ("GET", "HEAD"),
    "openapi": ("GET", "HEAD"),
    "import": ("POST",),
    "cluster": ("GET", "HEAD"),
    "members": ("GET", "HEAD"),
    "map": ("GET", "HEAD"),
    "leader": ("GET", "HEAD"),
    "summary": ("GET", "HEAD"),
    "plan": ("GET", "HEAD", "POST"),
    "events": ("GET", "HEAD"),
    "bootstrap": ("POST",),
    "wanted": ("GET", "HEAD", "PUT"),
    "drain": ("POST", "DELETE"),
    "leave": ("POST",),
    "transfer_leader": ("POST",),
    "services": ("GET", "HEAD"),
    "service": ("GET", "HEAD"),
    "service_watch": ("GET", "HEAD"),
    "instance": ("GET", "HEAD", "PUT", "DELETE"),
    "renew": ("PUT",),
    "sd_prometheus": ("GET", "HEAD"),
    **consul_routing.METHODS,
    "rates": ("GET", "HEAD"),
    "console_events": ("GET",),
    "asset": ("GET", "HEAD"),
}

KNOWN_METHODS = frozenset({"GET", "HEAD", "PUT", "POST", "DELETE", "PATCH", "OPTIONS"})


def split_target(raw: str) -> Target:
    """Return what a request target names.

    Raises:
        BadRequest: it is no target, or a part of it cannot be decoded or is not allowed.
        NotFound: nothing is there.
    """
    path, _, query = raw.partition("?")
    if not path.startswith("/"):
        path = _path_of_absolute(path)
    if path.startswith(USERS):
        return _user_target(path, query)
    if "#" in raw:
        raise BadRequest("a request target has no fragment ('#')")
    if not any(segment in (".", "..") for segment in decoded(path, "path").split("/")):
        route = ROUTES.get(path)
        if route is not None:
            return Target(route, query=query)
        if path.startswith(MEMBERS):
            name, _, what = path[len(MEMBERS) :].partition("/")
            if what in MEMBER_ROUTES:
                return Target(what, "", decoded(name, "name"), query)
        if path.startswith(SERVICES):
            return _service_target(path, query)
        if path.startswith(consul_routing.PREFIXES):
            route, name = consul_routing.consul_route(path)
            return Target(route, "", name, query)
        if path.startswith(CONSOLE):
            return Target("asset", "", path[len(CONSOLE) :], query)
        raise NotFound(f"there is nothing at {path[:200]!r}")
    raise BadRequest("a path must not have a segment '.' or '..'")


def _service_target(path: str, query: str) -> Target:
    parts = [decoded(part, "path") for part in path[len(SERVICES) :].split("/")]
    if len(parts) == 1 and parts[0]:
        return Target("service", query=query, service=parts[0])
    if len(parts) == 2 and all(parts):
        route = "service_watch" if parts[1] == WATCH else "instance"
        return Target(route, key=parts[1], query=query, service=parts[0])
    if len(parts) == 3 and all(parts) and parts[2] == "renew":
        return Target("renew", key=parts[1], query=query, service=parts[0])
    raise NotFound(f"there is nothing at {path[:200]!r}")


def _user_target(path: str, query: str) -> Target:
    raw_user, slash, rest = path[len(USERS) :].partition("/")
    user = raw_user if _PLAIN(raw_user) else decoded(raw_user, "user")
    if user in (".", ".."):
        raise BadRequest("a path must not have a segment '.' or '..'")
    if rest.startswith("docs/"):
        raw_key = rest[5:]
        key = raw_key if _PLAIN(raw_key) else decoded(raw_key, "key")
        return Target("document", user, key, query)
    if rest == "docs":
        return Target("documents", user, "", query)
    if rest == "route":
        return Target("route", user, "", query)
    if any(segment in (".", "..") for segment in decoded(rest, "path").split("/")):
        raise BadRequest("a path must not have a segment '.' or '..'")
    raise NotFound(f"a user has no {rest[:200]!r}" if slash else "a user alone is no resource")


def decoded(raw: str, what: str) -> str:
    """Return a part of the target percent-decoded. Raises ``BadRequest``: a bad escape, a fragment or invalid UTF-8."""
    if "#" in raw:
        raise BadRequest("a request target has no fragment ('#')")
    if _BAD_PERCENT.search(raw):
        raise BadRequest(f"the {what} has a '%' that is not followed by two hexadecimal digits")
    try:
        return unquote_to_bytes(raw.encode("utf-8", "surrogateescape")).decode("utf-8")
    except UnicodeError:
        raise BadRequest(f"the {what} is not valid UTF-8") from None


def _path_of_absolute(path: str) -> str:
    for scheme in ("http://", "https://"):
        if path[: len(scheme)].lower() == scheme:
            authority, slash, rest = path[len(scheme) :].partition("/")
            if authority:
                return slash + rest if slash else "/"
    raise BadRequest("a request target begins with '/'")


def check_method(route: str, method: str) -> None:
    """Raise ``MethodNotAllowed`` with the methods that the route has, if this is none of them."""
    allowed = METHODS[route]
    if method not in allowed:
        raise MethodRefused(method, allowed)


class MethodRefused(MethodNotAllowed):
    """The path exists, but not with this method; ``allow`` is the Allow header."""

    def __init__(self, method: str, allowed: tuple[str, ...]) -> None:
        self.allow = ", ".join(allowed)
        super().__init__(f"{method[:20]} is not possible here; possible are {self.allow}")


def parameters(query: str, known: tuple[str, ...]) -> dict[str, str]:
    """Return the query parameters, decoded as a form is ("+" is a space).

    Raises ``BadRequest``: a parameter that is unknown here (a typing error must not change what is asked), given twice, or
    cannot be decoded.
    """
    found: dict[str, str] = {}
    for part in query.split("&"):
        if not part:
            continue
        raw_name, _, raw_value = part.partition("=")
        name = decoded(raw_name.replace("+", " "), "query")
        if name not in known:
            raise BadRequest(
                f"there is no query parameter {name[:100]!r} here"
                + (f"; possible are {', '.join(known)}" if known else "")
            )
        if name in found:
            raise BadRequest(f"the query parameter {name} is given twice")
        found[name] = decoded(raw_value.replace("+", " "), f"query parameter {name}")
    return found


def whole_number(text: str, what: str) -> int:
    """Return a number of at most 18 decimal digits; raise ``BadRequest`` otherwise."""
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise BadRequest(f"{what} is a whole number, not {text[:50]!r}")
    return int(text)


def switch(text: str, what: str) -> bool:
    """Return whether a parameter says true; raise ``BadRequest`` if it says neither true nor false."""
    if text in ("true", "1", ""):
        return True
    if text in ("false", "0"):
        return False
    raise BadRequest(f"{what} is true or false, not {text[:50]!r}")
