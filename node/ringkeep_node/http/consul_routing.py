"""Which of the paths that Consul's clients call a request names.

Only what is answered is listed. Keys and sessions are known by name, so that who asks for them is told so in a sentence:
locks and configuration belong into documents, which every copy has on disk.
"""

from __future__ import annotations

from collections.abc import Mapping

from ringkeep_core.errors import NotFound

PREFIXES = ("/v1/agent/", "/v1/catalog/", "/v1/health/", "/v1/status/", "/v1/kv", "/v1/session", "/v1/txn", "/v1/acl")

FIXED: Mapping[str, str] = {
    "/v1/agent/self": "consul_agent_self",
    "/v1/agent/services": "consul_agent_services",
    "/v1/agent/checks": "consul_agent_checks",
    "/v1/agent/members": "consul_agent_members",
    "/v1/agent/maintenance": "consul_agent_maintenance",
    "/v1/agent/service/register": "consul_service_register",
    "/v1/agent/check/register": "consul_check_register",
    "/v1/catalog/services": "consul_catalog_services",
    "/v1/catalog/nodes": "consul_catalog_nodes",
    "/v1/catalog/datacenters": "consul_catalog_datacenters",
    "/v1/catalog/register": "consul_catalog_register",
    "/v1/catalog/deregister": "consul_catalog_deregister",
    "/v1/status/leader": "consul_status_leader",
    "/v1/status/peers": "consul_status_peers",
}

NAMED: Mapping[str, str] = {
    "/v1/agent/service/deregister/": "consul_service_deregister",
    "/v1/agent/service/maintenance/": "consul_service_maintenance",
    "/v1/agent/service/": "consul_agent_service",
    "/v1/agent/check/deregister/": "consul_check_deregister",
    "/v1/agent/check/pass/": "consul_check_pass",
    "/v1/agent/check/warn/": "consul_check_warn",
    "/v1/agent/check/fail/": "consul_check_fail",
    "/v1/agent/check/update/": "consul_check_update",
    "/v1/catalog/service/": "consul_catalog_service",
    "/v1/catalog/node/": "consul_catalog_node",
    "/v1/health/service/": "consul_health_service",
    "/v1/health/checks/": "consul_health_checks",
    "/v1/health/node/": "consul_health_node",
    "/v1/health/state/": "consul_health_state",
}
"""Paths that end with one name; the first that fits counts."""

WRITES = frozenset(
    {
        "consul_agent_maintenance",
        "consul_service_register",
        "consul_check_register",
        "consul_catalog_register",
        "consul_catalog_deregister",
        "consul_service_deregister",
        "consul_service_maintenance",
        "consul_check_deregister",
        "consul_check_pass",
        "consul_check_warn",
        "consul_check_fail",
        "consul_check_update",
    }
)

METHODS: Mapping[str, tuple[str, ...]] = {
    route: ("PUT",) if route in WRITES else ("GET", "HEAD") for route in (*FIXED.values(), *NAMED.values())
}


def consul_route(path: str) -> tuple[str, str]:
    """Return the route of a path under one of ``PREFIXES``, and the name at its end as it was sent.

    Raises ``NotFound``, with a sentence about what is left out on purpose.
    """
    route = FIXED.get(path)
    if route is not None:
        return route, ""
    for prefix, named in NAMED.items():
        name = path.removeprefix(prefix)
        if name != path and name and "/" not in name:
            return named, name
    first = path.split("/")[2]
    if first in ("kv", "session", "txn"):
        raise NotFound(
            f"there is no /v1/{first} here: keys, sessions and transactions of Consul are not supported; "
            "documents under /v1/users/ are what this cluster keeps"
        )
    if first == "acl":
        raise NotFound("there are no access control lists of Consul here: one token is all there is")
    raise NotFound(f"there is nothing at {path[:200]!r}; docs/discovery-consul.md lists Consul's paths that are here")
