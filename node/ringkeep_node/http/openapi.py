"""The description of the REST interface, as OpenAPI 3.1. It names exactly the routes that this node answers."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import Any

import msgspec

from ringkeep_core.ids import (
    CONTENT_TYPE_BYTES_MAX,
    IDEMPOTENCY_KEY_MAX,
    KEY_BYTES_MAX,
    USER_BYTES_MAX,
    VALUE_BYTES_MAX,
)
from ringkeep_core.services import CHECKS_MAX, ID_MAX, META_MAX, SERVICE_NAME_MAX, TAG_BYTES_MAX, TAGS_MAX
from ringkeep_core.summary import Summary
from ringkeep_node.http.exchange import Exchange
from ringkeep_node.http.problems import PROBLEM_TYPE, STATUS_OF_CODE
from ringkeep_node.http.replies import JSON_TYPE, Reply
from ringkeep_node.http.routing import parameters
from ringkeep_node.runtime.service import LIST_LIMIT_DEFAULT, LIST_LIMIT_MAX, TIMEOUT_DEFAULT_S, TIMEOUT_MAX_S

VERSION = version("ringkeep")
Schema = dict[str, Any]


async def description(exchange: Exchange) -> Reply:
    """Send the description."""
    parameters(exchange.target.query, ())
    return exchange.reply(200, "Cache-Control: no-cache\r\n", _encoded(), JSON_TYPE)


@cache
def _encoded() -> bytes:
    return msgspec.json.encode(document())


def document() -> Schema:
    """Return the whole description."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Ringkeep",
            "version": VERSION,
            "description": "Documents of users, kept on a few nodes chosen by consistent hashing. Any node answers for "
            "any user. Every 503 means: certainly not applied.",
        },
        "paths": {**_document_paths(), **_cluster_paths(), **_service_paths(), **_health_paths()},
        "components": _components(),
    }


def _document_paths() -> Schema:
    user, key = _ref("parameters", "user"), _ref("parameters", "key")
    timeout, id_header = _ref("parameters", "timeout"), _ref("parameters", "idempotency")
    if_match, if_none_match = _ref("parameters", "if_match"), _ref("parameters", "if_none_match")
    consistency = _ref("parameters", "consistency")
    body = {"required": True, "content": {"*/*": {"schema": {}}}}
    return {
        "/v1/users/{user}/docs/{key}": {
            "parameters": [user, key, timeout],
            "get": _operation(
                "getDocument",
                "Read a document: linearizable unless consistency=local",
                {"200": _bytes("The document's bytes"), "304": _plain("The client has this version")},
                [404, 412, 503],
                parameters=[consistency, if_match, if_none_match],
            ),
            "head": _operation(
                "headDocument",
                "What is known of a document",
                {"200": _plain("All headers of GET"), "304": _plain("The client has this version")},
                [404, 412, 503],
                parameters=[consistency, if_match, if_none_match],
            ),
            "put": _operation(
                "putDocument",
                "Store a document; answered once it is durable on every in-sync copy",
                {"200": _plain("Replaced"), "201": _plain("New")},
                [412, 413, 415, 422, 503, 504, 507],
                parameters=[if_match, if_none_match, id_header],
                body=body,
            ),
            "delete": _operation(
                "deleteDocument",
                "Remove a document",
                {"204": _plain("Removed")},
                [404, 412, 422, 503, 504, 507],
                parameters=[if_match, if_none_match, id_header],
            ),
        },
        **_user_paths(),
    }


def _service_paths() -> Schema:
    name = _path("name", SERVICE_NAME_MAX, "Name of the service: a DNS label")
    text = {"type": "string"}
    newer = _query("wait_newer_than", {"type": "integer"}, "Answer when the index is another one, or at the deadline")
    tag = _query("tag", {"type": "array", "items": text}, "Only instances with this tag; repeat it for several")
    passing = _query("passing", {"type": "boolean", "default": False}, "Only instances that pass")
    timeout = _ref("parameters", "timeout")
    groups = {"type": "array", "items": _object({"targets": {"type": "array", "items": text}, "labels": {}})}
    return {
        "/v1/services": {
            "parameters": [timeout],
            "get": _operation(
                "listServices",
                "All services with their tags and numbers of instances, the built-in ones too",
                {"200": _json("Sorted by name", {"type": "object"})},
                [503],
                parameters=[newer],
            ),
        },
        "/v1/services/{name}": {
            "parameters": [name, timeout],
            "get": _operation(
                "getService",
                "The instances of a service, sorted by id; an unknown name has none",
                {"200": _json("The instances", _ref("schemas", "Service"))},
                [503],
                parameters=[tag, passing, newer],
            ),
        },
        "/v1/services/{name}/watch": {
            "parameters": [name],
            "get": _operation(
                "watchService",
                "Server-sent events: all instances, now and with each change",
                {"200": {"description": "event: instances", "content": {"text/event-stream": {"schema": text}}}},
                [503],
                parameters=[tag, passing],
            ),
        },
        **_instance_paths(),
        "/v1/sd/prometheus": {
            "get": _operation(
                "prometheusTargets",
                "Targets for Prometheus' http_sd_configs: the nodes, or the instances of a service",
                {"200": _json("The whole list", groups)},
                [503],
                parameters=[_query("service", text, "Instances of this service instead of the nodes"), tag, passing],
            ),
        },
    }


def _instance_paths() -> Schema:
    name = _path("name", SERVICE_NAME_MAX, "Name of the service")
    instance = _path("id", ID_MAX, "Id of the instance: visible ASCII without '/', unique within its service")
    row, timeout = _ref("schemas", "Instance"), _ref("parameters", "timeout")
    return {
        "/v1/services/{name}/{id}": {
            "parameters": [name, instance, timeout],
            "get": _operation("getInstance", "One instance", {"200": _json("It", row)}, [404, 503]),
            "put": _operation(
                "registerInstance",
                "Register an instance, in place of one with this id; the same again is a sign of life",
                {"200": _json("Replaced, or renewed", row), "201": _json("New", row)},
                [401, 413, 415, 429, 503],
                body=_json_body(_ref("schemas", "Registration")),
            ),
            "delete": _operation(
                "deregisterInstance",
                "Remove an instance",
                {"204": _plain("Removed")},
                [401, 404, 429, 503],
            ),
        },
        "/v1/services/{name}/{id}/renew": {
            "parameters": [name, instance, timeout],
            "put": _operation(
                "renewInstance",
                "A sign of life, or the state of a check; without a body all ttl checks pass",
                {"200": _json("The instance", row)},
                [401, 404, 413, 415, 429, 503],
                body={**_json_body(_ref("schemas", "Renewal")), "required": False},
            ),
        },
    }


def _service_schemas() -> Schema:
    text, number, seconds = {"type": "string"}, {"type": "integer"}, {"type": "number"}
    status = {"type": "string", "enum": ["passing", "warning", "critical"]}
    tags = {"type": "array", "maxItems": TAGS_MAX, "items": {"type": "string", "maxLength": TAG_BYTES_MAX}}
    weights = {"type": "object", "properties": {"passing": number, "warning": number}}
    check = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            **dict.fromkeys(("id", "name", "notes", "http", "tcp"), text),
            **dict.fromkeys(("ttl_s", "interval_s", "timeout_s", "deregister_after_s"), seconds),
            "status": status,
        },
    }
    meta = {"type": "object", "maxProperties": META_MAX, "additionalProperties": text}
    return {
        "Registration": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "address": text,
                "port": {"type": "integer", "minimum": 0, "maximum": 65535},
                "tags": tags,
                "meta": meta,
                "weights": weights,
                "checks": {"type": "array", "maxItems": CHECKS_MAX, "items": check},
                "enable_tag_override": {"type": "boolean"},
            },
        },
        "Renewal": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"check": text, "status": status, "output": text},
        },
        "Instance": _object(
            {
                **{"service": text, "id": text, "address": text, "port": number, "status": status, "tags": tags},
                **{"meta": meta, "weights": weights, "node": {"type": "object"}, "checks": {"type": "array"}},
                **{"create_index": number, "modify_index": number},
            }
        ),
        "Service": _object(
            {"service": text, "index": number, "instances": {"type": "array", "items": _ref("schemas", "Instance")}}
        ),
    }


def _user_paths() -> Schema:
    user, timeout, consistency = (_ref("parameters", name) for name in ("user", "timeout", "consistency"))
    return {
        "/v1/users/{user}/docs": {
            "parameters": [user, timeout],
            "get": _operation(
                "listDocuments",
                "A page of a user's documents, sorted by the keys' bytes",
                {"200": _json("The page; next is where the following one starts", _ref("schemas", "Page"))},
                [503],
                parameters=[
                    _query("prefix", {"type": "string"}, "Only keys that begin so"),
                    _query("after", {"type": "string"}, "Only keys after this one"),
                    _query(
                        "limit",
                        {"type": "integer", "minimum": 1, "maximum": LIST_LIMIT_MAX, "default": LIST_LIMIT_DEFAULT},
                        "Rows at most; a page has at most 4 MiB",
                    ),
                    _query("values", {"type": "boolean", "default": False}, "With the values"),
                    consistency,
                ],
            ),
        },
        "/v1/users/{user}/route": {
            "parameters": [user],
            "get": _operation(
                "routeUser", "Where a user lives", {"200": _json("The route", _ref("schemas", "Route"))}, [503]
            ),
        },
        "/v1/import": {
            "post": _operation(
                "importLines",
                "Store many documents: one JSON object a line. If the content type is JSON, value is stored as it is "
                "written; otherwise a string is stored as its text. Of two lines with the same key the later one wins",
                {"200": _json("Counts, and the first 100 problems", _ref("schemas", "ImportResult"))},
                [415, 503],
                parameters=[timeout],
                body={
                    "required": True,
                    "content": {"application/x-ndjson": {"schema": _ref("schemas", "ImportLine")}},
                },
            ),
        },
    }


def _cluster_paths() -> Schema:
    anything: Schema = {"type": "object"}

    def reading(name: str, text: str, **more: Any) -> Schema:
        return {"get": _operation(name, text, {"200": _json(text, anything)}, [503], **more)}

    admin: Schema = {"security": [{"admin": []}]}
    return {
        **_member_paths(),
        **_founding_paths(),
        "/v1/cluster": reading(
            "cluster",
            "The cluster in short",
            parameters=[_query("summary", {"type": "boolean", "default": False}, "With the summary in words")],
        ),
        "/v1/cluster/members": reading("members", "Every member with the evidence for its state"),
        "/v1/cluster/map": reading(
            "map",
            "The shard map",
            parameters=[
                _query("wait_newer_than", {"type": "integer", "minimum": 0}, "Wait for a version above this one"),
                _ref("parameters", "timeout"),
            ],
        ),
        "/v1/cluster/leader": reading("leader", "The leader"),
        "/v1/cluster/summary": {
            "get": _operation(
                "summary",
                "In words how the cluster is, as the asked node sees it: what is wrong, what that means for users, what is "
                "done about it, and what a person should do",
                {"200": _json("It", _ref("schemas", "Summary"))},
                [],
            )
        },
        **_plan_paths(),
        "/v1/cluster/transfer-leader": {
            "post": _operation(
                "transferLeader",
                "Have the Raft leader hand over to another voter",
                {"200": _json("Who leads then", anything)},
                [401, 404, 409, 415, 503],
                parameters=[_ref("parameters", "timeout")],
                body=_json_body({"type": "object", "properties": {"to": {"type": "string"}}}),
                **admin,
            ),
        },
        "/v1/cluster/rates": reading(
            "rates", "What this node has counted since its start; rates are differences of it"
        ),
        "/v1/cluster/events": reading(
            "events",
            "What happened, oldest first",
            parameters=[_query("after", {"type": "integer", "minimum": 0}, "Only events after this number")],
        ),
    }


def _plan_paths() -> Schema:
    anything: Schema = {"type": "object"}
    return {
        "/v1/cluster/plan": {
            "get": _operation(
                "plan",
                "What is left to do between the map and the wanted state; with parameters: if it were changed so. "
                "Nothing changes, and no token is needed",
                {"200": _json("The plan", anything)},
                [404, 409, 503],
                parameters=[
                    _query("members", {"type": "string"}, "Exactly these take part: names, separated by commas"),
                    _query("drain", {"type": "string"}, "These give everything up"),
                    _query("weights", {"type": "string", "examples": ["n1:2,n2:0.5"]}, "Other weights"),
                    _query("steps", {"type": "boolean", "default": True}, "With every single step"),
                ],
            ),
            "post": _operation(
                "whatIf",
                "The plan that a change of the wanted state would mean; nothing changes",
                {"200": _json("The plan", anything)},
                [401, 404, 409, 415, 503],
                body=_json_body(_ref("schemas", "WhatIf")),
                security=[{"admin": []}],
            ),
        },
    }


def _member_paths() -> Schema:
    anything: Schema = {"type": "object"}
    admin: Schema = {"security": [{"admin": []}]}
    dry_run = _query("dry_run", {"type": "boolean", "default": False}, "Show the plan and change nothing")
    return {
        "/v1/cluster/members/{name}/drain": {
            "parameters": [_path("name", 63, "The member"), dry_run],
            "post": _operation(
                "drain",
                "Have a member give everything up",
                {"200": _json("The new wanted state, or the plan of a dry run", anything)},
                [401, 404, 409, 503],
                **admin,
            ),
            "delete": _operation(
                "undrain",
                "Take a drain back",
                {"200": _json("The new wanted state, or the plan of a dry run", anything)},
                [401, 404, 409, 503],
                **admin,
            ),
        },
        "/v1/cluster/members/{name}/leave": {
            "parameters": [_path("name", 63, "The member")],
            "post": _operation(
                "leave",
                "Let a drained member go for good: the answer is the proof that it holds nothing",
                {"200": _json("Who left", anything)},
                [401, 404, 409, 503],
                **admin,
            ),
        },
    }


def _founding_paths() -> Schema:
    wanted = _ref("schemas", "Wanted")
    admin: Schema = {"security": [{"admin": []}]}
    dry_run = _query("dry_run", {"type": "boolean", "default": False}, "Show the plan and change nothing")
    return {
        "/v1/cluster/bootstrap": {
            "post": _operation(
                "bootstrap",
                "Found a cluster",
                {"200": _json("Its id", {"type": "object", "properties": {"cluster_id": {"type": "string"}}})},
                [401, 409, 415],
                body=_json_body(_ref("schemas", "Bootstrap")),
                **admin,
            ),
        },
        "/v1/cluster/wanted": {
            "get": _operation("wanted", "The wanted state", {"200": _json("It", wanted)}, [503]),
            "put": _operation(
                "setWanted",
                "Replace the wanted state, if revision is still the one that was read. Members that are not named are not "
                "wanted any more; of the named ones, and of the settings, what is left out stays as it is",
                {"200": _json("The new wanted state, one revision further", wanted)},
                [401, 409, 415, 503],
                parameters=[_ref("parameters", "timeout"), dry_run],
                body=_json_body(wanted),
                **admin,
            ),
        },
    }


def _health_paths() -> Schema:
    text = {"200": {"description": "It", "content": {"text/plain": {"schema": {"type": "string"}}}}}
    page = {"200": {"description": "It", "content": {"text/html": {"schema": {"type": "string"}}}}}
    anything: Schema = {"type": "object"}
    return {
        "/livez": {"get": _operation("livez", "Is this process alive", {"200": _json("Yes", anything)}, [503])},
        "/readyz": {"get": _operation("readyz", "Should clients be sent here", {"200": _json("Yes", anything)}, [503])},
        "/metrics": {"get": _operation("metrics", "Metrics for Prometheus", text, [])},
        "/openapi.json": {"get": _operation("openapi", "This description", {"200": _json("It", anything)}, [])},
        "/": {"get": _operation("root", "The web console", page, [])},
        "/console/{digest}/{file}": {
            "parameters": [_path("digest", 16, "Of all files"), _path("file", 63, "The name of a file of the console")],
            "get": _operation("asset", "A file of the console's page", text, [404]),
        },
        "/v1/console/events": {
            "get": _operation(
                "consoleEvents",
                "What the console shows, live: server-sent events full, news, beat and bye. Its content is the page's "
                "business and may change with any version",
                {"200": {"description": "It", "content": {"text/event-stream": {"schema": {"type": "string"}}}}},
                [429, 503],
                parameters=[
                    _query("after", {"type": "string"}, "The id of the last event that is known"),
                    _header("Last-Event-ID", {"type": "string"}, "The same"),
                ],
            ),
        },
    }


def _components() -> Schema:
    etags = {"type": "string", "examples": ['"12"', "*"]}
    return {
        "securitySchemes": {"admin": {"type": "http", "scheme": "bearer", "description": "RINGKEEP_ADMIN_TOKEN"}},
        "parameters": {
            "user": _path("user", USER_BYTES_MAX, "The partition key; '/' as %2F"),
            "key": _path("key", KEY_BYTES_MAX, "Everything after docs/; '/' and %2F mean the same"),
            "timeout": _header(
                "Ringkeep-Timeout",
                {"type": "number", "minimum": 0, "maximum": TIMEOUT_MAX_S, "default": TIMEOUT_DEFAULT_S},
                "Seconds until the request gives up",
            ),
            "idempotency": _header(
                "Idempotency-Key",
                {"type": "string", "pattern": f"^[!-~]{{1,{IDEMPOTENCY_KEY_MAX}}}$"},
                "The same key and request are applied once within 24 h",
            ),
            "if_match": _header("If-Match", etags, "Only if the document has one of these versions"),
            "if_none_match": _header("If-None-Match", etags, "Only if the document has none of these versions"),
            "consistency": _query(
                "consistency",
                {"type": "string", "enum": ["strict", "local"], "default": "strict"},
                "local: from any replica at once, maybe behind by Ringkeep-Lag entries",
            ),
        },
        "responses": {
            "Problem": {
                "description": "A problem document (RFC 9457)",
                "headers": {
                    "Ringkeep-Cluster": {
                        "description": "The cluster of the node that answers, here as in every answer. A request that names "
                        "another one in a header of this name is refused with 421 wrong_cluster before anything is done",
                        "schema": {"type": "string"},
                    }
                },
                "content": {PROBLEM_TYPE: {"schema": _ref("schemas", "Problem")}},
            }
        },
        "schemas": _schemas(),
    }


def _schemas() -> Schema:
    text, number = {"type": "string"}, {"type": "integer"}
    place = _object({"name": text, "url": text})
    return {
        "Problem": _object(
            {
                "type": text,
                "title": text,
                "status": number,
                "detail": text,
                "code": {"type": "string", "enum": sorted(STATUS_OF_CODE)},
                "retryable": {"type": "boolean"},
                "request_id": text,
            }
        ),
        "Page": _object(
            {
                "docs": {"type": "array", "items": _ref("schemas", "Row")},
                "next": {"type": ["string", "null"]},
            }
        ),
        "Row": {
            **_object({"key": text, "version": number, "content_type": text, "bytes": number, "modified": text}),
            "description": "With values=true also value (JSON documents) or value_b64",
        },
        "Route": _object(
            {
                "user": text,
                "shard": number,
                "epoch": number,
                "version": number,
                "primary": place,
                "in_sync": {"type": "array", "items": place},
            }
        ),
        "ImportLine": {
            "type": "object",
            "required": ["user", "key"],
            "properties": {
                "user": text,
                "key": text,
                "value": {},
                "value_b64": {"type": "string", "contentEncoding": "base64"},
                "content_type": {"type": "string", "maxLength": CONTENT_TYPE_BYTES_MAX},
            },
        },
        "ImportResult": _object(
            {
                "lines": number,
                "stored": number,
                "failed": number,
                "errors": {
                    "type": "array",
                    "maxItems": 100,
                    "items": _object({"line": number, "code": text, "detail": text}),
                },
            }
        ),
        **_summary_schemas(),
        **_admin_schemas(),
        **_service_schemas(),
    }


def _summary_schemas() -> Schema:
    """Return the shapes that core's own values have: described where they are made, so that both agree."""
    schemas, components = msgspec.json.schema_components((Summary,), ref_template="#/components/schemas/{name}")
    assert schemas == ({"$ref": "#/components/schemas/Summary"},)
    return components


def _admin_schemas() -> Schema:
    text, number = {"type": "string"}, {"type": "integer"}
    settings: Schema = {
        "type": "object",
        "description": "What is left out stays as it is",
        "properties": {
            "replication_factor": number,
            "min_in_sync": number,
            "grace_s": {"type": "number"},
            "streams_per_node": number,
            "streams_max": number,
            "bytes_per_s": number,
            "hot_spot_swaps": {"type": "boolean"},
            "swaps_per_hour": number,
        },
    }
    return {
        "Bootstrap": {
            "type": "object",
            "required": ["members"],
            "properties": {
                "members": {"type": "array", "items": _object({"name": text, "storage_id": text, "peer": text})},
                "shards": {"type": "integer", "minimum": 16, "maximum": 65536, "default": 256},
                "replication_factor": {"type": "integer", "minimum": 1, "maximum": 7, "default": 3},
                "min_in_sync": {"type": "integer", "minimum": 1, "maximum": 7, "default": 2},
            },
        },
        "Wanted": _object(
            {
                "revision": number,
                "members": {
                    "type": "object",
                    "additionalProperties": {
                        "type": "object",
                        "properties": {"weight": {"type": "number"}, "zone": text, "draining": {"type": "boolean"}},
                    },
                },
                "settings": settings,
                "target_digest": text,
                "target_version": number,
            }
        ),
        "WhatIf": {
            "type": "object",
            "properties": {
                "members": {"type": "array", "items": text},
                "drain": {"type": "array", "items": text},
                "weights": {"type": "object", "additionalProperties": {"type": "number"}},
                "settings": settings,
            },
        },
    }


# --- pieces ------------------------------------------------------------------------------------------------------


def _operation(
    name: str,
    summary: str,
    responses: Schema,
    problems: list[int],
    *,
    body: Schema | None = None,
    **more: Any,
) -> Schema:
    shown = {**responses, **{str(status): _ref("responses", "Problem") for status in (400, 421, *problems)}}
    operation: Schema = {"operationId": name, "summary": summary, "responses": shown, **more}
    if body is not None:
        operation["requestBody"] = body
    return operation


def _ref(kind: str, name: str) -> Schema:
    return {"$ref": f"#/components/{kind}/{name}"}


def _object(properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def _plain(text: str) -> Schema:
    return {"description": text, "headers": {"ETag": {"schema": {"type": "string"}}}}


def _bytes(text: str) -> Schema:
    return {**_plain(text), "content": {"*/*": {"schema": {"maxLength": VALUE_BYTES_MAX}}}}


def _json(text: str, schema: Schema) -> Schema:
    return {"description": text, "content": {JSON_TYPE: {"schema": schema}}}


def _json_body(schema: Schema) -> Schema:
    return {"required": True, "content": {JSON_TYPE: {"schema": schema}}}


def _path(name: str, bytes_max: int, text: str) -> Schema:
    schema = {"type": "string", "minLength": 1, "maxLength": bytes_max}
    return {"name": name, "in": "path", "required": True, "description": text, "schema": schema}


def _header(name: str, schema: Schema, text: str) -> Schema:
    return {"name": name, "in": "header", "required": False, "description": text, "schema": schema}


def _query(name: str, schema: Schema, text: str) -> Schema:
    return {"name": name, "in": "query", "required": False, "description": text, "schema": schema}
