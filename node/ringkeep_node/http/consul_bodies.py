"""JSON that registrars send, as registrations of ours: field names in any case, with or without underscores.

A field is taken, or is known to have no effect here and ignored while it says nothing, or is refused with one sentence: who
asks for a script check or a mesh proxy must not believe that he has one. What is asked for is judged by
``ringkeep_core.services``, the same as on our own paths.

Source: cluster.md, 6.1; Consul's documentation of agent/service/register, agent/check/register and catalog/register.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from ringkeep_core.errors import BadRequest
from ringkeep_core.services import CheckWish, Registration, Weights
from ringkeep_node.http.consul_queries import duration_s

Fields = Mapping[str, Any]
"""An object with its field names folded: lower case, no underscores."""

IGNORED = frozenset(
    {"datacenter", "writerequest", "skipnodeupdate", "createindex", "modifyindex", "locality", "raftindex"}
)
"""Has no meaning here, or none that could be missed."""
WITHOUT_EFFECT: Mapping[str, str] = {
    "kind": "mesh proxies and gateways",
    "proxy": "mesh proxies",
    "connect": "mesh certificates",
    "socketpath": "socket paths",
    "ports": "several ports of one instance",
    "peername": "services of other clusters",
}
"""May be sent while it is empty."""
RUNS_SOMETHING = ("args", "scriptargs", "script", "dockercontainerid", "shell", "osservice")
ASKS_OTHERWISE = ("grpc", "udp", "h2ping", "aliasnode", "aliasservice", "tcpusetls", "grpcusetls")
HTTP_DETAILS = ("header", "body", "tlsservername", "tlsskipverify", "disableredirects")
EMPTY_LEVELS_MAX = 8
"""So deep may objects and lists nest that say nothing."""
STATUSES = ("passing", "warning", "critical")

SERVICE_FIELDS = frozenset(
    {
        *("id", "name", "service", "address", "port", "tags", "meta", "weights", "check", "checks"),
        *("enabletagoverride", "taggedaddresses", "namespace", "partition"),
        *IGNORED,
        *WITHOUT_EFFECT,
    }
)
CHECK_FIELDS = frozenset(
    {
        *("id", "checkid", "name", "notes", "output", "status", "ttl", "http", "tcp", "interval", "timeout", "method"),
        *("deregistercriticalserviceafter", "serviceid", "servicename", "servicetags", "node", "type", "definition"),
        *("successbeforepassing", "failuresbeforecritical", "failuresbeforewarning", "outputmaxsize", "exposedport"),
        *("namespace", "partition", "intervalduration", "timeoutduration"),
        *IGNORED,
        *RUNS_SOMETHING,
        *ASKS_OTHERWISE,
        *HTTP_DETAILS,
    }
)
ENTRY_FIELDS = frozenset(
    {
        *("id", "node", "address", "taggedaddresses", "nodemeta", "service", "check", "checks"),
        *("partition", "namespace"),
    }
)


class ServiceWish(Struct, frozen=True):
    """An instance that somebody asks for."""

    service: str
    id: str
    registration: Registration


class CheckOf(Struct, frozen=True):
    """A check that somebody asks for. ``service_id`` "": of the whole node."""

    service_id: str
    wish: CheckWish
    output: str = ""


class CatalogEntry(Struct, frozen=True):
    """The body of catalog/register: a node, maybe a service on it, maybe checks."""

    node: str
    address: str
    service: ServiceWish | None
    checks: tuple[CheckOf, ...]


class CatalogRemoval(Struct, frozen=True):
    """The body of catalog/deregister; without both ids it is the whole node."""

    node: str
    service_id: str
    check_id: str


def folded(body: bytes) -> Fields:
    """Return the object of a body with its field names folded. Raises ``BadRequest``."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest("the body is not JSON") from None
    return _object(value, "the body")


def service_wish(fields: Fields) -> ServiceWish:
    """Return the instance that agent/service/register asks for. Raises ``BadRequest``."""
    _known(fields, SERVICE_FIELDS, "a service")
    _refuse_effects(fields)
    name = _text(fields, "name") or _text(fields, "service")
    if not name:
        raise BadRequest("a service needs a Name")
    instance_id = _text(fields, "id") or name
    checks = [*([fields["check"]] if fields.get("check") else []), *_listed(fields, "checks")]  # Consul counts so.
    wishes = tuple(_check(_object(check, "a check"), default_id="").wish for check in checks)
    return ServiceWish(
        name,
        instance_id,
        Registration(
            address=_text(fields, "address"),
            port=_number(fields, "port"),
            tags=_texts(fields, "tags"),
            meta=_pairs(fields, "meta"),
            weights=_weights(fields),
            checks=wishes,
            enable_tag_override=_flag(fields, "enabletagoverride"),
        ),
    )


def check_of(fields: Fields) -> CheckOf:
    """Return the check that agent/check/register asks for. Raises ``BadRequest``."""
    name = _text(fields, "name")
    if not name:
        raise BadRequest("a check needs a Name")
    found = _check(fields, default_id=name)
    if not (found.wish.ttl_s or found.wish.http or found.wish.tcp):
        raise BadRequest("a check needs TTL, HTTP or TCP")
    return found


def catalog_entry(fields: Fields) -> CatalogEntry:
    """Return what catalog/register asks for. Raises ``BadRequest``."""
    _known(fields, ENTRY_FIELDS | IGNORED, "a registration in the catalog")
    _refuse_scope(fields)
    node = _text(fields, "node")
    if not node:
        raise BadRequest("a registration in the catalog needs a Node")
    service = None
    if fields.get("service"):
        inner = dict(_object(fields["service"], "Service"))
        service = service_wish({**inner, "name": inner.get("service") or inner.get("name")})
    checks = [*_listed(fields, "checks"), *([fields["check"]] if fields.get("check") else [])]
    return CatalogEntry(
        node,
        _text(fields, "address"),
        service,
        tuple(_check(_object(check, "a check"), default_id=None) for check in checks),
    )


def catalog_removal(fields: Fields) -> CatalogRemoval:
    """Return what catalog/deregister asks for. Raises ``BadRequest``."""
    _known(fields, IGNORED | {"node", "address", "serviceid", "checkid", "namespace", "partition"}, "a removal")
    node = _text(fields, "node")
    if not node:
        raise BadRequest("a removal from the catalog needs a Node")
    return CatalogRemoval(node, _text(fields, "serviceid"), _text(fields, "checkid"))


def check_state(fields: Fields) -> tuple[str, str]:
    """Return (status, output) of agent/check/update. Raises ``BadRequest``."""
    _known(fields, frozenset({"status", "output"}), "an update of a check")
    status = _text(fields, "status")
    if status not in STATUSES:
        raise BadRequest(f"the Status of a check is passing, warning or critical, not {status[:40]!r}")
    return status, _text(fields, "output")


def _check(fields: Fields, *, default_id: str | None) -> CheckOf:
    """Return a check. ``default_id`` None: its CheckID or its Name is its id; "": the instance gives it one."""
    _known(fields, CHECK_FIELDS, "a check")
    _refuse_scope(fields)
    _refuse_checks(fields)
    name = _text(fields, "name")
    interval_s = duration_s(_text(fields, "interval"), "the Interval of a check")
    is_asked = bool(_text(fields, "http") or _text(fields, "tcp"))
    if is_asked and not interval_s:
        raise BadRequest("a check by HTTP or TCP needs an Interval")
    wish = CheckWish(
        id=_text(fields, "checkid") or _text(fields, "id") or (name if default_id is None else default_id),
        name=name,
        notes=_text(fields, "notes"),
        status=_text(fields, "status") or "critical",  # As Consul: only who says so passes.
        ttl_s=duration_s(_text(fields, "ttl"), "the TTL of a check"),
        http=_text(fields, "http"),
        tcp=_text(fields, "tcp"),
        interval_s=interval_s or 10.0,
        timeout_s=duration_s(_text(fields, "timeout"), "the Timeout of a check"),
        deregister_after_s=duration_s(
            _text(fields, "deregistercriticalserviceafter"), "DeregisterCriticalServiceAfter"
        ),
    )
    return CheckOf(_text(fields, "serviceid"), wish, _text(fields, "output"))


# --- what is refused ---------------------------------------------------------------------------------------------


def _known(fields: Fields, known: frozenset[str] | set[str], what: str) -> None:
    for name in fields:
        if name not in known:
            raise BadRequest(f"{what} has no field {name[:80]!r} here")


def _refuse_effects(fields: Fields) -> None:
    for name, what in WITHOUT_EFFECT.items():
        if fields.get(name) not in (None, "", {}, []) and not _says_nothing(fields[name]):
            raise BadRequest(f"{what} are not supported here: leave {name!r} out")
    if _addresses(fields.get("taggedaddresses")) - {_text(fields, "address")}:
        raise BadRequest("an instance has one address here: leave TaggedAddresses out or let them say the same")
    _refuse_scope(fields)


def _refuse_scope(fields: Fields) -> None:
    for name in ("namespace", "partition"):
        if fields.get(name) not in (None, "", "default"):
            raise BadRequest(f"there is no {name} here but 'default'")


def _refuse_checks(fields: Fields) -> None:
    for name in RUNS_SOMETHING:
        if fields.get(name):
            raise BadRequest(f"a node runs no scripts or containers for checks: {name!r} is not supported")
    for name in ASKS_OTHERWISE:
        if fields.get(name):
            raise BadRequest(f"checks are by TTL, HTTP and TCP here: {name!r} is not supported")
    for name in HTTP_DETAILS:
        if fields.get(name):
            raise BadRequest(f"a check by HTTP is a plain GET: {name!r} is not supported")
    if _text(fields, "method").upper() not in ("", "GET"):
        raise BadRequest("a check by HTTP is a plain GET: no other Method is supported")
    for name in ("successbeforepassing", "failuresbeforecritical", "failuresbeforewarning"):
        if fields.get(name) not in (None, 0):
            raise BadRequest(f"the last answer of a check counts here: {name!r} is not supported")


def _says_nothing(value: object, levels: int = EMPTY_LEVELS_MAX) -> bool:
    """Return whether a nested value has no content: clients send empty objects for what nobody asked for.

    What nests deeper than they do counts as said: whoever sends it must not decide how deep this goes.
    """
    if isinstance(value, Mapping | list):
        inners = value.values() if isinstance(value, Mapping) else value
        return levels > 0 and all(_says_nothing(inner, levels - 1) for inner in inners)
    return value in (None, "", 0, False)


def _addresses(value: object) -> set[str]:
    """Return the hosts of tagged addresses, which are {"lan": "host"} or {"lan": {"Address": "host", "Port": 1}}."""
    if not isinstance(value, Mapping):
        return set()
    found = set()
    for inner in value.values():
        text = _object(inner, "a tagged address").get("address") if isinstance(inner, Mapping) else inner
        if isinstance(text, str) and text:
            found.add(text)
    return found


# --- values ------------------------------------------------------------------------------------------------------


def _object(value: object, what: str) -> Fields:
    if not isinstance(value, Mapping):
        raise BadRequest(f"{what} is not a JSON object")
    return {str(name).lower().replace("_", "").replace("-", ""): inner for name, inner in value.items()}


def _text(fields: Fields, name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRequest(f"{name!r} is a text, not {_shown(value)}")
    return value


def _number(fields: Fields, name: str) -> int:
    value = fields.get(name)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadRequest(f"{name!r} is a whole number, not {_shown(value)}")
    return value


def _flag(fields: Fields, name: str) -> bool:
    value = fields.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise BadRequest(f"{name!r} is true or false, not {_shown(value)}")
    return value


def _listed(fields: Fields, name: str) -> Sequence[Any]:
    value = fields.get(name)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise BadRequest(f"{name!r} is a list, not {_shown(value)}")
    return value


def _texts(fields: Fields, name: str) -> tuple[str, ...]:
    values = _listed(fields, name)
    for value in values:
        if not isinstance(value, str):
            raise BadRequest(f"{name!r} is a list of texts, and {_shown(value)} is none")
    return tuple(values)


def _pairs(fields: Fields, name: str) -> dict[str, str]:
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(inner, str) for inner in value.values()):
        raise BadRequest(f"{name!r} is an object of texts")
    return {str(key): inner for key, inner in value.items()}


def _weights(fields: Fields) -> Weights:
    value = fields.get("weights")
    if value is None:
        return Weights()
    inner = _object(value, "'weights'")
    _known(inner, frozenset({"passing", "warning"}), "Weights")
    given = {name: _number(inner, name) for name in inner}
    return Weights(given.get("passing", 1), given.get("warning", 1))


def _shown(value: object) -> str:
    if isinstance(value, Mapping | list):  # Neither as deep nor as long as it may be.
        return "an object" if isinstance(value, Mapping) else "a list"
    return repr(value)[:60]
