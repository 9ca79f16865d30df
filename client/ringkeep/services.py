"""The calls about services: find them, register an instance, show that it lives, take it away.

All of them can be repeated without harm: a registration takes the place of the one with the same id, a renewal is a sign
of life, and an instance that is gone is not found. Any node takes them, for any instance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from ringkeep.transport import Answer, Request, decoded

SERVICES_PATH = "/v1/services"


class ServiceRegistry:
    """The part of ``AsyncClient`` that is about services. Instances are as ``GET /v1/services/{name}`` shows them."""

    async def services(self, *, timeout_s: float | None = None) -> list[dict[str, Any]]:
        """Return all services, the built-in ones too: name, tags, numbers of instances and of those that pass."""
        answer = await self._performed(Request("GET", SERVICES_PATH), changes=False, timeout_s=timeout_s)
        return decoded(answer, dict[str, Any])["services"]  # type: ignore[no-any-return]  # JSON

    async def instances(
        self, service: str, *, tags: Iterable[str] = (), passing: bool = False, timeout_s: float | None = None
    ) -> list[dict[str, Any]]:
        """Return the instances of a service that have all ``tags``, only those that pass if ``passing``; sorted by id."""
        path, query = service_path(service), service_query(tags, passing=passing)
        answer = await self._performed(Request("GET", path, query), changes=False, timeout_s=timeout_s)
        return decoded(answer, dict[str, Any])["instances"]  # type: ignore[no-any-return]  # JSON

    async def register(
        self,
        service: str,
        instance_id: str,
        *,
        address: str = "",
        port: int = 0,
        tags: Iterable[str] = (),
        meta: Mapping[str, str] | None = None,
        checks: Iterable[Mapping[str, Any]] = (),
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """Register an instance, or show with the same values that it lives; return it.

        Args:
            address: Where it is; default: the address of the node that takes the registration.
            checks: Each with ``ttl_s``, ``http`` or ``tcp``; see docs/discovery.md.
        Raises ``BadRequest`` with the reason, ``TooManyRequests``.
        """
        wish = {
            "address": address,
            "port": port,
            "tags": list(tags),
            "meta": dict(meta or {}),
            "checks": [dict(check) for check in checks],
        }
        return await self._changed("PUT", service_path(service, instance_id), wish, timeout_s)

    async def renew(
        self,
        service: str,
        instance_id: str,
        *,
        check: str = "",
        status: str = "passing",
        output: str | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """Show that an instance lives, or tell the state of one of its checks; return it. Raises ``NotFound``."""
        told = {"check": check, "status": status, "output": output}
        return await self._changed("PUT", f"{service_path(service, instance_id)}/renew", told, timeout_s)

    async def deregister(self, service: str, instance_id: str, *, timeout_s: float | None = None) -> None:
        """Remove an instance. Raises ``NotFound``, which it also says where an unanswered first try has worked."""
        request = Request("DELETE", service_path(service, instance_id))
        await self._performed(request, changes=True, timeout_s=timeout_s)

    async def _changed(self, method: str, path: str, body: object, timeout_s: float | None) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        request = Request(method, path, "", headers, msgspec.json.encode(body))
        return decoded(await self._performed(request, changes=True, timeout_s=timeout_s), dict[str, Any])

    async def _performed(self, request: Request, *, changes: bool, timeout_s: float | None) -> Answer:
        raise NotImplementedError


def service_path(service: str, instance_id: str = "") -> str:
    """Return the path of a service, or of one of its instances."""
    path = f"{SERVICES_PATH}/{quote(service, safe='')}"
    return f"{path}/{quote(instance_id, safe='')}" if instance_id else path


def service_query(tags: Iterable[str], *, passing: bool) -> str:
    """Return the encoded query that chooses instances."""
    return urlencode([("tag", tag) for tag in tags] + ([("passing", "true")] if passing else []))
