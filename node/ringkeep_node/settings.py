"""The settings of a node: read from the environment here and nowhere else, checked once, printed once.

    RINGKEEP_NAME, _DATA, _API, _PEER, ...        ``NodeSettings``: who this node is and where
    RINGKEEP_<SUBSYSTEM>_<FIELD>                  the documented settings class of a subsystem, read by ``subsystem``

A value that makes no sense is a ``BadSetting`` with one sentence that names the variable: a node never starts with a
guess. docs/settings.md lists every variable; a test holds the two together.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import math
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ringkeep_core.errors import BadSetting
from ringkeep_core.ids import is_node_name

PREFIX = "RINGKEEP_"
MASK = "***"
SEEDS_MAX = 64
ZONE_MAX = 63
WEIGHT_MAX = 100.0
STOP_NOTICE_MAX_S = 300.0
LEVELS = ("debug", "info", "warning", "error")
LEFT_DATA = ("refuse", "empty")
T = TypeVar("T")

FOREIGN = frozenset({"URL", "DIR"})
"""Variables of the ``ringkeep`` command, which a node may find in its environment too."""


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port. ``text`` is how it is written: IPv6 hosts in brackets."""

    host: str
    port: int

    @property
    def text(self) -> str:
        """host:port, as it was written."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_wildcard(self) -> bool:
        """Whether this means every address of the machine, so that nobody can be told to call it."""
        return self.host in ("", "0.0.0.0", "::")  # noqa: S104 - recognised here, not listened on

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """Who a node is and where it is found. Times are in seconds, sizes in bytes."""

    name: str
    """RINGKEEP_NAME: an RFC 1123 label, unique in the cluster, the same at every start."""
    data: Path
    """RINGKEEP_DATA: the data directory; made if it does not exist. One process at a time."""
    api: Address = Address("127.0.0.1", 8080)
    """RINGKEEP_API: host:port of REST. Other machines are served only with an administration token; 0.0.0.0 means every
    address of the family of RINGKEEP_ADVERTISE."""
    peer: Address = Address("127.0.0.1", 7400)
    """RINGKEEP_PEER: host:port of the links between nodes (TCP) and of gossip (UDP)."""
    advertise: Address = Address("127.0.0.1", 7400)
    """RINGKEEP_ADVERTISE: host:port under which other nodes reach ``peer``; default: RINGKEEP_PEER."""
    dns: Address | None = None
    """RINGKEEP_DNS: host:port at which names of services are answered over UDP and TCP; not set: nowhere."""
    seeds: tuple[str, ...] = ()
    """RINGKEEP_SEEDS: host:port of other nodes, separated by commas; at most 64. They are asked for their cluster."""
    zone: str = ""
    """RINGKEEP_ZONE: a name of at most 63 visible characters; copies of a shard are spread over zones."""
    weight: float = 1.0
    """RINGKEEP_WEIGHT: 0..100, the node's share of copies; 0 is a pure gateway."""
    admin_token: str | None = None
    """RINGKEEP_ADMIN_TOKEN (secret): what POST, PUT and DELETE under /v1/cluster must show."""
    log_level: str = "info"
    """RINGKEEP_LOG_LEVEL: debug, info, warning or error."""
    log_lines_max: int = 10_000
    """RINGKEEP_LOG_LINES_MAX: 100..1,000,000 lines that may wait for whoever reads the output; more are dropped."""
    stop_notice_s: float = 0.0
    """RINGKEEP_STOP_NOTICE_S: 0..300; so long a node that is asked to end says 503 at /readyz, and serves, at least."""
    left_data: str = "refuse"
    """RINGKEEP_LEFT_DATA: refuse or empty; what a start does in a directory whose storage id has left its cluster."""

    def __post_init__(self) -> None:
        """Check every field; raise ``BadSetting`` with one sentence."""
        if not is_node_name(self.name):
            raise BadSetting(f"RINGKEEP_NAME is 1..63 of a-z, 0-9 and '-', not {self.name!r}")
        if len(self.zone) > ZONE_MAX or not self.zone.isprintable():
            raise BadSetting(f"RINGKEEP_ZONE has at most {ZONE_MAX} visible characters, not {self.zone[:80]!r}")
        if not 0 <= self.weight <= WEIGHT_MAX:
            raise BadSetting(f"RINGKEEP_WEIGHT is 0..{WEIGHT_MAX:.0f}, not {self.weight}")
        if not 0 <= self.stop_notice_s <= STOP_NOTICE_MAX_S:
            raise BadSetting(f"RINGKEEP_STOP_NOTICE_S is 0..{STOP_NOTICE_MAX_S:.0f} seconds, not {self.stop_notice_s}")
        if len(self.seeds) > SEEDS_MAX:
            raise BadSetting(f"RINGKEEP_SEEDS names at most {SEEDS_MAX} nodes, not {len(self.seeds)}")
        if self.log_level not in LEVELS:
            raise BadSetting(f"RINGKEEP_LOG_LEVEL is one of {', '.join(LEVELS)}, not {self.log_level!r}")
        if self.left_data not in LEFT_DATA:
            raise BadSetting(f"RINGKEEP_LEFT_DATA is one of {', '.join(LEFT_DATA)}, not {self.left_data!r}")
        if not 100 <= self.log_lines_max <= 1_000_000:
            raise BadSetting(f"RINGKEEP_LOG_LINES_MAX is 100..1,000,000, not {self.log_lines_max}")
        if self.advertise.is_wildcard:
            raise BadSetting(
                f"other nodes cannot reach {self.advertise.text}: set RINGKEEP_ADVERTISE to an address of this node"
            )
        self._check_token()

    def _check_token(self) -> None:
        token = self.admin_token
        if token is None:
            if not self.api.is_loopback:
                raise BadSetting(
                    f"RINGKEEP_API listens on {self.api.text}, which other machines may reach: set RINGKEEP_ADMIN_TOKEN"
                )
        elif not token or not token.isascii() or not token.isprintable() or " " in token:
            raise BadSetting("RINGKEEP_ADMIN_TOKEN is empty or has a character that is not visible ASCII")

    @property
    def url(self) -> str:
        """Base of this node's REST interface as other nodes and clients reach it."""
        return f"http://{Address(self.advertise.host, self.api.port).text}"

    def shown(self) -> dict[str, str]:
        """Return every setting as text for the log, secrets masked."""
        shown: dict[str, str] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "admin_token":
                shown[field.name] = MASK if value else "unset"
            elif isinstance(value, Address):
                shown[field.name] = value.text
            elif value is None:
                shown[field.name] = "off"
            else:
                shown[field.name] = ",".join(value) if isinstance(value, tuple) else str(value)
        return shown


PLAIN_FIELDS: tuple[tuple[str, type[Any]], ...] = (
    ("zone", str),
    ("weight", float),
    ("log_level", str),
    ("log_lines_max", int),
    ("stop_notice_s", float),
    ("left_data", str),
)
NODE_VARIABLES = tuple(PREFIX + field.name.upper() for field in dataclasses.fields(NodeSettings))


def node_settings(environment: Mapping[str, str]) -> NodeSettings:
    """Return who this node is. Raises ``BadSetting``."""
    given: dict[str, Any] = {"name": _needed(environment, "NAME"), "data": Path(_needed(environment, "DATA"))}
    for field in ("api", "peer", "advertise", "dns"):
        if text := environment.get(PREFIX + field.upper()):
            given[field] = address(text, PREFIX + field.upper())
    given.setdefault("advertise", given.get("peer", NodeSettings.__dataclass_fields__["peer"].default))
    for field in ("api", "peer", "dns"):
        if field in given:
            given[field] = _of_family(given[field], given["advertise"])
    if text := environment.get(PREFIX + "SEEDS"):
        parts = [part.strip() for part in text.split(",")]
        given["seeds"] = tuple(address(part, PREFIX + "SEEDS").text for part in parts if part)
    for field, kind in PLAIN_FIELDS:
        if text := environment.get(PREFIX + field.upper()):
            given[field] = _value(text, kind, PREFIX + field.upper())
    if (token := environment.get(PREFIX + "ADMIN_TOKEN")) is not None:
        given["admin_token"] = token
    return NodeSettings(**given)


def _of_family(listening: Address, advertised: Address) -> Address:
    """Let "every IPv4 address" mean every IPv6 address where others reach this node by IPv6: a pod knows only then."""
    is_ipv6 = ":" in advertised.host
    return Address("::", listening.port) if is_ipv6 and listening.host == "0.0.0.0" else listening  # noqa: S104


def address(text: str, variable: str) -> Address:
    """Return host:port; raise ``BadSetting`` otherwise. An IPv6 host stands in brackets."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not colon or not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65_535):
        raise BadSetting(f"{variable} is host:port, not {text!r}")
    if any(character.isspace() or character in "/@[]" for character in host):
        raise BadSetting(f"{variable} is host:port, and {host!r} is no host")
    return Address(host, int(port))


# --- subsystems --------------------------------------------------------------------------------------------------


def variable_of(prefix: str, field: str) -> str:
    """Return the variable of a subsystem's field: RINGKEEP_RAFT_HEARTBEAT_S; a prefix in the field is not repeated."""
    name = field.upper()
    return PREFIX + (name if name.startswith(prefix + "_") else f"{prefix}_{name}")


def subsystem(prefix: str, kind: type[T], environment: Mapping[str, str], **fixed: Any) -> T:
    """Return the settings of a subsystem: its defaults, changed by what the environment says.

    ``kind`` is any class with annotated fields that all have defaults. Only whole numbers, decimal numbers, switches and
    texts can be set; ``fixed`` fields cannot. Raises ``BadSetting``, also for what the class itself refuses.
    """
    given: dict[str, Any] = dict(fixed)
    for field, hint in _settable(kind, fixed):
        variable = variable_of(prefix, field)
        text = environment.get(variable)
        if text is not None:
            given[field] = _value(text, hint, variable)
    try:
        return kind(**given)
    except (ValueError, AssertionError) as error:
        raise BadSetting(f"the settings {PREFIX}{prefix}_* contradict each other: {error}") from error


def variables_of(prefix: str, kind: type[Any], fixed: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the variables that ``subsystem`` reads."""
    return tuple(variable_of(prefix, field) for field, _ in _settable(kind, fixed))


def _settable(kind: type[Any], fixed: Iterable[str]) -> list[tuple[str, type[Any]]]:
    hints = typing.get_type_hints(kind)
    return [(field, hint) for field, hint in hints.items() if hint in (int, float, bool, str) and field not in fixed]


def unknown(environment: Mapping[str, str], known: Iterable[str]) -> tuple[str, ...]:
    """Return the RINGKEEP_* variables that nobody reads: probably typing errors.

    Kubernetes puts variables of a Service named ``ringkeep`` into every pod; those are not meant.
    """
    names = {*NODE_VARIABLES, *known, *(PREFIX + name for name in FOREIGN)}
    return tuple(
        sorted(
            name
            for name in environment
            if name.startswith(PREFIX) and name not in names and "_SERVICE_" not in name and "_PORT" not in name
        )
    )


def _needed(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(PREFIX + name)
    if not value:
        raise BadSetting(f"{PREFIX}{name} is not set")
    return value


def _value(text: str, kind: type[Any], variable: str) -> Any:
    if kind is str:
        return text
    if kind is bool:
        if text.lower() in ("true", "1", "false", "0"):
            return text.lower() in ("true", "1")
        raise BadSetting(f"{variable} is true or false, not {text!r}")
    try:
        number = kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise BadSetting(f"{variable} is {what}, not {text!r}") from None
    if not math.isfinite(number) or number < 0:
        raise BadSetting(f"{variable} is a number from 0, not {text!r}")
    return number
