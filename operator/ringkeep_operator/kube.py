"""The API server: JSON in, JSON out. The only module that talks to it, beside kopf's own watch of the resources.

    get, list ---> objects as they are now        watch ---> changes since a list, with bookmarks
    apply, delete, post, status ---> one write each, between two failpoints, counted by kind

Writes are server-side applies under our own field manager, with force: what we own is repaired, what others own stays. A
deletion carries uid and resourceVersion as preconditions: an object that changed since it was seen is not deleted.
All calls have time-outs; 429, 5xx and lost connections are tried again a few times with jitter, then told as ``Unavailable``
for the next pass. The client's typed models are never used: they cost memory and time, and forget fields they do not know.

Source: Kubernetes API concepts ("Server-side apply", "Efficient detection of changes").
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import aiohttp
import msgspec
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException, load_kube_config
from kubernetes.aio.config.incluster_config import InClusterConfigLoader

from ringkeep_core.errors import RingkeepError
from ringkeep_operator.failpoints import Reached, around, never
from ringkeep_operator.state import ObjectId

__all__ = ["Configuration"]

Json: TypeAlias = dict[str, Any]
Query: TypeAlias = list[tuple[str, str]]

CONNECT_S = 5.0
REQUEST_S = 15.0
WATCH_S = 300
TRIES = 4
FIRST_WAIT_S = 0.2
WAIT_MAX_S = 2.0
APPLY_TYPE = "application/apply-patch+yaml"
# Whoever watches only wants to know that something changed: its spec, a Secret's or a ConfigMap's bytes stay away.
METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
TOKEN_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 - a path, no password
CA_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"


@dataclass(frozen=True, slots=True)
class Resource:
    """Where objects of a kind are found. ``api`` is group/version, only the version for the core group."""

    api: str
    plural: str
    namespaced: bool = True


RESOURCES: Mapping[str, Resource] = {
    "Cluster": Resource("ringkeep.dev/v1alpha1", "clusters"),
    "StatefulSet": Resource("apps/v1", "statefulsets"),
    "Pod": Resource("v1", "pods"),
    "PersistentVolumeClaim": Resource("v1", "persistentvolumeclaims"),
    "Service": Resource("v1", "services"),
    "ServiceAccount": Resource("v1", "serviceaccounts"),
    "ConfigMap": Resource("v1", "configmaps"),
    "Secret": Resource("v1", "secrets"),
    "Event": Resource("v1", "events"),
    "PodDisruptionBudget": Resource("policy/v1", "poddisruptionbudgets"),
    "NetworkPolicy": Resource("networking.k8s.io/v1", "networkpolicies"),
    "ServiceMonitor": Resource("monitoring.coreos.com/v1", "servicemonitors"),
    "Lease": Resource("coordination.k8s.io/v1", "leases"),
    "Node": Resource("v1", "nodes", namespaced=False),
    "PersistentVolume": Resource("v1", "persistentvolumes", namespaced=False),
    "StorageClass": Resource("storage.k8s.io/v1", "storageclasses", namespaced=False),
}


# --- errors ------------------------------------------------------------------------------------------------------


class ApiError(RingkeepError):
    """The API server refused a request; nothing was changed. ``status`` is its HTTP status, ``reason`` its own word."""

    code = "api_refused"

    def __init__(self, detail: str = "", *, status: int = 0, reason: str = "") -> None:
        super().__init__(detail)
        self.status, self.reason = status, reason


class Missing(ApiError):
    """There is no such object, or no such kind (404)."""

    code = "api_missing"


class Changed(ApiError):
    """The object is not the one that was seen (409): look again. Nothing was changed."""

    code = "api_changed"
    retryable = True


class Expired(ApiError):
    """The API server no longer knows this resourceVersion (410): list again."""

    code = "api_expired"
    retryable = True


class Denied(ApiError):
    """Our account may not do this (401, 403)."""

    code = "api_denied"


class Invalid(ApiError):
    """The object is not valid (400, 422), or an admission check refused it."""

    code = "api_invalid"


class Rewritten(ApiError):
    """The API server took an object and keeps something else than was applied. Trying again would not help."""

    code = "api_rewritten"


class Unavailable(ApiError):
    """The API server cannot be reached, or is overloaded. A write may or may not have been made: look again.

    ``wait_s`` is how long it asked us to wait.
    """

    code = "api_unavailable"
    retryable = True
    wait_s = 0.0


_ERRORS: Mapping[int, type[ApiError]] = {
    400: Invalid,
    401: Denied,
    403: Denied,
    404: Missing,
    409: Changed,
    410: Expired,
    422: Invalid,
}


def error_of(status: int, body: bytes, wait_s: float = 0.0) -> ApiError:
    """Return the error that an answer means."""
    try:
        said = msgspec.json.decode(body)
    except msgspec.DecodeError:
        said = None
    shape = said if isinstance(said, dict) else {}
    detail = str(shape.get("message") or body[:200].decode(errors="replace") or f"HTTP {status}")
    kind = Unavailable if status == 429 or status >= 500 else _ERRORS.get(status, ApiError)
    error = kind(detail, status=status, reason=str(shape.get("reason", "")))
    if isinstance(error, Unavailable) and wait_s:
        error.wait_s = wait_s
    return error


# --- the client --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Listing:
    """Objects of one kind, and the resourceVersion from which to watch on."""

    items: tuple[Json, ...]
    version: str


@dataclass(frozen=True, slots=True)
class Change:
    """One line of a watch. ``kind`` is ADDED, MODIFIED, DELETED or BOOKMARK."""

    kind: str
    object: Json

    @property
    def version(self) -> str:
        """The resourceVersion from which to watch on after this."""
        return str(self.object.get("metadata", {}).get("resourceVersion", ""))


def _uncounted(_: str, __: str) -> None:
    return None


class Api:
    """The API server, as our account sees it.

    ``reached`` is told every failpoint, ``count`` every write: its verb and kind.
    """

    def __init__(
        self,
        where: Configuration,
        *,
        field_manager: str,
        reached: Reached = never,
        count: Callable[[str, str], None] = _uncounted,
        request_s: float = REQUEST_S,
        first_wait_s: float = FIRST_WAIT_S,
    ) -> None:
        # A watch holds its connection for good: with the client's limit of 100 they would leave none for anything else.
        where.connection_pool_maxsize = 0
        self._client, self._manager, self.reached, self._count = ApiClient(where), field_manager, reached, count
        self._request_s, self._first_wait_s = request_s, first_wait_s
        self._random = random.Random()  # noqa: S311 - spreads retries, protects nothing

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()  # type: ignore[no-untyped-call]  # generated code

    # --- reading

    async def get(self, kind: str, namespace: str, name: str) -> Json | None:
        """Return an object, or None if there is none."""
        try:
            return await self._call("GET", _path(kind, namespace, name))
        except Missing:
            return None

    async def list(
        self, kind: str, namespace: str = "", selector: str = "", *, fields: str = "", metadata_only: bool = False
    ) -> Listing:
        """Return the objects of a kind with these labels and fields; of all namespaces if none is named."""
        chosen = {"labelSelector": selector, "fieldSelector": fields}
        query = [(name, value) for name, value in chosen.items() if value]
        accept = METADATA_LIST if metadata_only else ""
        said = await self._call("GET", _path(kind, namespace), query=query, accept=accept)
        # What stands in a list says neither its kind nor its version: the list says it once for all.
        named = {"apiVersion": RESOURCES[kind].api, "kind": kind}
        items = tuple({**item, **named} for item in said.get("items") or ())
        return Listing(items, str(said.get("metadata", {}).get("resourceVersion", "")))

    async def watch(
        self, kind: str, namespace: str, selector: str, version: str, *, silence_s: float
    ) -> AsyncIterator[Change]:
        """Yield what changes after ``version``, bookmarks too, until the server ends it.

        Raises ``Expired`` if the version is too old, ``Unavailable`` after ``silence_s`` without a line: a connection that
        died without a word looks like a quiet one, and the server sends a bookmark about once a minute.
        """
        query = [
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", str(WATCH_S)),
            ("resourceVersion", version),
        ]
        if selector:
            query.append(("labelSelector", selector))
        timeout = aiohttp.ClientTimeout(total=WATCH_S + 30, sock_connect=CONNECT_S, sock_read=silence_s)
        try:
            answer = await self._send("GET", _path(kind, namespace), query, None, "", METADATA_ONLY, timeout)
            async with answer:
                if answer.status != 200:
                    raise error_of(answer.status, await answer.read())
                async for line in answer.content:
                    if line.strip():
                        yield _change(line)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise Unavailable(f"the watch of {kind} ended: {_text(error)}") from error

    # --- writing

    async def apply(self, manifest: Mapping[str, Any], namespace: str, *, part: str = "") -> Json:
        """Create an object or repair ours in it; return it as it is now. ``part``: see ``state.Apply``."""
        kind, name = str(manifest["kind"]), str(manifest["metadata"]["name"])
        manager = f"{self._manager}-{part}" if part else self._manager
        query = [("fieldManager", manager), ("force", "true")]
        async with around(self.reached, f"apply:{kind}"):
            said = await self._call("PATCH", _path(kind, namespace, name), query=query, body=manifest, type_=APPLY_TYPE)
        self._count("apply", kind)
        return said

    async def apply_status(self, manifest: Mapping[str, Any], namespace: str) -> Json:
        """Apply the status of a resource: what else stands in it is not ours. Fails if the resource is gone."""
        kind, name = str(manifest["kind"]), str(manifest["metadata"]["name"])
        query = [("fieldManager", f"{self._manager}-status"), ("force", "true")]
        path = f"{_path(kind, namespace, name)}/status"
        async with around(self.reached, f"status:{kind}"):
            said = await self._call("PATCH", path, query=query, body=manifest, type_=APPLY_TYPE)
        self._count("status", kind)
        return said

    async def delete(self, target: ObjectId, namespace: str, grace_s: int | None = None) -> bool:
        """Delete the object that was seen; return whether there was one. Raises ``Changed`` if it is another now."""
        conditions = {"uid": target.uid, "resourceVersion": target.version}
        body: Json = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {name: value for name, value in conditions.items() if value},
            "propagationPolicy": "Background",
        }
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        async with around(self.reached, f"delete:{target.kind}"):
            try:
                await self._call("DELETE", _path(target.kind, namespace, target.name), body=body)
            except Missing:
                return False
        self._count("delete", target.kind)
        return True

    async def create(self, manifest: Mapping[str, Any], namespace: str) -> Json:
        """Create an object. Raises ``Changed`` if it exists already, also by an earlier try of this very call."""
        kind = str(manifest["kind"])
        query = [("fieldManager", self._manager)]
        async with around(self.reached, f"create:{kind}"):
            said = await self._call("POST", _path(kind, namespace), query=query, body=manifest)
        self._count("create", kind)
        return said

    async def replace(self, manifest: Mapping[str, Any], namespace: str) -> Json:
        """Replace an object whose resourceVersion is still the one in ``manifest``. Raises ``Changed`` otherwise."""
        kind, name = str(manifest["kind"]), str(manifest["metadata"]["name"])
        query = [("fieldManager", self._manager)]
        async with around(self.reached, f"replace:{kind}"):
            # Never tried again by itself: a Lease that was taken a while ago may belong to somebody else by now.
            said = await self._call("PUT", _path(kind, namespace, name), query=query, body=manifest, tries=1)
        self._count("replace", kind)
        return said

    # --- one request

    async def _call(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Mapping[str, Any] | None = None,
        type_: str = "application/json",
        accept: str = "",
        tries: int = TRIES,
    ) -> Json:
        wait_s = self._first_wait_s
        for left in range(tries - 1, -1, -1):
            try:
                return await self._call_once(method, path, query or [], body, type_, accept)
            except Unavailable as error:
                if not left:
                    raise
                await asyncio.sleep(max(error.wait_s, wait_s * (0.5 + self._random.random())))
                wait_s = min(wait_s * 2, WAIT_MAX_S)
        raise AssertionError("the last try returns or raises")

    async def _call_once(
        self,
        method: str,
        path: str,
        query: Query,
        body: Mapping[str, Any] | None,
        type_: str,
        accept: str,
    ) -> Json:
        timeout = aiohttp.ClientTimeout(total=self._request_s, sock_connect=CONNECT_S)
        try:
            answer = await self._send(method, path, query, body, type_, accept, timeout)
            async with answer:
                data = await answer.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"the API server cannot be reached: {_text(error)}") from error
        if answer.status >= 300:
            raise error_of(answer.status, data, _retry_after(answer))
        try:
            said: Json = msgspec.json.decode(data, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise Unavailable(f"the API server's answer is no JSON object: {error}") from error
        return said

    async def _send(
        self,
        method: str,
        path: str,
        query: Query,
        body: Mapping[str, Any] | None,
        type_: str,
        accept: str,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": accept or "application/json"}
        if body is not None:
            headers["Content-Type"] = type_
        client = self._client
        sent = await client.param_serialize(
            method, path, query_params=query, header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        answer = await client.call_api(*sent, _request_timeout=timeout)
        response: aiohttp.ClientResponse = answer.response
        return response


def _path(kind: str, namespace: str, name: str = "") -> str:
    resource = RESOURCES[kind]
    prefix = f"/apis/{resource.api}" if "/" in resource.api else f"/api/{resource.api}"
    place = f"/namespaces/{namespace}" if resource.namespaced and namespace else ""
    return f"{prefix}{place}/{resource.plural}" + (f"/{name}" if name else "")


def _change(line: bytes) -> Change:
    said = msgspec.json.decode(line, type=dict[str, Any])
    kind, body = str(said.get("type", "")), said.get("object")
    if not isinstance(body, dict):
        raise Unavailable("a watch sent a line without an object")
    if kind == "ERROR":
        raise error_of(int(body.get("code") or 500), msgspec.json.encode(body))
    return Change(kind, body)


def _retry_after(answer: aiohttp.ClientResponse) -> float:
    text = answer.headers.get("Retry-After", "")
    return min(float(text), REQUEST_S) if text.isdigit() else 0.0


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__


# --- how it is reached -------------------------------------------------------------------------------------------


async def configuration() -> Configuration:
    """Return where the API server is: from our own pod's account, else from the kube configuration of the user."""
    found = Configuration()
    untyped: Any = InClusterConfigLoader
    try:
        untyped(token_filename=TOKEN_FILE, cert_filename=CA_FILE).load_and_set(found)
    except ConfigException:
        untyped = load_kube_config
        await untyped(client_configuration=found)
    return found
