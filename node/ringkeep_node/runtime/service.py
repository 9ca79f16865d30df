"""The service: typed requests in, typed answers out. The only caller of ``Driving.submit`` beside the import.

It checks what clients may ask (names, sizes, deadlines), computes the shard, and turns the results of replication into
answers or into the errors of ``ringkeep_core.errors``. HTTP only translates to and from these types, so the simulation
of a whole node drives this layer and misses nothing.

Source: interface.md, REST, "Paths and limits" and "Shapes"; replication.md, rules 1, 2 and 9.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import NoReturn

from msgspec import Struct

from ringkeep_core import errors
from ringkeep_core.errors import BadRequest, Internal, NoPrimary, NotFound, OutcomeUnknown, RingkeepError
from ringkeep_core.hashing import shard_of, user_hash
from ringkeep_core.ids import (
    KEY_BYTES_MAX,
    check_content_type,
    check_idempotency_key,
    check_key,
    check_user,
    check_value,
)
from ringkeep_core.shardmap import ShardMap
from ringkeep_node.machines.documents import Answer, IdempotencyKey, Row, Write
from ringkeep_node.machines.shard.effects import (
    Absent,
    Found,
    Moved,
    NotApplied,
    NotModified,
    PageFound,
    ReadKind,
    ReadRequest,
    Result,
    Stored,
    Unknown,
    WriteRequest,
)
from ringkeep_node.runtime.reports import Driving

TIMEOUT_DEFAULT_S = 5.0
TIMEOUT_MAX_S = 60.0
TIMEOUT_MIN_S = 0.001
LIST_LIMIT_DEFAULT = 100
LIST_LIMIT_MAX = 1_000
PAGE_BYTES_MAX = 4 << 20
PAGE_BYTES_ENCODED = 3 << 20
"""Of values that travel in base64, so that the page stays below ``PAGE_BYTES_MAX``."""
REQUEST_BYTES = 1024
"""What a request weighs beside its value."""
REQUEST_HASH_BYTES = 16


class Conditions(Struct, frozen=True, gc=False):
    """Preconditions on a document's version; None: no condition, empty: any version.

    No document has version 0, so (0,) is a condition that no document meets.
    """

    if_match: tuple[int, ...] | None = None
    if_none_match: tuple[int, ...] | None = None


UNCONDITIONAL = Conditions()


class Put(Struct, frozen=True, gc=False):
    """Store a document. ``timeout_s`` is what the client waits; ``cause`` goes along, for logs and traces only."""

    user: str
    key: str
    value: bytes
    content_type: str
    conditions: Conditions = UNCONDITIONAL
    idempotency_key: str | None = None
    timeout_s: float = TIMEOUT_DEFAULT_S
    cause: str = ""


class Delete(Struct, frozen=True, gc=False):
    """Remove a document."""

    user: str
    key: str
    conditions: Conditions = UNCONDITIONAL
    idempotency_key: str | None = None
    timeout_s: float = TIMEOUT_DEFAULT_S
    cause: str = ""


class Get(Struct, frozen=True, gc=False):
    """Read a document; ``head``: only what is known of it. ``local``: from a replica at once, maybe behind."""

    user: str
    key: str
    head: bool = False
    local: bool = False
    conditions: Conditions = UNCONDITIONAL
    timeout_s: float = TIMEOUT_DEFAULT_S
    cause: str = ""


class List(Struct, frozen=True, gc=False):
    """Read a sorted page of a user's documents."""

    user: str
    prefix: str = ""
    after: str = ""
    limit: int = LIST_LIMIT_DEFAULT
    values: bool = False
    local: bool = False
    timeout_s: float = TIMEOUT_DEFAULT_S
    cause: str = ""


class Written(Struct, frozen=True, gc=False):
    """A change is on disk on every in-sync copy."""

    version: int
    created: bool
    shard: int
    epoch: int


class Document(Struct, frozen=True, gc=False):
    """A document. ``size`` is the length of its value, which HEAD leaves out; ``lag`` counts log entries."""

    row: Row
    size: int
    shard: int
    epoch: int
    lag: int = 0


class Unchanged(Struct, frozen=True, gc=False):
    """The reader has this version already."""

    version: int
    shard: int
    epoch: int


class Listing(Struct, frozen=True):
    """A page of documents in the order of their keys' bytes; ``next`` is where the next one starts, or None."""

    rows: tuple[Row, ...]
    next: str | None
    shard: int
    epoch: int
    lag: int = 0


class Place(Struct, frozen=True):
    """Where a node's REST interface is."""

    name: str
    url: str


class Route(Struct, frozen=True):
    """Where a user lives: the answer of ``GET /v1/users/{user}/route``. ``hash`` is 16 hexadecimal digits: JSON's numbers
    lose bits above 2^53."""

    user: str
    hash: str
    shard: int
    epoch: int
    version: int
    primary: Place
    in_sync: tuple[Place, ...]


def _classes(kind: type[RingkeepError]) -> dict[str, type[RingkeepError]]:
    found = {kind.code: kind}
    for child in kind.__subclasses__():
        found.update(_classes(child))
    return found


ERROR_OF_CODE = {**_classes(errors.RingkeepError), Internal.code: Internal}


def error_of(result: Result) -> RingkeepError:
    """Return the error that a result without success stands for."""
    if type(result) is NotApplied:
        kind = ERROR_OF_CODE.get(result.code)
        return Internal(f"a change was refused with the code {result.code!r}") if kind is None else kind(result.detail)
    if type(result) is Unknown:
        return OutcomeUnknown()
    if type(result) is Moved:
        return NoPrimary("the shard moved and its primary could not be reached before the deadline")
    return Internal(f"{type(result).__name__} is no answer to this request")


def checked_user(user: str) -> str:
    """Return ``user`` if it may be a partition key and can stand in a path; raise ``BadRequest`` otherwise."""
    if user in (".", ".."):
        raise BadRequest("a user must not be '.' or '..'")
    return check_user(user)


def checked_timeout_s(timeout_s: float) -> float:
    """Return the deadline a client asked for, in seconds; raise ``BadRequest`` if it is none.

    What is left of a client's own deadline may have been rounded to nothing: that is short, not wrong.
    """
    if not 0 <= timeout_s <= TIMEOUT_MAX_S:
        raise BadRequest(f"a timeout is 0..{TIMEOUT_MAX_S:.0f} seconds")
    return max(timeout_s, TIMEOUT_MIN_S)


def request_hash(method: str, key: str, conditions: Conditions, content_type: str, value: bytes) -> bytes:
    """Return what makes two changes under one Idempotency-Key the same: everything that decides their effect."""
    told = f"{method}\n{key}\n{conditions.if_match}\n{conditions.if_none_match}\n{content_type}\n"
    digest = blake2b(told.encode(), digest_size=REQUEST_HASH_BYTES)
    digest.update(value)
    return digest.digest()


class Service:
    """What clients may ask of a node. ``clock`` is monotonic, ``wall`` unix time, both in seconds."""

    def __init__(self, driver: Driving, *, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        self.driver = driver
        self.clock = clock
        self.wall = wall

    async def put(self, request: Put) -> Written:
        """Store a document and return its version once it is durable.

        Raises:
            BadRequest, TooLarge: the request makes no sense; nothing was changed.
            VersionMismatch, KeyReused: a condition did not hold; nothing was changed.
            NoPrimary, NotEnoughCopies, Overloaded, DiskFull: certainly not applied.
            OutcomeUnknown: the deadline passed first.
        """
        user, key, value, content_type = request.user, request.key, request.value, request.content_type
        checked_user(user)
        check_key(key)
        check_value(value)
        check_content_type(content_type)
        return await self._write(request, Write(user, key, value, content_type), "PUT")

    async def delete(self, request: Delete) -> Written:
        """Remove a document. Raises what ``put`` does, and ``NotFound`` if there is none."""
        checked_user(request.user)
        check_key(request.key)
        return await self._write(request, Write(request.user, request.key, None), "DELETE")

    async def _write(self, request: Put | Delete, write: Write, method: str) -> Written:
        shard = self.shard_of(write.user)
        conditions = request.conditions
        idempotency = None
        value = write.value or b""
        if request.idempotency_key is not None:
            name = check_idempotency_key(request.idempotency_key)
            digest = request_hash(method, write.key, conditions, write.content_type, value)
            idempotency = IdempotencyKey(write.user, name, digest)
        result = await self.driver.submit(
            shard,
            WriteRequest(
                writes=(write,),
                deadline=self.clock() + request.timeout_s,
                wall_ms=int(self.wall() * 1000),
                idempotency=idempotency,
                if_match=conditions.if_match,
                if_none_match=conditions.if_none_match,
                cause=request.cause,
            ),
            timeout_s=request.timeout_s,
            size=len(value) + REQUEST_BYTES,
        )
        if type(result) is Stored:
            return Written(result.version, result.answer == Answer.CREATED, shard, result.epoch)
        if type(result) is Absent:
            raise _no_document(write.key)
        raise error_of(result)

    async def get(self, request: Get) -> Document | Unchanged:
        """Return a document, or that the reader has it already.

        Raises ``NotFound``, ``BadRequest``, ``VersionMismatch`` (``if_match``), ``NoPrimary``, ``Overloaded``.
        """
        user, key = request.user, request.key
        checked_user(user)
        check_key(key)
        shard = self.shard_of(user)
        conditions = request.conditions
        result = await self.driver.submit(
            shard,
            ReadRequest(
                user,
                key,
                self.clock() + request.timeout_s,
                ReadKind.HEAD if request.head else ReadKind.GET,
                request.local,
                conditions.if_match,
                conditions.if_none_match,
                cause=request.cause,
            ),
            timeout_s=request.timeout_s,
            size=REQUEST_BYTES,
        )
        if type(result) is Found:
            return Document(result.row, result.size, shard, result.epoch, result.lag)
        if type(result) is NotModified:
            return Unchanged(result.version, shard, result.epoch)
        if type(result) is Absent:
            raise _no_document(key)
        raise error_of(result)

    async def list(self, request: List) -> Listing:
        """Return a page of a user's documents, sorted by the keys' UTF-8 bytes. Raises what ``get`` does."""
        checked_user(request.user)
        _check_fragment("prefix", request.prefix)
        _check_fragment("after", request.after)
        if not 1 <= request.limit <= LIST_LIMIT_MAX:
            raise BadRequest(f"limit is 1..{LIST_LIMIT_MAX}, not {request.limit}")
        shard = self.shard_of(request.user)
        result = await self.driver.submit(
            shard,
            ReadRequest(
                user=request.user,
                key="",
                deadline=self.clock() + request.timeout_s,
                kind=ReadKind.PAGE,
                local=request.local,
                prefix=request.prefix,
                after=request.after,
                limit=request.limit,
                bytes_max=PAGE_BYTES_ENCODED if request.values else PAGE_BYTES_MAX,
                cause=request.cause,
            ),
            timeout_s=request.timeout_s,
            size=REQUEST_BYTES,
        )
        if type(result) is PageFound:
            return Listing(result.rows, result.next, shard, result.epoch, result.lag)
        raise error_of(result)

    def route(self, user: str) -> Route:
        """Return where a user lives by the held map. Raises ``BadRequest``, ``NoPrimary``."""
        checked_user(user)
        shard_map = self.held_map()
        number = shard_map.shard_of(user)
        shard = shard_map.shards[number]
        return Route(
            user=user,
            hash=f"{user_hash(user):016x}",
            shard=number,
            epoch=shard.epoch,
            version=shard_map.version,
            primary=_place(shard_map, shard.primary.storage),
            in_sync=tuple(_place(shard_map, copy.storage) for copy in shard.in_sync),
        )

    def held_map(self) -> ShardMap:
        """Return the map that requests are routed by; raise ``NoPrimary`` on a node that belongs to no cluster."""
        shard_map = self.driver.shard_map
        if shard_map is None:
            self._no_map()
        return shard_map

    def shard_of(self, user: str) -> int:
        """Return the shard of a user; raise ``NoPrimary`` as ``held_map`` does."""
        shard_map = self.driver.shard_map
        if shard_map is None:
            self._no_map()
        return shard_of(user, len(shard_map.shards))

    def where(self, user: str) -> tuple[int, int] | None:
        """Return (shard, epoch) of a user by the held map, None without a map. The user need not be valid."""
        shard_map = self.driver.shard_map
        if shard_map is None:
            return None
        try:
            number = shard_map.shard_of(user)
        except UnicodeEncodeError:
            return None
        return number, shard_map.shards[number].epoch

    def _no_map(self) -> NoReturn:
        if self.driver.cluster_id:
            raise NoPrimary("this node does not hold the shard map yet")
        raise NoPrimary("this node belongs to no cluster yet")


def _check_fragment(what: str, text: str) -> None:
    """Check a key's beginning: anything that a key may contain, also nothing."""
    if len(text.encode(errors="surrogatepass")) > KEY_BYTES_MAX:
        raise BadRequest(f"{what} is longer than a key may be")
    if any(character < " " for character in text):
        raise BadRequest(f"{what} contains a control character")


def _no_document(key: str) -> NotFound:
    return NotFound(f"there is no document {key!r}")


def _place(shard_map: ShardMap, storage: str) -> Place:
    member = shard_map.members.get(storage)
    return Place(member.name, member.url) if member is not None else Place(storage, "")
