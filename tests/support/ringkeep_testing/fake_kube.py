"""An API server for tests of the operator, over real HTTP: objects, server-side apply, watches, preconditions, and faults.

    client --HTTP--> store --every change--> open watches, and ``settled`` (a fake StatefulSet controller)

It keeps what an operator relies on: one growing resourceVersion, a generation that grows with the spec, no change and no
event for an apply that changes nothing, fields removed that the same manager no longer applies, 409 for a precondition that
fails, 410 for a version that is too old, bookmarks, /status apart. It has no admission, no CEL, no garbage collector and no
defaults: never claim anything about those from a test with it.
"""

from __future__ import annotations

import asyncio
import copy
import json
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from aiohttp import web

Json = dict[str, Any]
Where = tuple[str, str, str]
"""plural, namespace, name"""

PLURALS = {
    "clusters": ("ringkeep.dev/v1alpha1", "Cluster"),
    "statefulsets": ("apps/v1", "StatefulSet"),
    "pods": ("v1", "Pod"),
    "persistentvolumeclaims": ("v1", "PersistentVolumeClaim"),
    "persistentvolumes": ("v1", "PersistentVolume"),
    "services": ("v1", "Service"),
    "serviceaccounts": ("v1", "ServiceAccount"),
    "configmaps": ("v1", "ConfigMap"),
    "secrets": ("v1", "Secret"),
    "events": ("v1", "Event"),
    "nodes": ("v1", "Node"),
    "namespaces": ("v1", "Namespace"),
    "customresourcedefinitions": ("apiextensions.k8s.io/v1", "CustomResourceDefinition"),
    "poddisruptionbudgets": ("policy/v1", "PodDisruptionBudget"),
    "networkpolicies": ("networking.k8s.io/v1", "NetworkPolicy"),
    "leases": ("coordination.k8s.io/v1", "Lease"),
    "storageclasses": ("storage.k8s.io/v1", "StorageClass"),
    "servicemonitors": ("monitoring.coreos.com/v1", "ServiceMonitor"),
}
CLUSTER_WIDE = frozenset({"nodes", "namespaces", "customresourcedefinitions", "persistentvolumes", "storageclasses"})
KEPT_EVENTS = 2_000


class FakeKube:
    """Use as ``async with FakeKube() as kube``; ``url`` is where it listens."""

    def __init__(self) -> None:
        self.objects: dict[Where, Json] = {}
        self.applied: dict[tuple[Where, str], Json] = {}
        self.version = 100
        self.history: list[tuple[int, str, Where, Json]] = []
        self.oldest = 100
        """Versions before this are forgotten: a watch from there gets 410."""
        self.writes: list[tuple[str, str, str]] = []
        """(verb, plural, name) of every write that changed something; applies that changed nothing are not there."""
        self.requests: Counter[tuple[str, str]] = Counter()
        self.not_installed = {"servicemonitors"}
        """Plurals of kinds that this server does not know."""
        self.is_down = False
        """While true every connection is cut without an answer."""
        self.is_frozen = False
        """While true watches are silent, and keep silent about what they missed until they are begun anew."""
        self.refusals: Callable[[str, str], int] = lambda _verb, _plural: 0
        """Asked for the status with which a request is refused, 0 to carry it out."""
        self.rewrites: Callable[[str, Json], Json] = lambda _plural, manifest: manifest
        """What an admission rule makes of an applied object of a kind."""
        self.watch_refusals: dict[str, int] = {}
        """The status with which watches of a kind are refused, by plural."""
        self.deleting: Callable[[Where], None] = lambda _where: None
        """Told of each object that a client deletes, before it goes."""
        self.settled: Callable[[], None] = lambda: None
        self.bookmark_s = 0.2
        self._watches: set[asyncio.Queue[tuple[str, Where, Json] | None]] = set()
        self._runner: web.AppRunner | None = None
        self._settling = False
        self.url = ""

    async def __aenter__(self) -> Self:
        """Listen on a free port of loopback."""
        app = web.Application(client_max_size=8 << 20)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End every watch and stop listening."""
        self.cut_watches()
        assert self._runner is not None
        await self._runner.cleanup()

    # --- for tests and controllers

    def get(self, plural: str, name: str, namespace: str = "default") -> Json:
        """Return an object; a KeyError if there is none."""
        return self.objects[plural, namespace, name]

    def names(self, plural: str) -> list[str]:
        """Return the names of a kind's objects."""
        return sorted(name for kind, _, name in self.objects if kind == plural)

    def put(self, plural: str, manifest: Json, namespace: str = "default") -> Json:
        """Create or replace an object as somebody else would."""
        metadata = manifest.setdefault("metadata", {})
        where = (plural, namespace, metadata["name"])
        self._store(where, manifest)
        return self.objects[where]

    def change(self, plural: str, name: str, part: Json, namespace: str = "default") -> None:
        """Merge a part into an object as somebody else would (``kubectl patch``)."""
        where = (plural, namespace, name)
        self._store(where, merged(self.objects[where], part))

    def remove(self, plural: str, name: str, namespace: str = "default") -> None:
        """Delete an object as somebody else would; nothing happens if there is none."""
        where = (plural, namespace, name)
        gone = self.objects.pop(where, None)
        if gone is None:
            return
        for key in [key for key in self.applied if key[0] == where]:
            del self.applied[key]
        self.version += 1
        gone = merged(gone, {"metadata": {"resourceVersion": str(self.version)}})
        self._tell("DELETED", where, gone)

    def forget_history(self) -> None:
        """Let every version before now be too old to watch from."""
        self.oldest = self.version
        self.history.clear()

    def cut_watches(self) -> None:
        """End every open watch."""
        for queue in self._watches:
            queue.put_nowait(None)

    @property
    def watches(self) -> int:
        """How many watches are open."""
        return len(self._watches)

    # --- the store

    def _store(self, where: Where, manifest: Json, *, status: bool = False) -> bool:
        """Keep an object if it differs from the one there is; return whether it did."""
        plural, namespace, name = where
        before = self.objects.get(where)
        api, kind = PLURALS[plural]
        stored = copy.deepcopy(manifest)
        stored["apiVersion"], stored["kind"] = api, kind
        metadata = stored.setdefault("metadata", {})
        metadata["name"] = name
        if namespace:
            metadata["namespace"] = namespace
        old = (before or {}).get("metadata") or {}
        metadata["uid"] = old.get("uid") or str(uuid.uuid4())
        metadata["creationTimestamp"] = old.get("creationTimestamp") or metadata.get(
            "creationTimestamp", "2026-01-01T00:00:00Z"
        )
        metadata["generation"] = old.get("generation", 1)
        metadata["resourceVersion"] = old.get("resourceVersion", "")
        if before is not None and before == stored:
            return False
        if before is not None and not status and before.get("spec") != stored.get("spec"):
            metadata["generation"] += 1
        self.version += 1
        metadata["resourceVersion"] = str(self.version)
        self.objects[where] = stored
        self._tell("MODIFIED" if before is not None else "ADDED", where, stored)
        return True

    def _tell(self, kind: str, where: Where, manifest: Json) -> None:
        self.history.append((self.version, kind, where, manifest))
        if len(self.history) > KEPT_EVENTS:
            self.oldest = self.history[KEPT_EVENTS // 2][0]
            del self.history[: KEPT_EVENTS // 2]
        if not self.is_frozen:
            for queue in self._watches:
                queue.put_nowait((kind, where, manifest))
        if not self._settling:
            # One controller at a time, and never inside of its own writes.
            self._settling = True
            try:
                self.settled()
            finally:
                self._settling = False

    # --- requests

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if self.is_down:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        parts = [part for part in request.path.split("/") if part]
        found = discovery(request.path)
        if found is not None:
            return web.json_response(found)
        where, subresource = place_of(parts)
        if where is None or where[0] in self.not_installed:
            return status_answer(404, "NotFound", f"no such path: {request.path}")
        self.requests[request.method, where[0]] += 1
        refused = self.refusals(request.method, where[0])
        if refused:
            return status_answer(refused, "Refused", "the fake refuses")
        if request.method == "GET" and not where[2]:
            return await (self._watch(request, where) if "watch" in request.query else self._list(request, where))
        return await self._one(request, where, subresource)

    async def _list(self, request: web.Request, where: Where) -> web.Response:
        wants_metadata = "as=PartialObjectMetadata" in request.headers.get("Accept", "")
        if wants_metadata and "as=PartialObjectMetadataList" not in request.headers["Accept"]:
            return status_answer(406, "NotAcceptable", "you requested PartialObjectMetadata, but this is a list")
        found = [one for key, one in sorted(self.objects.items()) if selects(request, where, key, one)]
        items = [{name: part for name, part in one.items() if name not in ("apiVersion", "kind")} for one in found]
        return web.json_response({"kind": "List", "metadata": {"resourceVersion": str(self.version)}, "items": items})

    async def _watch(self, request: web.Request, where: Where) -> web.StreamResponse:
        if where[0] in self.watch_refusals:
            return status_answer(self.watch_refusals[where[0]], "Refused", "the fake refuses")
        if not request.query.get("timeoutSeconds", "0").isdigit():
            return status_answer(400, "BadRequest", "timeoutSeconds is no whole number")
        since = int(request.query.get("resourceVersion") or self.version)
        if since < self.oldest:
            return status_answer(410, "Expired", "too old resource version")
        response = web.StreamResponse()
        await response.prepare(request)
        queue: asyncio.Queue[tuple[str, Where, Json] | None] = asyncio.Queue()
        for version, kind, key, manifest in self.history:
            if version > since:
                queue.put_nowait((kind, key, manifest))
        self._watches.add(queue)
        try:
            while True:
                try:
                    change = await asyncio.wait_for(queue.get(), self.bookmark_s)
                except TimeoutError:
                    if not self.is_frozen:
                        mark = {"kind": "Bookmark", "metadata": {"resourceVersion": str(self.version)}}
                        await response.write(line("BOOKMARK", mark))
                    continue
                if change is None:
                    return response
                kind, key, manifest = change
                if selects(request, where, key, manifest):
                    await response.write(line(kind, manifest))
        except ConnectionError:
            return response
        finally:
            self._watches.discard(queue)

    async def _one(self, request: web.Request, where: Where, subresource: str) -> web.Response:
        body = await request.json() if request.can_read_body else {}
        match request.method:
            case "GET":
                return web.json_response(self.objects[where]) if where in self.objects else missing(where)
            case "PATCH":
                return self._apply(where, subresource, body, request.query.get("fieldManager", ""))
            case "POST":
                return self._create((*where[:2], body["metadata"]["name"]), body)
            case "PUT":
                return self._replace(where, body)
            case "DELETE":
                return self._delete(where, body)
        return status_answer(405, "MethodNotAllowed", request.method)

    def _apply(self, where: Where, subresource: str, body: Json, manager: str) -> web.Response:
        before = self.objects.get(where)
        if before is None and subresource:
            return missing(where)
        wanted_uid = body.get("metadata", {}).get("uid")
        if before is not None and wanted_uid and wanted_uid != before["metadata"]["uid"]:
            return status_answer(409, "Conflict", "the uid is another one")
        key = (where, manager + subresource)
        base = without(before or {}, self.applied.get(key, {}), body)
        part = {"status": body.get("status", {})} if subresource else {k: v for k, v in body.items() if k != "status"}
        self.applied[key] = part
        if self._store(
            where, self.rewrites(where[0], without_empty_values(merged(base, part))), status=bool(subresource)
        ):
            self.writes.append(("status" if subresource else "apply", where[0], where[2]))
        return web.json_response(self.objects[where])

    def _create(self, where: Where, body: Json) -> web.Response:
        if where in self.objects:
            return status_answer(409, "AlreadyExists", f"{where[2]} already exists")
        self.writes.append(("create", where[0], where[2]))
        if "stringData" in body:
            import base64

            text = body.pop("stringData")
            body["data"] = {name: base64.b64encode(value.encode()).decode() for name, value in text.items()}
        self._store(where, body)
        return web.json_response(self.objects.get(where, body), status=201)

    def _replace(self, where: Where, body: Json) -> web.Response:
        before = self.objects.get(where)
        if before is None:
            return missing(where)
        if body["metadata"].get("resourceVersion") not in (None, before["metadata"]["resourceVersion"]):
            return status_answer(409, "Conflict", "the object has been modified")
        self.writes.append(("replace", where[0], where[2]))
        self._store(where, body)
        return web.json_response(self.objects[where])

    def _delete(self, where: Where, options: Json) -> web.Response:
        before = self.objects.get(where)
        if before is None:
            return missing(where)
        for field, wanted in (options.get("preconditions") or {}).items():
            if before["metadata"][field] != wanted:
                return status_answer(409, "Conflict", f"the {field} is another one")
        self.writes.append(("delete", where[0], where[2]))
        self.deleting(where)
        self.remove(where[0], where[2], where[1])
        return web.json_response({"kind": "Status", "status": "Success"})


# --- shapes ------------------------------------------------------------------------------------------------------


def place_of(parts: list[str]) -> tuple[Where | None, str]:
    """Return which object or collection a path means, and its subresource."""
    rest = parts[2:] if parts[:1] == ["api"] else parts[3:] if parts[:1] == ["apis"] else []
    namespace = ""
    if len(rest) > 2 and rest[0] == "namespaces":
        namespace, rest = rest[1], rest[2:]
    if not rest or rest[0] not in PLURALS:
        return None, ""
    return (rest[0], namespace, rest[1] if len(rest) > 1 else ""), rest[2] if len(rest) > 2 else ""


def selects(request: web.Request, where: Where, key: Where, manifest: Json) -> bool:
    """Return whether an object belongs into the answer to a list or watch."""
    if key[0] != where[0] or where[1] not in ("", key[1]):
        return False
    labels = manifest.get("metadata", {}).get("labels") or {}
    for term in filter(None, request.query.get("labelSelector", "").split(",")):
        name, equals, value = term.partition("=")
        if name not in labels or (equals and labels[name] != value):
            return False
    for term in filter(None, request.query.get("fieldSelector", "").split(",")):
        path, _, value = term.partition("=")
        found: Any = manifest
        for part in path.split("."):
            found = (found or {}).get(part)
        if found != value:
            return False
    return True


def merged(base: Mapping[str, Any], part: Mapping[str, Any]) -> Json:
    """Return ``base`` with ``part`` in it: objects are merged, everything else is replaced."""
    result = dict(base)
    for key, value in part.items():
        old = result.get(key)
        result[key] = (
            merged(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else copy.deepcopy(value)
        )
    return result


def without(base: Mapping[str, Any], owned: Mapping[str, Any], wanted: Mapping[str, Any]) -> Json:
    """Return ``base`` without the fields that a manager applied before and wants no more."""
    result = dict(base)
    for key, value in owned.items():
        if key not in wanted:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(result.get(key), Mapping) and isinstance(wanted[key], Mapping):
            result[key] = without(result[key], value, wanted[key])
    return result


def without_empty_values(manifest: Json) -> Json:
    """Return an object as it is kept: a variable whose value is empty has none."""
    for container in manifest.get("spec", {}).get("template", {}).get("spec", {}).get("containers", ()):
        for variable in container.get("env", ()):
            if variable.get("value") == "":
                del variable["value"]
    return manifest


def line(kind: str, manifest: Json) -> bytes:
    """Return one line of a watch."""
    return json.dumps({"type": kind, "object": manifest}).encode() + b"\n"


def status_answer(status: int, reason: str, message: str) -> web.Response:
    """Return a refusal as the API server writes it."""
    body = {"kind": "Status", "status": "Failure", "code": status, "reason": reason, "message": message}
    return web.json_response(body, status=status)


def missing(where: Where) -> web.Response:
    """Return the refusal for an object that is not there."""
    return status_answer(404, "NotFound", f"{where[0]} {where[2]} not found")


def discovery(path: str) -> Json | None:
    """Return what kopf asks for before it watches: which groups and kinds there are."""
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        groups = []
        for api in sorted({api for api, _ in PLURALS.values() if "/" in api}):
            name, _, number = api.partition("/")
            version = {"groupVersion": api, "version": number}
            groups.append({"name": name, "versions": [version], "preferredVersion": version})
        return {"kind": "APIGroupList", "groups": groups}
    api = path.removeprefix("/apis/").removeprefix("/api/")
    if api in {api for api, _ in PLURALS.values()}:
        kinds = [
            {
                "name": plural,
                "singularName": kind.lower(),
                "namespaced": plural not in CLUSTER_WIDE,
                "kind": kind,
                "verbs": ["get", "list", "watch", "create", "patch", "delete"],
            }
            for plural, (version, kind) in PLURALS.items()
            if version == api
        ]
        kinds += [{"name": "clusters/status", "namespaced": True, "kind": "Cluster", "verbs": ["patch"]}] * (
            api == "ringkeep.dev/v1alpha1"
        )
        return {"kind": "APIResourceList", "groupVersion": api, "resources": kinds}
    return None
