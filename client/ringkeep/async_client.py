"""The asynchronous client: sends each request straight to the primary, and outlives the death of a node.

    call -> target (cached map, else any node) -> attempt -> answer
                ^                                    | refused or unknown, inside the deadline
                +------------- pause ----------------+

Every change carries one Idempotency-Key through all its attempts, so a retry can never apply it twice. The map is
fetched in the background when an answer shows a newer epoch or an attempt fails; requests never wait for it.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import msgspec

from ringkeep.administration import Administration
from ringkeep.answers import (
    Document,
    DocumentInfo,
    ImportResult,
    Leader,
    Listed,
    Member,
    Members,
    Page,
    Route,
    ShardMap,
    Written,
)
from ringkeep.errors import Conflict, RingkeepError, Unavailable, UnexpectedAnswer, WrongCluster
from ringkeep.importing import CHUNK_LINES, Chunk, LaneSplitter, Lines, added, lanes_of, run_lanes, settle
from ringkeep.retries import TIMEOUT_MAX_S, Operation, RetryPolicy
from ringkeep.routing import Routes
from ringkeep.services import ServiceRegistry
from ringkeep.transport import (
    Answer,
    Request,
    Transport,
    decoded,
    document_path,
    documents_path,
    query_of,
    route_path,
)
from ringkeep_core.summary import Summary

PAGE_MAX = 1000
MAP_PAUSE_S = 0.1


class AsyncClient(Administration, ServiceRegistry):
    """A client of one cluster. Use it as ``async with AsyncClient("http://127.0.0.1:8081") as client``.

    Args:
        urls: One or more addresses of nodes; any is enough, more survive the death of one.
        timeout_s: Deadline of a call with all its retries, unless the call gives its own.
        direct: Send to the primaries named by the cached map. Switch it off where the nodes' own addresses cannot be
            reached (behind a port-forward or a load balancer): then only ``urls`` are used.
        admin_token: Sent as a bearer token, for clusters that demand one for administration.
        policy: How patiently to retry.
        connections_max: Connections held at once.
        cluster_id: The cluster that is meant. Without it, it is the one that the first answer names.

    A client belongs to one cluster: it names that with each request, and takes no answer of a node of another one, which
    may have got the address of a node that is gone. It goes on through its other addresses, and raises ``WrongCluster`` if
    none of them is of its cluster.

    Errors: a class of ``ringkeep.errors`` for each stable code. After ``OutcomeUnknown`` (and ``Internal``, a bug) a
    change may have been made; after any other error it was not.
    """

    def __init__(
        self,
        urls: str | Iterable[str],
        *,
        timeout_s: float = 10.0,
        direct: bool = True,
        admin_token: str | None = None,
        policy: RetryPolicy | None = None,
        connections_max: int = 256,
        cluster_id: str | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._routes = Routes([urls] if isinstance(urls, str) else urls, cluster=cluster_id or "")
        self._timeout_s = timeout_s
        self._direct = direct
        self._policy = policy or RetryPolicy()
        self._import_policy = RetryPolicy(attempt_s=TIMEOUT_MAX_S / 2, pause_max_s=1.0)
        self._connections_max = connections_max
        self._headers = {"User-Agent": "ringkeep", "Accept-Encoding": "identity"}
        if admin_token:
            self._headers["Authorization"] = f"Bearer {admin_token}"
        self._draw = draw
        self._transport: Transport | None = None
        self._refresh: asyncio.Task[None] | None = None
        self._refresh_again = False
        self._refresh_source: str | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection. Calls that are still running fail."""
        if self._refresh is not None:
            self._refresh.cancel()
            await asyncio.gather(self._refresh, return_exceptions=True)
            self._refresh = None
        if self._transport is not None:
            await self._transport.close()
            self._transport = None

    @property
    def routing_version(self) -> int | None:
        """The version of the map that requests are routed by, or None while there is none."""
        return None if self._routes.map is None else self._routes.map.version

    # -- documents ---------------------------------------------------------------------------------------------

    async def put(
        self,
        user: str,
        key: str,
        value: bytes | str,
        *,
        content_type: str | None = None,
        if_version: int | None = None,
        if_absent: bool = False,
        idempotency_key: str | None = None,
        timeout_s: float | None = None,
    ) -> Written:
        """Store a document and return once it is on disk on every in-sync copy.

        Args:
            value: Bytes, or text that is stored as UTF-8.
            content_type: ``application/octet-stream`` for bytes and ``text/plain; charset=utf-8`` for text by default.
            if_version: Replace only exactly this version.
            if_absent: Store only if there is no document under the key.
            idempotency_key: Your own name of this change, to repeat it safely after an ``OutcomeUnknown``.
        Raises:
            VersionMismatch: a precondition did not hold; nothing was changed.
            OutcomeUnknown: the deadline passed; the change may have been made.
        """
        default_type = "text/plain; charset=utf-8" if isinstance(value, str) else "application/octet-stream"
        headers = _change_headers(if_version, if_absent, idempotency_key)
        headers["Content-Type"] = content_type or default_type
        body = value.encode() if isinstance(value, str) else bytes(value)
        request = Request("PUT", document_path(user, key), headers=headers, body=body)
        answer = await self._perform(request, user=user, changes=True, timeout_s=timeout_s)
        if not answer.version:
            raise UnexpectedAnswer(f"{answer.url} answered a PUT with HTTP {answer.status} and no version")
        return Written(answer.version, answer.status == 201, answer.shard, answer.epoch, answer.node)

    async def get(
        self, user: str, key: str, *, consistency: str = "strict", timeout_s: float | None = None
    ) -> Document:
        """Return a document.

        ``consistency="strict"`` (linearizable) includes every write acknowledged before the call; ``"local"`` answers
        from any copy at once, with its ``lag``. Raises ``NotFound``.
        """
        answer = await self._read_document("GET", user, key, consistency, timeout_s)
        content_type = answer.headers.get("Content-Type", "application/octet-stream")
        return Document(
            answer.body, content_type, answer.version, answer.headers.get("Last-Modified", ""), _lag(answer)
        )

    async def head(
        self, user: str, key: str, *, consistency: str = "strict", timeout_s: float | None = None
    ) -> DocumentInfo:
        """Return what is known of a document, without its bytes. ``consistency`` as in ``get``. Raises ``NotFound``."""
        answer = await self._read_document("HEAD", user, key, consistency, timeout_s)
        return DocumentInfo(
            version=answer.version,
            content_type=answer.headers.get("Content-Type", "application/octet-stream"),
            bytes=int(answer.headers.get("Content-Length", "0")),
            modified=answer.headers.get("Last-Modified", ""),
            lag=_lag(answer),
        )

    async def delete(
        self,
        user: str,
        key: str,
        *,
        if_version: int | None = None,
        idempotency_key: str | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Delete a document. Raises ``NotFound`` if there is none, ``VersionMismatch`` as ``put`` does."""
        headers = _change_headers(if_version, False, idempotency_key)
        request = Request("DELETE", document_path(user, key), headers=headers)
        await self._perform(request, user=user, changes=True, timeout_s=timeout_s)

    async def list(
        self,
        user: str,
        *,
        prefix: str = "",
        after: str = "",
        values: bool = False,
        page_size: int = PAGE_MAX,
        timeout_s: float | None = None,
    ) -> AsyncIterator[Listed]:
        """Yield the user's documents in the order of their keys' bytes, fetching page after page.

        Each page is a strict read of its own: documents that change while you iterate may be seen before or after.
        """
        while True:
            page = await self.page(
                user, prefix=prefix, after=after, limit=page_size, values=values, timeout_s=timeout_s
            )
            for row in page.docs:
                yield row
            if page.next is None:
                return
            after = page.next

    async def page(
        self,
        user: str,
        *,
        prefix: str = "",
        after: str = "",
        limit: int = PAGE_MAX,
        values: bool = False,
        timeout_s: float | None = None,
    ) -> Page:
        """Return one page of at most ``limit`` (1..1,000) documents whose keys come after ``after``."""
        query = query_of(prefix=prefix or None, after=after or None, limit=limit, values="true" if values else None)
        request = Request("GET", documents_path(user), query)
        return decoded(await self._perform(request, user=user, timeout_s=timeout_s), Page)

    async def route(self, user: str, *, timeout_s: float | None = None) -> Route:
        """Return where a user lives."""
        return decoded(await self._perform(Request("GET", route_path(user)), timeout_s=timeout_s), Route)

    async def import_lines(
        self,
        lines: Lines,
        *,
        on_progress: Callable[[ImportResult], None] | None = None,
        chunk_lines: int = CHUNK_LINES,
        timeout_s: float = TIMEOUT_MAX_S,
    ) -> ImportResult:
        """Store a stream of NDJSON lines ``{"user", "key", "value" | "value_b64", "content_type"}``.

        The stream is read as fast as the cluster stores it and never held as a whole. Lines of one user are stored in
        their order. What failed for a passing reason is sent again, for up to ``timeout_s`` a chunk.

        Args:
            on_progress: Called with the counts so far each time some lines are settled.
        Returns:
            Counts, and the first 100 problems with the line numbers of the stream.
        """
        if self._direct and self._routes.map is None:
            await self._fetch_map(timeout_s)
        urls, lane_of_shard = lanes_of(self._routes.primary_urls() if self._direct else ())

        async def send(lane: int, chunk: Chunk) -> ImportResult:
            return await self._import_chunk(chunk, urls[lane], timeout_s)

        splitter = LaneSplitter(lane_of_shard, chunk_lines=chunk_lines)
        return await _first_error(
            run_lanes(lines, lanes=len(urls), splitter=splitter, send=send, on_progress=on_progress)
        )

    # -- the cluster -------------------------------------------------------------------------------------------

    async def members(self, *, timeout_s: float | None = None) -> tuple[Member, ...]:
        """Return the members as the answering node sees them."""
        answer = await self._perform(Request("GET", "/v1/cluster/members"), timeout_s=timeout_s)
        return decoded(answer, Members).members

    async def map(self, *, timeout_s: float | None = None) -> ShardMap:
        """Return the shard map that the answering node holds, and route by it from now on if it is newer."""
        return await self._fetch_map(timeout_s)

    async def leader(self, *, timeout_s: float | None = None) -> Leader:
        """Return the Raft leader as the answering node knows it."""
        return decoded(await self._perform(Request("GET", "/v1/cluster/leader"), timeout_s=timeout_s), Leader)

    async def summary(self, *, timeout_s: float | None = None) -> Summary:
        """Return what is wrong and what is being done about it, in words: a headline, and findings, the gravest first.

        The leader knows most: it alone can say how far a plan is.
        """
        return decoded(await self._perform(Request("GET", "/v1/cluster/summary"), timeout_s=timeout_s), Summary)

    async def read(self, path: str, *, timeout_s: float | None = None) -> bytes:
        """Return the unchanged answer of a GET of any path of the interface (``/v1/cluster``, ``/metrics``)."""
        return (await self._perform(Request("GET", path), timeout_s=timeout_s)).body

    async def bootstrap(
        self,
        members: Iterable[Mapping[str, str]],
        *,
        shards: int = 256,
        replication_factor: int = 3,
        min_in_sync: int = 2,
        timeout_s: float | None = None,
    ) -> str:
        """Make the cluster, once, of members ``{name, storage_id, peer}``; return its cluster id.

        Raises ``Conflict`` if any of them already belongs to a cluster. It is never sent twice: a second one would be
        another cluster, so after ``OutcomeUnknown`` ask the node for its map.
        """
        wish = {
            "members": [dict(member) for member in members],
            "shards": shards,
            "replication_factor": replication_factor,
            "min_in_sync": min_in_sync,
        }
        headers = {"Content-Type": "application/json"}
        request = Request("POST", "/v1/cluster/bootstrap", headers=headers, body=msgspec.json.encode(wish))
        url = self._routes.addresses[0]
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        answer = await self._attempt(url, request, limit_s, limit_s)
        if (error := answer.error()) is not None:
            raise error
        cluster_id = decoded(answer, dict[str, Any]).get("cluster_id")
        if not isinstance(cluster_id, str):
            raise Conflict("the bootstrap was answered without a cluster id")
        return cluster_id

    # -- how a call is carried out -----------------------------------------------------------------------------

    async def _read_document(
        self, method: str, user: str, key: str, consistency: str, timeout_s: float | None
    ) -> Answer:
        if consistency not in ("strict", "local"):
            raise ValueError(f"consistency is 'strict' or 'local', not {consistency!r}")
        query = query_of(consistency="local" if consistency == "local" else None)
        request = Request(method, document_path(user, key), query)
        return await self._perform(request, user=user, timeout_s=timeout_s)

    async def _perform(
        self,
        request: Request,
        *,
        user: str | None = None,
        changes: bool = False,
        timeout_s: float | None = None,
        wish: str | None = None,
    ) -> Answer:
        """Carry out one call with all its attempts and return the successful answer. ``wish``: ask this node first."""
        loop = asyncio.get_running_loop()
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        operation = Operation(
            started=loop.time(), timeout_s=limit_s, changes=changes, policy=self._policy, draw=self._draw
        )
        url: str | None = None
        while True:
            now = loop.time()
            url = self._routes.target(wish or self._primary_url(user), now=now, draw=self._draw, last=url)
            answer, error = await self._try(url, request, operation.attempt_s(now), operation.left_s(now))
            if error is None:
                assert answer is not None
                self._notice(answer)
                return answer
            retry_after_s = answer.retry_after_s if answer is not None else 0.0
            pause_s = operation.failed(
                error,
                now=loop.time(),
                retry_after_s=retry_after_s,
                wrong_cluster=self._wrong_cluster(),
                is_hopeless=self._routes.is_lost,
            )
            self._start_refresh()
            await asyncio.sleep(pause_s)

    async def _try(
        self, url: str, request: Request, attempt_s: float, total_s: float
    ) -> tuple[Answer | None, RingkeepError | None]:
        try:
            answer = await self._attempt(url, request, attempt_s, total_s)
        except RingkeepError as error:
            silent = isinstance(error.__cause__, TimeoutError)
            self._routes.failed(url, now=asyncio.get_running_loop().time(), silent=silent)
            return None, error
        refusal = answer.error()
        if not self._routes.is_ours(answer.cluster) or isinstance(refusal, WrongCluster):
            # Also an acknowledgement: it is one of another cluster, and ours has not got the write.
            self._routes.strayed(url, answer.cluster, now=asyncio.get_running_loop().time())
            return None, self._wrong_cluster()
        self._routes.answered(url)
        return answer, refusal

    def _wrong_cluster(self) -> WrongCluster | None:
        """Return what is wrong with the addresses that belong to another cluster now, if there are any."""
        strangers = self._routes.strangers
        if not strangers:
            return None
        told = ", ".join(f"{url} belongs to cluster {whose or 'none'}" for url, whose in strangers.items())
        return WrongCluster(f"{told}; this client is one of cluster {self._routes.cluster}")

    async def _attempt(self, url: str, request: Request, attempt_s: float, total_s: float) -> Answer:
        if self._transport is None:
            self._transport = Transport(connections_max=self._connections_max, headers=self._headers)
        headers = {**request.headers, "Ringkeep-Timeout": f"{min(attempt_s, TIMEOUT_MAX_S):.3f}"}
        if self._routes.cluster:
            headers["Ringkeep-Cluster"] = self._routes.cluster
        timed = Request(request.method, request.path, request.query, headers, request.body)
        connect_s = self._policy.connect_s
        return await self._transport.exchange(url, timed, attempt_s=attempt_s, total_s=total_s, connect_s=connect_s)

    async def _import_chunk(self, chunk: Chunk, url: str | None, timeout_s: float) -> ImportResult:
        loop = asyncio.get_running_loop()
        operation = Operation(
            started=loop.time(), timeout_s=timeout_s, changes=True, policy=self._import_policy, draw=self._draw
        )
        result = ImportResult()
        sent_to: str | None = None
        while True:
            now = loop.time()
            sent_to = self._routes.target(url, now=now, draw=self._draw, last=sent_to)
            headers = {"Content-Type": "application/x-ndjson"}
            request = Request("POST", "/v1/import", headers=headers, body=chunk.body())
            answer, error = await self._try(sent_to, request, operation.attempt_s(now), operation.left_s(now))
            if error is None:
                assert answer is not None
                told = decoded(answer, ImportResult)
                settled = settle(chunk, told)
                result = added(result, settled.result)
                if settled.again is None:
                    return result
                chunk = settled.again
                error = Unavailable(f"{told.failed} lines could not be stored: {told.errors[0].detail}")
            pause_s = operation.failed(
                error, now=loop.time(), wrong_cluster=self._wrong_cluster(), is_hopeless=self._routes.is_lost
            )
            await asyncio.sleep(pause_s)

    async def _ask_leader(self, request: Request, *, changes: bool, timeout_s: float | None) -> Answer:
        wish = await self._leader_url()
        return await self._perform(request, changes=changes, timeout_s=timeout_s, wish=wish)

    async def _performed(self, request: Request, *, changes: bool, timeout_s: float | None) -> Answer:
        return await self._perform(request, changes=changes, timeout_s=timeout_s)

    async def _leader_url(self) -> str | None:
        """Return the leader's address if it is known and may be used."""
        return (await self.leader()).url if self._direct else None

    def _primary_url(self, user: str | None) -> str | None:
        return self._routes.primary_url(user) if user is not None and self._direct else None

    # -- the cached map ----------------------------------------------------------------------------------------

    async def _fetch_map(self, timeout_s: float | None) -> ShardMap:
        answer = await self._perform(Request("GET", "/v1/cluster/map"), timeout_s=timeout_s)
        fresh = decoded(answer, ShardMap)
        if self._direct:
            self._routes.take_map(fresh)
        return fresh

    def _notice(self, answer: Answer) -> None:
        """Fetch the map if an answer shows a newer epoch than ours, or if there is none yet."""
        if answer.shard >= 0 and self._routes.is_stale(answer.shard, answer.epoch):
            self._start_refresh(answer.url)

    def _start_refresh(self, source: str | None = None) -> None:
        """Fetch the map soon, from ``source`` (a node that is known to answer) if one is given."""
        if not self._direct:
            return
        self._refresh_source = source or self._refresh_source
        if self._refresh is None or self._refresh.done():
            self._refresh = asyncio.get_running_loop().create_task(self._refresh_map())
        else:
            self._refresh_again = True

    async def _refresh_map(self) -> None:
        """Fetch the map once, and once more if that was asked for meanwhile. A failure waits for the next reason."""
        loop = asyncio.get_running_loop()
        while True:
            self._refresh_again = False
            url = self._routes.target(self._refresh_source, now=loop.time(), draw=self._draw)
            self._refresh_source = None
            limit_s = self._policy.attempt_s
            answer, error = await self._try(url, Request("GET", "/v1/cluster/map"), limit_s, limit_s)
            if error is None and answer is not None:
                self._take_map_quietly(answer)
            # The pause bounds what a failover can ask of the cluster while no new map is there yet.
            await asyncio.sleep(MAP_PAUSE_S)
            if not self._refresh_again:
                return

    def _take_map_quietly(self, answer: Answer) -> None:
        try:
            self._routes.take_map(decoded(answer, ShardMap))
        except UnexpectedAnswer:
            return  # a node without a cluster has no map; requests go to any node until there is one


async def _first_error(running: Any) -> ImportResult:
    """Await lanes and raise their first error instead of a group of errors."""
    try:
        result: ImportResult = await running
    except* RingkeepError as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
    return result


def _change_headers(if_version: int | None, if_absent: bool, idempotency_key: str | None) -> dict[str, str]:
    headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
    if if_version is not None:
        headers["If-Match"] = f'"{if_version}"'
    if if_absent:
        headers["If-None-Match"] = "*"
    return headers


def _lag(answer: Answer) -> int | None:
    text = answer.headers.get("Ringkeep-Lag", "")
    return int(text) if text.isdigit() else None
