"""The blocking client: the asynchronous one on a private event loop in a thread of its own.

Safe to use from several threads at once. Ctrl-C interrupts the waiting caller; its request is cancelled.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, TypeVar

from ringkeep.answers import (
    Document,
    DocumentInfo,
    Event,
    ImportResult,
    Leader,
    Listed,
    Member,
    Page,
    Plan,
    Route,
    ShardMap,
    Written,
)
from ringkeep.async_client import PAGE_MAX, AsyncClient
from ringkeep.retries import RetryPolicy
from ringkeep_core.summary import Summary

T = TypeVar("T")
Rows = list[dict[str, Any]]
"""Rows of JSON; the class below has a ``list`` of its own."""


class Client:
    """A client of one cluster for programs without an event loop: ``with Client("http://127.0.0.1:8081") as client``.

    Arguments, results and errors are those of ``AsyncClient``.
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
    ) -> None:
        self._client = AsyncClient(
            urls,
            timeout_s=timeout_s,
            direct=direct,
            admin_token=admin_token,
            policy=policy,
            connections_max=connections_max,
            cluster_id=cluster_id,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ringkeep-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection and end the thread. A second call does nothing."""
        if self._loop.is_closed():
            return
        self._await(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def put(
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
        """Store a document; see ``AsyncClient.put``."""
        return self._await(
            self._client.put(
                user,
                key,
                value,
                content_type=content_type,
                if_version=if_version,
                if_absent=if_absent,
                idempotency_key=idempotency_key,
                timeout_s=timeout_s,
            )
        )

    def get(self, user: str, key: str, *, consistency: str = "strict", timeout_s: float | None = None) -> Document:
        """Return a document; see ``AsyncClient.get``."""
        return self._await(self._client.get(user, key, consistency=consistency, timeout_s=timeout_s))

    def head(self, user: str, key: str, *, consistency: str = "strict", timeout_s: float | None = None) -> DocumentInfo:
        """Return what is known of a document; see ``AsyncClient.head``."""
        return self._await(self._client.head(user, key, consistency=consistency, timeout_s=timeout_s))

    def delete(
        self,
        user: str,
        key: str,
        *,
        if_version: int | None = None,
        idempotency_key: str | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Delete a document; see ``AsyncClient.delete``."""
        self._await(
            self._client.delete(user, key, if_version=if_version, idempotency_key=idempotency_key, timeout_s=timeout_s)
        )

    def list(
        self,
        user: str,
        *,
        prefix: str = "",
        after: str = "",
        values: bool = False,
        page_size: int = PAGE_MAX,
        timeout_s: float | None = None,
    ) -> Iterator[Listed]:
        """Yield the user's documents; see ``AsyncClient.list``."""
        while True:
            page = self.page(user, prefix=prefix, after=after, limit=page_size, values=values, timeout_s=timeout_s)
            yield from page.docs
            if page.next is None:
                return
            after = page.next

    def page(
        self,
        user: str,
        *,
        prefix: str = "",
        after: str = "",
        limit: int = PAGE_MAX,
        values: bool = False,
        timeout_s: float | None = None,
    ) -> Page:
        """Return one page of a listing; see ``AsyncClient.page``."""
        return self._await(
            self._client.page(user, prefix=prefix, after=after, limit=limit, values=values, timeout_s=timeout_s)
        )

    def route(self, user: str, *, timeout_s: float | None = None) -> Route:
        """Return where a user lives."""
        return self._await(self._client.route(user, timeout_s=timeout_s))

    def import_lines(
        self, lines: Iterable[bytes], *, on_progress: Callable[[ImportResult], None] | None = None
    ) -> ImportResult:
        """Store a stream of NDJSON lines; see ``AsyncClient.import_lines``.

        Both arguments are used in the client's own thread.
        """
        return self._await(self._client.import_lines(lines, on_progress=on_progress))

    def members(self, *, timeout_s: float | None = None) -> tuple[Member, ...]:
        """Return the members as the answering node sees them."""
        return self._await(self._client.members(timeout_s=timeout_s))

    def map(self, *, timeout_s: float | None = None) -> ShardMap:
        """Return the shard map that the answering node holds."""
        return self._await(self._client.map(timeout_s=timeout_s))

    def leader(self, *, timeout_s: float | None = None) -> Leader:
        """Return the Raft leader as the answering node knows it."""
        return self._await(self._client.leader(timeout_s=timeout_s))

    def summary(self, *, timeout_s: float | None = None) -> Summary:
        """Return what is wrong and what is being done about it, in words."""
        return self._await(self._client.summary(timeout_s=timeout_s))

    def plan(self, *, timeout_s: float | None = None) -> Plan:
        """Return what is left between the map and the wanted state."""
        return self._await(self._client.plan(timeout_s=timeout_s))

    def what_if(
        self,
        *,
        members: Iterable[str] | None = None,
        drain: Iterable[str] = (),
        weights: Mapping[str, float] | None = None,
        timeout_s: float | None = None,
    ) -> Plan:
        """Return the plan that a change would mean; see ``AsyncClient.what_if``."""
        return self._await(self._client.what_if(members=members, drain=drain, weights=weights, timeout_s=timeout_s))

    def set_wanted(self, wanted: Mapping[str, Any], *, timeout_s: float | None = None) -> dict[str, Any]:
        """Replace the wanted state; see ``AsyncClient.set_wanted``."""
        return self._await(self._client.set_wanted(wanted, timeout_s=timeout_s))

    def drain(self, name: str, *, timeout_s: float | None = None) -> dict[str, Any]:
        """Have a member give everything up; see ``AsyncClient.drain``."""
        return self._await(self._client.drain(name, timeout_s=timeout_s))

    def undrain(self, name: str, *, timeout_s: float | None = None) -> dict[str, Any]:
        """Take a drain back."""
        return self._await(self._client.undrain(name, timeout_s=timeout_s))

    def leave(self, name: str, *, timeout_s: float | None = None) -> dict[str, Any]:
        """Let a drained member go for good; see ``AsyncClient.leave``."""
        return self._await(self._client.leave(name, timeout_s=timeout_s))

    def transfer_leader(self, to: str = "", *, timeout_s: float | None = None) -> Leader:
        """Have the leader hand leadership over; see ``AsyncClient.transfer_leader``."""
        return self._await(self._client.transfer_leader(to, timeout_s=timeout_s))

    def events(self, *, after: int = 0, timeout_s: float | None = None) -> tuple[Event, ...]:
        """Return what the answering node remembers, oldest first."""
        return self._await(self._client.events(after=after, timeout_s=timeout_s))

    def wanted(self, *, timeout_s: float | None = None) -> dict[str, Any]:
        """Return the wanted state."""
        return self._await(self._client.wanted(timeout_s=timeout_s))

    def services(self, *, timeout_s: float | None = None) -> Rows:
        """Return all services; see ``AsyncClient.services``."""
        return self._await(self._client.services(timeout_s=timeout_s))

    def instances(
        self, service: str, *, tags: Iterable[str] = (), passing: bool = False, timeout_s: float | None = None
    ) -> Rows:
        """Return the instances of a service; see ``AsyncClient.instances``."""
        return self._await(self._client.instances(service, tags=tags, passing=passing, timeout_s=timeout_s))

    def register(self, service: str, instance_id: str, **wish: Any) -> dict[str, Any]:
        """Register an instance, or show that it lives; the arguments are those of ``AsyncClient.register``."""
        return self._await(self._client.register(service, instance_id, **wish))

    def renew(self, service: str, instance_id: str, **told: Any) -> dict[str, Any]:
        """Show that an instance lives; the arguments are those of ``AsyncClient.renew``."""
        return self._await(self._client.renew(service, instance_id, **told))

    def deregister(self, service: str, instance_id: str, *, timeout_s: float | None = None) -> None:
        """Remove an instance; see ``AsyncClient.deregister``."""
        self._await(self._client.deregister(service, instance_id, timeout_s=timeout_s))

    def _await(self, call: Coroutine[Any, Any, T]) -> T:
        if self._loop.is_closed():
            call.close()
            raise RuntimeError("this client is closed")
        running: Future[T] = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return running.result()
        except KeyboardInterrupt:
            running.cancel()
            raise
