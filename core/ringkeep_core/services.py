"""What a registered service is, what may be registered, and how the states of its checks add up.

    Registration (what somebody asks for) --check_registration--> Instance (what all nodes hold) --view--> InstanceSeen

A *service* is a name; an *instance* of it has an id, an address, a port, tags, metadata and checks. The pair (service,
id) names an instance in the whole cluster, whichever node it was registered at. An instance is owned by the node that
took its newest registration; what everybody sees of it also depends on that node being alive (``SERF_HEALTH``).

Everything in here is a value: the registry (``ringkeep_node.machines.registry``) makes them, REST, the Consul-compatible
paths and DNS only translate them. Source: reference/cluster.md 6.1 and 6.3; interface.md.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Literal
from urllib.parse import urlsplit

from msgspec import Struct, field

from ringkeep_core.errors import BadRequest
from ringkeep_core.ids import check_text

Status = Literal["passing", "warning", "critical"]
CheckKind = Literal["ttl", "http", "tcp", "manual"]
"""``ttl``: critical when it was not renewed for ``ttl_s``. ``http``, ``tcp``: the owner node asks ``target`` every
``interval_s``. ``manual``: as it was last told, for ever (maintenance, for example)."""

SERF_HEALTH = "serfHealth"
"""Id of the check that says whether the owner node is alive; the name that Consul's clients look for."""
NODE_SERVICE = "_node"
"""The checks of a whole node are kept as an instance of this service with the node's name as its id; it is in no list
of services. Its checks count for every instance which that node owns."""
NODE_NAMES = "ringkeep"
"""The built-in service whose instances are the nodes of the cluster. Nobody can register under this name."""

SERVICE_NAME_MAX = 63
"""A service name is one DNS label (RFC 1123)."""
ID_MAX = 128
"""Registrars put host, container and port into one id: enough for three of 40 characters."""
TAGS_MAX = 64
TAG_BYTES_MAX = 512
"""Traefik's tags hold whole routing rules."""
META_MAX = 64
META_KEY_MAX = 128
META_VALUE_BYTES_MAX = 512
"""Number and sizes of metadata are Consul's, so that what is accepted there is accepted here."""
CHECKS_MAX = 8
OUTPUT_BYTES_MAX = 512
"""Every node holds every output: enough for a sentence, not for a page."""
INSTANCE_BYTES_MAX = 8192
"""Of names, tags, metadata, targets and notes of one instance together. With ``INSTANCES_PER_NODE_MAX`` the state of an
owner stays within the one frame in which it travels."""
INSTANCES_PER_NODE_MAX = 1000
OWNER_BYTES_MAX = 4 << 20
"""All that one node owns: half of the largest body of a frame between nodes (8 MiB)."""
TTL_MAX_S = 86_400.0
INTERVAL_MIN_S = 1.0
INTERVAL_MAX_S = 3600.0
TIMEOUT_MIN_S = 0.1
TIMEOUT_MAX_S = 30.0
DEREGISTER_AFTER_MAX_S = 604_800.0
WEIGHT_MAX = 65_535
"""Weights end in SRV records, which have 16 bits."""
PORT_MAX = 65_535

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_ID = re.compile(r"[!-.0-~]{1,128}")  # Visible ASCII without "/": an id is one segment of a path.
_META_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}")
_HOST = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*\.?"
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # C1 too: a terminal may take U+009B for the start of a command.
_SEVERITY: Mapping[str, int] = MappingProxyType({"passing": 0, "warning": 1, "critical": 2})

_CREDENTIALS = frozenset(
    ipaddress.ip_address(text)
    for text in ("fd00:ec2::254", "fd20:ce::254", "fd00:42::42", "100.100.100.200", "192.0.0.192", "168.63.129.16")
)
"""Where clouds (Amazon, Google, Scaleway, Alibaba, Oracle, Azure) serve a machine's own credentials beside link-local."""
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class Weights(Struct, frozen=True):
    """The share of an instance in SRV answers while it passes, and while it warns."""

    passing: int = 1
    warning: int = 1


class Check(Struct, frozen=True):
    """A check of an instance and how it stands. Fields that its kind does not use are 0 or ""."""

    id: str
    name: str
    kind: CheckKind
    status: Status = "critical"
    output: str = ""
    notes: str = ""
    ttl_s: float = 0.0
    interval_s: float = 0.0
    timeout_s: float = 0.0
    target: str = ""
    """A URL (http) or host:port (tcp)."""
    deregister_after_s: float = 0.0
    """The instance is removed when this check has been critical for so long; 0 is never."""


class Instance(Struct, frozen=True):
    """One instance of a service as its owner spreads it. ``address`` "" means the address of the owner node.

    ``lamport`` orders registrations of the same (service, id): the greatest (lamport, storage id of the owner) counts.
    """

    service: str
    id: str
    address: str = ""
    port: int = 0
    tags: tuple[str, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict)
    weights: Weights = Weights()
    checks: tuple[Check, ...] = ()
    enable_tag_override: bool = False
    lamport: int = 0

    @property
    def key(self) -> tuple[str, str]:
        """(service, id): names the instance in the whole cluster."""
        return self.service, self.id

    def check(self, check_id: str) -> Check | None:
        """Return the check ``check_id``, or None."""
        return next((check for check in self.checks if check.id == check_id), None)


class NodeHealth(IntEnum):
    """What is believed of a node that owns instances. A suspect still counts as alive, as in the rest of the cluster."""

    ALIVE, SUSPECT, DEAD, LEFT = range(4)


class NodeSeen(Struct, frozen=True):
    """A node of the cluster as the registry shows it. ``checks`` begins with ``SERF_HEALTH``."""

    name: str
    storage: str
    boot: str
    address: str
    """Host of its REST interface: an IP address, or a DNS name in Kubernetes."""
    url: str
    zone: str
    health: NodeHealth
    checks: tuple[Check, ...]
    create_index: int
    modify_index: int

    @property
    def port(self) -> int:
        """Port of its REST interface."""
        return urlsplit(self.url).port or 80


class InstanceSeen(Struct, frozen=True):
    """An instance and the node that owns it, as this node knows them now.

    ``checks`` are the instance's own, ``node.checks`` those of its node; ``status`` is the merge of both. ``address`` is
    the instance's, or its node's if it gave none. ``modify_index`` grows with every change of what is shown here.
    """

    instance: Instance
    node: NodeSeen
    status: Status
    address: str
    create_index: int
    modify_index: int


class CheckWish(Struct, frozen=True, forbid_unknown_fields=True):
    """A check as somebody asks for it.

    The kind follows from what is given: ``ttl_s``, ``http`` or ``tcp``; none of them makes a ``manual`` check. ``status``
    is its first state; "" means passing for ttl and manual checks (registering is the first sign of life) and critical,
    until it was asked once, for the others.
    """

    id: str = ""
    """Default: ``service:<instance id>``; of each of several with ``:<n>``, its place from 1 on. As in Consul."""
    name: str = ""
    notes: str = ""
    status: str = ""
    ttl_s: float = 0.0
    http: str = ""
    tcp: str = ""
    interval_s: float = 10.0
    timeout_s: float = 0.0
    """Default: 10 s, but no more than ``interval_s``."""
    deregister_after_s: float = 0.0


class Registration(Struct, frozen=True, forbid_unknown_fields=True):
    """An instance as somebody asks for it: the body of ``PUT /v1/services/{service}/{id}``."""

    address: str = ""
    port: int = 0
    tags: tuple[str, ...] = ()
    meta: dict[str, str] = field(default_factory=dict)
    weights: Weights = Weights()
    checks: tuple[CheckWish, ...] = ()
    enable_tag_override: bool = False


class Ranges(Struct, frozen=True):
    """Which addresses may be registered, and which may be asked by checks.

    A registration's address must lie in ``addresses`` (all, if that is empty), and is never unspecified, multicast,
    broadcast, link-local or any other at which clouds serve a machine's own credentials. A check asks the registration's
    own address and port; any other target must lie in ``targets``. Loopback, link-local and the like are asked only if
    ``targets`` names them, whoever registered them: otherwise anybody who may register could reach what listens for
    this machine alone.
    """

    addresses: tuple[Network, ...] = ()
    targets: tuple[Network, ...] = ()

    def may_register(self, address: IpAddress) -> bool:
        """Return whether an instance may have this address."""
        plain = _plain(address)
        if _serves_nobody_else(plain) or _serves_nobody_else(_translated(plain)):
            return False
        return not self.addresses or _within(plain, self.addresses)

    def may_ask(self, address: IpAddress, *, is_own: bool) -> bool:
        """Return whether a check may connect there; ``is_own``: it is the address and port of the registration itself.

        Whoever carries the check out asks this for the address that a name resolved to, and connects to that one.
        """
        plain = _plain(address)
        if _within(plain, self.targets):
            return True
        if plain.is_loopback or plain.is_link_local or plain.is_unspecified or plain.is_multicast or plain.is_reserved:
            return False
        return is_own and self.may_register(plain)

    def may_quote(self, address: IpAddress) -> bool:
        """Return whether what answers there may be quoted: only where the settings name the address.

        Everybody who reaches the API can register any other address, and would read through this node what only it reaches.
        """
        return _within(_plain(address), (*self.targets, *self.addresses))


NO_RANGES = Ranges()


def merged_status(statuses: Iterable[Status]) -> Status:
    """Return what several checks amount to: any critical wins, then warning, else passing; no check is passing."""
    worst: Status = "passing"
    for status in statuses:
        if _SEVERITY[status] > _SEVERITY[worst]:
            worst = status
    return worst


def serf_health(health: NodeHealth, evidence: str = "") -> Check:
    """Return the check that says whether a node is alive: instances of a dead one drop out of passing answers."""
    is_alive = health in (NodeHealth.ALIVE, NodeHealth.SUSPECT)
    output = "the node is alive and reachable" if is_alive else f"the node is {health.name.lower()}"
    return Check(
        id=SERF_HEALTH,
        name="Serf Health Status",
        kind="manual",
        status="passing" if is_alive else "critical",
        output=f"{output}: {evidence}" if evidence and not is_alive else output,
    )


def clipped_output(text: str) -> str:
    """Return a check's output as it is kept: at most ``OUTPUT_BYTES_MAX`` bytes, control characters as spaces."""
    cut = text.encode(errors="replace")[:OUTPUT_BYTES_MAX].decode(errors="ignore")
    return _CONTROL.sub(" ", cut)


def check_service_name(name: str) -> str:
    """Return ``name`` if a service may be called so; raise ``BadRequest`` with the reason otherwise."""
    if _NAME.fullmatch(name) is None:
        raise BadRequest(f"a service name is a DNS label: 1..{SERVICE_NAME_MAX} of a-z, 0-9 and '-', not {name[:80]!r}")
    if name == NODE_NAMES or name.startswith(f"{NODE_NAMES}-"):
        raise BadRequest(f"the service name {name!r} is the cluster's own")
    return name


def check_instance_id(instance_id: str) -> str:
    """Return ``instance_id`` if an instance may be called so; raise ``BadRequest`` with the reason otherwise."""
    if _ID.fullmatch(instance_id) is None or instance_id in (".", ".."):
        raise BadRequest(
            f"an instance id is 1..{ID_MAX} visible ASCII characters without '/', not {instance_id[:140]!r}"
        )
    return instance_id


def check_registration(
    service: str, instance_id: str, registration: Registration, *, node_address: str, ranges: Ranges = NO_RANGES
) -> Instance:
    """Return the instance that ``registration`` asks for; raise ``BadRequest`` with one sentence otherwise.

    ``node_address`` is the host under which the node that takes it is reached: the address of an instance that gives
    none. The result has no ``lamport`` yet: the registry numbers it.
    """
    if service != NODE_SERVICE:
        check_service_name(service)
    if check_instance_id(instance_id) == "watch":
        raise BadRequest("an instance cannot have the id 'watch': that is the path at which its service is watched")
    _check_address(registration.address, ranges)
    if not 0 <= registration.port <= PORT_MAX:
        raise BadRequest(f"a port is 0..{PORT_MAX}, not {registration.port}")
    _check_tags(registration.tags)
    _check_meta(registration.meta)
    for weight in (registration.weights.passing, registration.weights.warning):
        if not 0 <= weight <= WEIGHT_MAX:
            raise BadRequest(f"a weight is 0..{WEIGHT_MAX}, not {weight}")
    if len(registration.checks) > CHECKS_MAX:
        raise BadRequest(f"an instance has at most {CHECKS_MAX} checks, not {len(registration.checks)}")
    own = (registration.address or node_address, registration.port)
    default_ids = _default_check_ids(instance_id, len(registration.checks))
    checks = tuple(
        check_wish(wish, default_id=default_id, own=own, ranges=ranges)
        for wish, default_id in zip(registration.checks, default_ids, strict=True)
    )
    if len({check.id for check in checks}) != len(checks):
        raise BadRequest("two checks of an instance have the same id")
    instance = Instance(
        service=service,
        id=instance_id,
        address=registration.address,
        port=registration.port,
        tags=tuple(dict.fromkeys(registration.tags)),
        meta=dict(registration.meta),
        weights=registration.weights,
        checks=checks,
        enable_tag_override=registration.enable_tag_override,
    )
    size = size_of(instance)
    if size > INSTANCE_BYTES_MAX:
        raise BadRequest(f"a registration has at most {INSTANCE_BYTES_MAX} bytes of text, not {size}")
    return instance


def check_wish(wish: CheckWish, *, default_id: str, own: tuple[str, int], ranges: Ranges = NO_RANGES) -> Check:
    """Return the check that ``wish`` asks for; raise ``BadRequest`` with one sentence otherwise.

    ``own`` is the address and port of the instance it is for.
    """
    check_id = wish.id or default_id
    check_instance_id(check_id)
    if check_id == SERF_HEALTH:
        raise BadRequest(f"the check id {SERF_HEALTH!r} is the cluster's own")
    _check_text("name of a check", wish.name, TAG_BYTES_MAX)
    _check_text("note of a check", wish.notes, TAG_BYTES_MAX)
    if wish.status not in ("", *_SEVERITY):
        raise BadRequest(f"the status of a check is passing, warning or critical, not {wish.status[:40]!r}")
    if sum((wish.ttl_s != 0, wish.http != "", wish.tcp != "")) > 1:
        raise BadRequest("a check has one of ttl_s, http and tcp, not several")
    if wish.deregister_after_s != 0:
        _check_seconds("deregister_after_s", wish.deregister_after_s, 1.0, DEREGISTER_AFTER_MAX_S)
    kind: CheckKind = "ttl" if wish.ttl_s != 0 else "http" if wish.http else "tcp" if wish.tcp else "manual"
    is_asked = kind in ("http", "tcp")
    timeout_s = 0.0
    if kind == "ttl":
        _check_seconds("ttl_s", wish.ttl_s, 1.0, TTL_MAX_S)
    elif is_asked:
        _check_seconds("interval_s", wish.interval_s, INTERVAL_MIN_S, INTERVAL_MAX_S)
        timeout_s = wish.timeout_s or min(10.0, wish.interval_s)
        _check_seconds("timeout_s", timeout_s, TIMEOUT_MIN_S, TIMEOUT_MAX_S)
        check_target(wish.http or wish.tcp, is_http=kind == "http", own=own, ranges=ranges)
    status: Status = "critical" if is_asked else "passing"
    if wish.status:
        status = wish.status  # type: ignore[assignment]  # it is one of the three, as was checked above
    return Check(
        id=check_id,
        name=wish.name or f"check {check_id}",
        kind=kind,
        status=status,
        notes=wish.notes,
        ttl_s=wish.ttl_s,
        interval_s=wish.interval_s if is_asked else 0.0,
        timeout_s=timeout_s,
        target=wish.http or wish.tcp,
        deregister_after_s=wish.deregister_after_s,
    )


def check_target(target: str, *, is_http: bool, own: tuple[str, int], ranges: Ranges) -> tuple[str, int, bool]:
    """Return (host, port, whether that is the instance itself) of a check's target.

    Raises:
        BadRequest: It is no target, or one that would make this node ask on somebody's behalf what they cannot reach.
            A name is judged again when it is resolved: it may point anywhere by then.
    """
    if is_http:
        host, port = _split_url(target)
    else:
        host, port = split_host_port(target)
    is_own = (host.lower(), port) == (own[0].strip("[]").lower(), own[1])
    address = ip_or_none(host)
    if address is not None:
        if ranges.may_ask(address, is_own=is_own):
            return host, port, is_own
        if is_own:
            raise BadRequest(f"checks do not ask {host}: loopback, link-local and reserved addresses are refused")
    elif host.lower().rstrip(".") != "localhost" and (is_own or ranges.targets):
        return host, port, is_own
    raise BadRequest(f"a check asks the address and port of its own instance ({own[0]}:{own[1]}), not {target[:120]!r}")


def split_host_port(text: str) -> tuple[str, int]:
    """Return host and port of ``host:port`` or ``[ipv6]:port``; raise ``BadRequest`` if it is neither."""
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    is_port = port.isascii() and port.isdigit() and len(port) <= len(str(PORT_MAX)) and 0 < int(port) <= PORT_MAX
    if not colon or not is_port or not _is_host(bare) or (":" in bare and bare == host):
        raise BadRequest(f"{text[:120]!r} is not host:port")
    return bare, int(port)


def ip_or_none(host: str) -> IpAddress | None:
    """Return ``host`` as an IP address; None if it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def size_of(instance: Instance) -> int:
    """Return the bytes of all texts of an instance without the outputs of its checks, which have their own limit."""
    texts = [instance.service, instance.id, instance.address, *instance.tags, *instance.meta, *instance.meta.values()]
    for check in instance.checks:
        texts += (check.id, check.name, check.notes, check.target)
    return sum(len(text.encode()) for text in texts)


def same_definition(one: Instance, other: Instance) -> bool:
    """Return whether two registrations ask for the same: then the second is a sign of life of the first, no change."""
    return _definition(one) == _definition(other)


def _definition(instance: Instance) -> tuple[object, ...]:
    checks = tuple(
        (c.id, c.name, c.kind, c.notes, c.ttl_s, c.interval_s, c.timeout_s, c.target, c.deregister_after_s)
        for c in instance.checks
    )
    return (
        *(instance.service, instance.id, instance.address, instance.port, instance.tags, dict(instance.meta)),
        *(instance.weights, checks, instance.enable_tag_override),
    )


def _default_check_ids(instance_id: str, count: int) -> list[str]:
    """Return the ids that Consul gives: whoever registered without ids renews by these and knows no others."""
    return [
        f"service:{instance_id}" if count == 1 else f"service:{instance_id}:{number + 1}" for number in range(count)
    ]


def _check_address(address: str, ranges: Ranges) -> None:
    if not address:
        return
    if not _is_host(address):
        raise BadRequest(f"an address is an IP address or a DNS name, not {address[:120]!r}")
    parsed = ip_or_none(address)
    if parsed is None and ranges.addresses:
        raise BadRequest(
            f"only addresses in certain ranges may be registered here: {address} is a name, give its address"
        )
    if parsed is not None and not ranges.may_register(parsed):
        raise BadRequest(f"the address {address} is outside of the ranges that may be registered here")


def _check_tags(tags: tuple[str, ...]) -> None:
    if len(tags) > TAGS_MAX:
        raise BadRequest(f"an instance has at most {TAGS_MAX} tags, not {len(tags)}")
    for tag in tags:
        if not tag:
            raise BadRequest("a tag is empty")
        _check_text("tag", tag, TAG_BYTES_MAX)


def _check_meta(meta: Mapping[str, str]) -> None:
    if len(meta) > META_MAX:
        raise BadRequest(f"an instance has at most {META_MAX} pairs of metadata, not {len(meta)}")
    for key, value in meta.items():
        if _META_KEY.fullmatch(key) is None:
            raise BadRequest(f"a key of metadata is 1..{META_KEY_MAX} letters, digits, '-' and '_', not {key[:140]!r}")
        _check_text(f"value of {key!r} in the metadata", value, META_VALUE_BYTES_MAX)


def _check_text(what: str, text: str, bytes_max: int) -> None:
    check_text(f"a {what}", text, bytes_max, _CONTROL)


def _check_seconds(what: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise BadRequest(f"{what} is {least:g}..{most:g} seconds, not {value:g}")


def _split_url(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise BadRequest(f"{url[:120]!r} is not an http address") from None
    if parts.scheme != "http" or not _is_host(host) or not url.isascii() or not url.isprintable() or " " in url:
        raise BadRequest(f"a check asks a plain http address like http://host:port/path, not {url[:120]!r}")
    if "@" in parts.netloc:
        raise BadRequest("the address of a check has no user name or password in it")
    if len(url) > TAG_BYTES_MAX:
        raise BadRequest(f"the address of a check has at most {TAG_BYTES_MAX} bytes, not {len(url)}")
    return host, 80 if port is None else port


def _is_host(text: str) -> bool:
    if ip_or_none(text) is not None:
        return "%" not in text  # A scope id names an interface of one machine only.
    # A name whose last label is a number would be read as an IPv4 address by some, in octal or as one integer.
    return _HOST.fullmatch(text) is not None and not text.rstrip(".").rsplit(".", 1)[-1].isdigit()


def _plain(address: IpAddress) -> IpAddress:
    """Return the IPv4 address inside a mapped IPv6 one: ::ffff:127.0.0.1 connects to loopback."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return address if mapped is None else mapped


def _translated(address: IpAddress) -> IpAddress:
    """Return the IPv4 address to which a gateway (NAT64, 6to4) takes what is sent to this one; else the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(address.packed[-4:])
    return address.sixtofour or address


def _serves_nobody_else(address: IpAddress) -> bool:
    """Return whether an address means no single machine, or what each machine has for itself."""
    is_broadcast = address == ipaddress.IPv4Address("255.255.255.255")
    return (
        address.is_unspecified
        or address.is_multicast
        or address.is_link_local
        or is_broadcast
        or address in _CREDENTIALS
    )


def _within(address: IpAddress, networks: tuple[Network, ...]) -> bool:
    return any(address.version == network.version and address in network for network in networks)
