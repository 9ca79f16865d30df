"""A cluster in one process for tests of clients: several HTTP servers that share one dictionary, and faults on demand.

It keeps the outside of the REST contract (paths, statuses, headers, problem documents, idempotency keys, forwarding)
and nothing of the inside. A fault is taken by the next document or import request that reaches the node it was given
to; reads of the cluster (map, members) never meet one.
"""

from __future__ import annotations

import asyncio
import base64
import socket
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

import msgspec
from aiohttp import web

from ringkeep_core.hashing import shard_of
from ringkeep_core.summary import Summary


class Fault(Enum):
    """What a node does to one request."""

    REFUSE = "503 no_primary, not applied"
    OVERLOADED = "503 overloaded with Retry-After, not applied"
    UNKNOWN_APPLIED = "504 after applying"
    UNKNOWN_NOT_APPLIED = "504 without applying"
    DROP_BEFORE = "connection dropped before applying"
    DROP_AFTER = "connection dropped after applying"
    HANG = "never answers, not applied"
    PROXY = "502 from something that is not a node"


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it arrived at a node."""

    node: str
    method: str
    path: str
    idempotency_key: str | None
    timeout_s: float
    cluster: str | None = None
    """The cluster that the request is meant for, if it says so."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A document of the fake."""

    version: int
    value: bytes
    content_type: str


class Problem(Exception):
    """An answer that is a problem document."""

    def __init__(self, status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.headers = status, code, detail, headers or {}


@dataclass(slots=True)
class FakeNode:
    """One server of the fake cluster."""

    name: str
    port: int = 0
    faults: deque[Fault] = field(default_factory=deque)
    reserved: socket.socket = field(default_factory=lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        """Where the node answers; the port stays the same over a restart."""
        return f"http://127.0.0.1:{self.port}"


class FakeCluster:
    """Use as ``async with FakeCluster() as cluster``; ``cluster.urls`` are the addresses."""

    def __init__(
        self, *, nodes: int = 3, shards: int = 16, cluster_id: str = "c0ffee0000000001", looks_at_cluster: bool = True
    ) -> None:
        self.cluster_id = cluster_id
        self.looks_at_cluster = looks_at_cluster
        """Whether requests for another cluster are refused."""
        self.nodes = {f"n{i}": FakeNode(f"n{i}") for i in range(1, nodes + 1)}
        names = list(self.nodes)
        self.shards = shards
        self.version = 10
        self.primaries = [names[shard % len(names)] for shard in range(shards)]
        self.epochs = [1] * shards
        self.documents: dict[tuple[str, str], Stored] = {}
        self.remembered: dict[tuple[str, str], tuple[bytes, int, int]] = {}
        self.seen: list[Seen] = []
        self.applied = 0
        self.bad_import_lines: dict[bytes, tuple[str, int]] = {}
        """Part of an import line -> (code, how many times it fails)."""
        self.plan: dict[str, Any] = {}
        """What is answered to whoever asks for a plan, also for one that is only thought of."""
        self.orders: list[tuple[str, str, Any]] = []
        """Method, path and decoded body of every order to the cluster that was not only a question."""
        self.refusals: deque[Problem] = deque()
        """What the next orders are answered with instead of being carried out."""
        self.wanted: dict[str, Any] = {
            "revision": 1,
            "members": {name: {"weight": 1.0, "zone": "", "draining": False} for name in self.nodes},
            "settings": {"replication_factor": nodes},
        }
        self.summary: Summary | None = None
        """What is said in words; None as at nodes of an older version, which cannot say it."""
        self.metrics: dict[str, str] = {}
        """What nodes answer to a scrape, by name."""
        self.left: list[str] = []
        """The storage ids that have left."""
        self.retry_after_s = 0
        """What answers to faults ask for. More than the deadline of a call makes such an answer the call's last."""
        self._sn = 0
        self._released = asyncio.Event()

    async def __aenter__(self) -> Self:
        for name in self.nodes:
            await self._begin(name)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        for name, node in self.nodes.items():
            await self.stop(name)
            node.reserved.close()

    async def take_address(self, name: str, of: FakeNode) -> None:
        """Let a node answer where a stopped node of another cluster did."""
        await self.stop(name)
        self.nodes[name].port = of.port
        await self.start(name)

    @property
    def urls(self) -> list[str]:
        """The addresses of all nodes, also of stopped ones."""
        return [node.url for node in self.nodes.values()]

    async def resize(self, nodes: int) -> None:
        """Have so many nodes, each with every copy; the primaries are dealt out anew."""
        for number in range(len(self.nodes) + 1, nodes + 1):
            self.nodes[f"n{number}"] = FakeNode(f"n{number}")
            await self._begin(f"n{number}")
        names = list(self.nodes)
        self.primaries = [names[shard % nodes] for shard in range(self.shards)]
        self.epochs = [epoch + 1 for epoch in self.epochs]
        self.version += 1
        for name in names[nodes:]:
            await self.stop(name)
            self.nodes.pop(name).reserved.close()

    async def _begin(self, name: str) -> None:
        node = self.nodes[name]
        # Bound and never listening: while the node is stopped, nobody else gets its port.
        node.reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        node.reserved.bind(("127.0.0.1", 0))
        node.port = node.reserved.getsockname()[1]
        await self.start(name)

    async def start(self, name: str) -> None:
        """Start a node, at the port that is its own as long as the cluster lives."""
        node = self.nodes[name]

        async def handle(request: web.Request) -> web.StreamResponse:
            return await self._handle(node, request)

        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", handle)
        node.runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
        await node.runner.setup()
        site = web.TCPSite(node.runner, "127.0.0.1", node.port, reuse_address=True)
        await site.start()

    async def stop(self, name: str) -> None:
        """Stop a node: its connections break and new ones are refused."""
        node = self.nodes[name]
        if node.runner is not None:
            await node.runner.cleanup()
            node.runner = None

    def inject(self, name: str, *faults: Fault) -> None:
        """Let the next requests that reach this node meet these faults, one each."""
        self.nodes[name].faults.extend(faults)

    def move_primary(self, user: str, name: str) -> None:
        """Give the user's shard to another node in a new epoch."""
        shard = shard_of(user, self.shards)
        self.primaries[shard] = name
        self.epochs[shard] += 1
        self.version += 1

    def primary_of(self, user: str) -> str:
        """Return the name of the user's primary."""
        return self.primaries[shard_of(user, self.shards)]

    def user_of(self, name: str, *, skip: int = 0) -> str:
        """Return a user whose primary is this node; ``skip`` gives others."""
        found = (user for user in (f"user-{i}" for i in range(10_000)) if self.primary_of(user) == name)
        for _ in range(skip):
            next(found)
        return next(found)

    def seen_by(self, name: str, method: str) -> list[Seen]:
        """Return the requests with this method that arrived at a node."""
        return [seen for seen in self.seen if seen.node == name and seen.method == method]

    # -- requests ----------------------------------------------------------------------------------------------

    async def _handle(self, node: FakeNode, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        path = request.rel_url.raw_path
        timeout_s = float(request.headers.get("Ringkeep-Timeout", "0"))
        meant = request.headers.get("Ringkeep-Cluster")
        key = request.headers.get("Idempotency-Key")
        self.seen.append(Seen(node.name, request.method, path, key, timeout_s, meant))
        fault = node.faults.popleft() if node.faults and not path.startswith("/v1/cluster") else None
        try:
            if self.looks_at_cluster and meant not in (None, self.cluster_id):
                raise Problem(421, "wrong_cluster", f"this node belongs to cluster {self.cluster_id}")
            response = await self._with_fault(fault, request, lambda: self._route(node, request, path, body))
        except Problem as problem:
            response = web.json_response(
                {
                    "type": "about:blank",
                    "title": problem.code,
                    "status": problem.status,
                    "detail": problem.detail,
                    "code": problem.code,
                    "retryable": problem.status in (421, 503, 504, 429, 507),
                },
                status=problem.status,
                headers=problem.headers,
                content_type="application/problem+json",
            )
        if fault is not None and self.retry_after_s:
            response.headers["Retry-After"] = str(self.retry_after_s)
        if fault is not Fault.PROXY:
            response.headers["Ringkeep-Node"] = node.name
            response.headers["Ringkeep-Cluster"] = self.cluster_id
            response.headers["Ringkeep-Request-Id"] = f"request-{len(self.seen)}"
        return response

    async def _with_fault(
        self, fault: Fault | None, request: web.Request, answer: Callable[[], Awaitable[web.Response]]
    ) -> web.Response:
        if fault is Fault.REFUSE:
            raise Problem(503, "no_primary", "no primary was found in time")
        if fault is Fault.OVERLOADED:
            raise Problem(503, "overloaded", "too much work", {"Retry-After": "0"})
        if fault is Fault.UNKNOWN_NOT_APPLIED:
            raise Problem(504, "outcome_unknown", "the deadline passed")
        if fault is Fault.PROXY:
            return web.Response(status=502, text="<h1>Bad gateway</h1>", content_type="text/html")
        if fault is Fault.HANG:
            await self._released.wait()
        if fault is Fault.DROP_BEFORE:
            return _dropped(request)
        response = await answer()
        if fault is Fault.UNKNOWN_APPLIED:
            raise Problem(504, "outcome_unknown", "the deadline passed")
        if fault is Fault.DROP_AFTER:
            return _dropped(request)
        return response

    async def _route(self, node: FakeNode, request: web.Request, path: str, body: bytes) -> web.Response:
        segments = path.split("/")
        if path == "/v1/import":
            return self._import(body)
        if path.startswith("/v1/cluster"):
            return self._cluster(request.method, path, body)
        if len(segments) >= 5 and segments[1:3] == ["v1", "users"]:
            return self._user(request, unquote(segments[3]), segments[4], "/".join(segments[5:]), body)
        if path == "/metrics":
            return web.Response(text=self.metrics.get(node.name, ""))
        if path == "/readyz":
            return web.json_response({"ready": True})
        raise Problem(404, "not_found", f"there is nothing at {path}")

    def _user(self, request: web.Request, user: str, what: str, key: str, body: bytes) -> web.Response:
        shard = shard_of(user, self.shards)
        if what == "route":
            response = web.json_response(self._route_of(user, shard))
        elif what == "docs" and not key:
            response = self._list(user, request)
        else:
            response = self._document(request, user, unquote(key), body)
        response.headers["Ringkeep-Shard"] = str(shard)
        response.headers["Ringkeep-Epoch"] = str(self.epochs[shard])
        return response

    def _document(self, request: web.Request, user: str, key: str, body: bytes) -> web.Response:
        if request.method in ("GET", "HEAD"):
            stored = self._stored(user, key)
            headers = {"ETag": f'"{stored.version}"', "Content-Type": stored.content_type}
            if request.query.get("consistency") == "local":
                headers["Ringkeep-Lag"] = "3"
            return web.Response(body=stored.value, headers=headers)
        idempotency_key = request.headers.get("Idempotency-Key")
        told = b"\n".join([request.method.encode(), key.encode(), request.headers.get("If-Match", "").encode(), body])
        if idempotency_key is not None and (user, idempotency_key) in self.remembered:
            before, status, version = self.remembered[user, idempotency_key]
            if before != told:
                raise Problem(422, "key_reused", "another request used this key")
            return web.Response(status=status, headers={"ETag": f'"{version}"'})
        self._check(request, self.documents.get((user, key)))
        if request.method == "PUT":
            content_type = request.headers.get("Content-Type", "application/octet-stream")
            status, version = self._put(user, key, body, content_type)
        else:
            self._stored(user, key)
            del self.documents[user, key]
            self._sn += 1
            self.applied += 1
            status, version = 204, self._sn
        if idempotency_key is not None:
            self.remembered[user, idempotency_key] = (told, status, version)
        return web.Response(status=status, headers={"ETag": f'"{version}"'})

    def _check(self, request: web.Request, stored: Stored | None) -> None:
        wanted = request.headers.get("If-Match")
        if wanted is not None and (stored is None or wanted != f'"{stored.version}"'):
            raise Problem(412, "version_mismatch", f"the document does not have version {wanted}")
        if request.headers.get("If-None-Match") == "*" and stored is not None:
            raise Problem(412, "version_mismatch", "the document exists")

    def _put(self, user: str, key: str, value: bytes, content_type: str) -> tuple[int, int]:
        self._sn += 1
        self.applied += 1
        created = (user, key) not in self.documents
        self.documents[user, key] = Stored(self._sn, value, content_type)
        return (201 if created else 200), self._sn

    def _stored(self, user: str, key: str) -> Stored:
        stored = self.documents.get((user, key))
        if stored is None:
            raise Problem(404, "not_found", f"user {user!r} has no document {key!r}")
        return stored

    def _list(self, user: str, request: web.Request) -> web.Response:
        query = request.query
        limit = int(query.get("limit", "100"))
        if not 1 <= limit <= 1000:
            raise Problem(400, "bad_request", "limit is 1..1000")
        keys = sorted(key for owner, key in self.documents if owner == user)
        keys = [key for key in keys if key.startswith(query.get("prefix", "")) and key > query.get("after", "")]
        rows = [self._row(user, key, query.get("values") == "true") for key in keys[:limit]]
        return web.json_response({"docs": rows, "next": keys[limit - 1] if len(keys) > limit else None})

    def _row(self, user: str, key: str, values: bool) -> dict[str, Any]:
        stored = self.documents[user, key]
        row: dict[str, Any] = {
            "key": key,
            "version": stored.version,
            "content_type": stored.content_type,
            "bytes": len(stored.value),
            "modified": "2026-01-01T00:00:00Z",
        }
        if values and stored.content_type == "application/json":
            row["value"] = msgspec.json.decode(stored.value)
        elif values:
            row["value_b64"] = base64.b64encode(stored.value).decode()
        return row

    def _import(self, body: bytes) -> web.Response:
        lines = body.splitlines()
        errors: list[dict[str, Any]] = []
        for number, line in enumerate(lines, start=1):
            code = self._import_line(line)
            if code is not None:
                errors.append({"line": number, "code": code, "detail": f"line {number}: {code}"})
        counts = {"lines": len(lines), "stored": len(lines) - len(errors), "failed": len(errors)}
        return web.json_response({**counts, "errors": errors[:100]})

    def _import_line(self, line: bytes) -> str | None:
        for part, (code, times) in self.bad_import_lines.items():
            if part in line and times > 0:
                self.bad_import_lines[part] = (code, times - 1)
                return code
        try:
            row = msgspec.json.decode(line)
            value = base64.b64decode(row["value_b64"]) if "value_b64" in row else msgspec.json.encode(row["value"])
            self._put(row["user"], row["key"], value, row.get("content_type", "application/json"))
        except (msgspec.DecodeError, KeyError, TypeError):
            return "bad_request"
        return None

    # -- the cluster -------------------------------------------------------------------------------------------

    def _cluster(self, method: str, path: str, body: bytes) -> web.Response:
        what = path.removeprefix("/v1/cluster").strip("/")
        if method != "GET":
            return web.json_response(self._order(method, what, msgspec.json.decode(body) if body else None))
        answers: dict[str, Callable[[], dict[str, Any]]] = {
            "": lambda: {"cluster_id": self.cluster_id, "version": self.version},
            "map": self.map,
            "members": self._members,
            "leader": lambda: {"name": "n1", "url": self.nodes["n1"].url, "term": 3},
            "wanted": lambda: self.wanted,
            "plan": lambda: {"wanted_revision": self.wanted["revision"], "version": self.version} | self.plan,
            "events": lambda: {"events": [{"number": 1, "at": 12.5, "kind": "boot", "text": "n1 started"}]},
        }
        if self.summary is not None:
            answers["summary"] = lambda: msgspec.to_builtins(self.summary)
        if what not in answers:
            raise Problem(404, "not_found", f"there is nothing at {path}")
        return web.json_response(answers[what]())

    def _order(self, method: str, what: str, body: Any) -> dict[str, Any]:
        if what == "bootstrap":
            raise Problem(409, "conflict", "this node already belongs to a cluster")
        self.orders.append((method, what, body))
        if self.refusals:
            raise self.refusals.popleft()
        members = self.wanted["members"]
        if what == "plan":
            return {"wanted_revision": self.wanted["revision"] + 1, "version": self.version} | self.plan
        if what == "transfer-leader":
            return {"name": body["to"] or "n2", "url": self.nodes[body["to"] or "n2"].url, "term": 4}
        if what == "wanted":
            if body["revision"] != self.wanted["revision"]:
                raise Problem(409, "conflict", f"the wanted state is at revision {self.wanted['revision']}")
            return self._want(body["members"])
        _, name, order = what.split("/")
        if name not in members:
            raise Problem(404, "not_found", f"there is no member {name!r}; the members are {', '.join(members)}")
        if order == "leave":
            self._want({other: one for other, one in members.items() if other != name})
            self.left.append(f"storage-{name}")
            return {"left": name, "storage_id": f"storage-{name}"}
        return self._want({**members, name: {**members[name], "draining": method == "POST"}})

    def _want(self, members: dict[str, Any]) -> dict[str, Any]:
        self.wanted = {**self.wanted, "revision": self.wanted["revision"] + 1, "members": members}
        return self.wanted

    def map(self) -> dict[str, Any]:
        """Return the shard map as the REST interface shows it."""
        there = [node for node in self.nodes.values() if f"storage-{node.name}" not in self.left]
        members = [self._identity(node) | {"url": node.url} for node in there]
        copies = [{"name": name, "storage_id": f"storage-{name}", "added": 1} for name in self.nodes]
        shards = [
            {
                "shard": shard,
                "epoch": self.epochs[shard],
                "revision": self.epochs[shard],
                "primary": self._identity(self.nodes[self.primaries[shard]]),
                "in_sync": copies,
                "eligible": [],
                "learners": [],
                "need": min(2, len(copies)),
            }
            for shard in range(self.shards)
        ]
        return {
            "cluster_id": self.cluster_id,
            "version": self.version,
            "wanted": {"revision": 1},
            "members": members,
            "left": self.left,
            "shards": shards,
        }

    def _members(self) -> dict[str, Any]:
        rows = [
            self._identity(node)
            | {
                "state": "alive" if node.runner is not None else "dead",
                "draining": False,
                "url": node.url,
                "zone": "",
                "weight": 1,
                "copies": self.shards,
                "primaries": self.primaries.count(node.name),
                "since": 12.5,
                "evidence": None,
            }
            for node in self.nodes.values()
        ]
        return {"members": rows}

    def _identity(self, node: FakeNode) -> dict[str, Any]:
        return {"name": node.name, "storage_id": f"storage-{node.name}", "boot_id": f"boot-{node.name}"}

    def _route_of(self, user: str, shard: int) -> dict[str, Any]:
        primary = self.nodes[self.primaries[shard]]
        return {
            "user": user,
            "shard": shard,
            "epoch": self.epochs[shard],
            "version": self.version,
            "primary": {"name": primary.name, "url": primary.url},
            "in_sync": [{"name": node.name, "url": node.url} for node in self.nodes.values()],
        }


@contextmanager
def served(cluster: FakeCluster) -> Iterator[FakeCluster]:
    """Serve a fake cluster from a thread of its own, for tests that block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="fake-cluster")
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(cluster.__aenter__(), loop).result()
        yield cluster
    finally:
        asyncio.run_coroutine_threadsafe(cluster.__aexit__(None, None, None), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _dropped(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)
