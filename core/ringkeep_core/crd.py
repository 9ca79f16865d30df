"""The CustomResourceDefinition of ``Cluster``, made from the types of ``ringkeep_core.resource``.

Structural schema with descriptions, bounds and defaults from the types; what a schema cannot say is a CEL rule with the
sentence that ``resource.offences_of`` uses for the same offence. Strings and lists are bounded, so that the API server's
cost estimate of every rule stays far below its budget.

There is no ``nullable``: the API server drops a null before it fills in the default, so ``className: null`` means absent.

Source: Kubernetes, "Extend the API with CustomResourceDefinitions" and "CEL in Kubernetes" (cost limits).
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import inspect

from ringkeep_core import resource
from ringkeep_core.maprules import BYTES_PER_S_MAX
from ringkeep_core.quantities import QUANTITY_PATTERN
from ringkeep_core.resource import ClusterSpec, ClusterStatus, Monitoring, Moves, Pods, Storage

INT64_MIN = 1 << 31


def crd() -> dict[str, Any]:
    """Return the whole CustomResourceDefinition, ready to be applied."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.PLURAL}.{resource.GROUP}"},
        "spec": {
            "group": resource.GROUP,
            "names": {
                "kind": resource.KIND,
                "listKind": f"{resource.KIND}List",
                "plural": resource.PLURAL,
                "singular": resource.SINGULAR,
                "shortNames": [resource.SHORT_NAME],
                "categories": [resource.CATEGORY],
            },
            "scope": "Namespaced",
            "versions": [_version()],
        },
    }


def _version() -> dict[str, Any]:
    return {
        "name": resource.VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": _columns(),
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        },
        "schema": {"openAPIV3Schema": _root()},
    }


def _columns() -> list[dict[str, Any]]:
    columns = [
        ("Desired", "integer", ".spec.replicas", "Members that are wanted"),
        ("Ready", "integer", ".status.readyReplicas", "Pods that are ready"),
        ("Leader", "string", ".status.leader", "The Raft leader"),
        ("Shards-OK", "integer", ".status.shards.ok", "Shards with all copies in sync"),
        ("Moving", "integer", ".status.shards.moving", "Shards with a copy on its way"),
        ("Map", "integer", ".status.mapVersion", "Version of the shard map"),
        ("Age", "date", ".metadata.creationTimestamp", "Time since it was created"),
    ]
    return [
        {"name": name, "type": kind, "jsonPath": path, "description": description}
        for name, kind, path, description in columns
    ]


def _root() -> dict[str, Any]:
    spec, status = _schema(inspect.type_info(ClusterSpec)), _schema(inspect.type_info(ClusterStatus), shown=True)
    spec["description"] = "What is wanted of the cluster."
    spec["default"] = {}
    status["description"] = "What became of it; written by the operator."
    status["properties"]["conditions"] |= _keyed_by("type")
    spec["properties"]["settings"] |= _keyed_by("name")
    for field in ("env", "imagePullSecrets"):
        spec["properties"]["pods"]["properties"][field] |= _keyed_by("name")
    return {
        "type": "object",
        "description": "A Ringkeep cluster: users' documents on a few members, chosen by consistent hashing.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
        "x-kubernetes-validations": [
            _rule(
                f"size(self.metadata.name) <= {resource.NAME_MAX} && "
                f"self.metadata.name.matches('{resource.NAME_PATTERN}')",
                resource.NAME_RULE,
            )
        ],
    }


def _keyed_by(field: str) -> dict[str, Any]:
    """Return what makes a list a map: the API server refuses a second element of the same key."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [field]}


# --- rules between fields ----------------------------------------------------------------------------------------


def _rule(rule: str, message: str, field: str = "") -> dict[str, Any]:
    shown = {"rule": rule, "message": message}
    return {**shown, "fieldPath": field} if field else shown


def _rules_of(kind: type) -> list[dict[str, Any]]:
    """Return the rules of a whole object: more than one of its fields, or a field that may be absent."""
    if kind is ClusterSpec:
        # The API server checks the default of the whole spec too, which is empty until its fields have got theirs.
        both = "!has(self.minInSync) || !has(self.replicationFactor)"
        rule = f"{both} || self.minInSync <= self.replicationFactor"
        return [_rule(rule, resource.MIN_IN_SYNC_RULE, ".minInSync")]
    if kind is Storage:
        same = (
            "has(self.className) == has(oldSelf.className) && "
            "(!has(self.className) || self.className == oldSelf.className)"
        )
        return [_rule(same, resource.CLASS_IMMUTABLE)]
    return []


def _rules_of_field(kind: type, field: str) -> list[dict[str, Any]]:
    """Return the rules of one field. They run only once the field has its type and matches its pattern."""
    if (kind, field) == (ClusterSpec, "shards"):
        allowed = ", ".join(str(count) for count in resource.SHARDS_ALLOWED)
        return [
            _rule(f"self in [{allowed}]", resource.SHARDS_RULE),
            _rule("self == oldSelf", resource.SHARDS_IMMUTABLE),
        ]
    if (kind, field) == (Storage, "size"):
        return [
            _rule(
                f"quantity(self).isInteger() && quantity(self).asInteger() >= {resource.SIZE_MIN_BYTES}",
                resource.SIZE_RULE,
            ),
            _rule("quantity(self).compareTo(quantity(oldSelf)) >= 0", resource.SIZE_SHRINKS),
        ]
    if (kind, field) == (ClusterSpec, "settings"):
        fixed = ", ".join(f"'{name}'" for name in resource.SETTINGS_FIXED)
        return [_rule(f"!self.exists(setting, setting.name in [{fixed}])", resource.SETTINGS_RULE)]
    if field == "labels" and kind in (Pods, Monitoring):
        ours = " || ".join(f"label.startsWith('{prefix}')" for prefix in resource.OUR_PREFIXES)
        message = resource.LABELS_RULE if kind is Pods else resource.MONITORING_LABELS_RULE
        return [_rule(f"!self.exists(label, {ours})", message)]
    if (kind, field) == (Pods, "env"):
        ours = f"one.name.startsWith('RINGKEEP_') || one.name == '{resource.OUR_VARIABLE}'"
        return [_rule(f"!self.exists(one, {ours})", resource.ENV_RULE)]
    if (kind, field) == (Moves, "bytesPerSecond"):
        return [
            _rule(
                f"quantity(self).isInteger() && quantity(self).asInteger() <= {BYTES_PER_S_MAX}",
                resource.SPEED_RULE,
            )
        ]
    return []


# --- schema from types -------------------------------------------------------------------------------------------


def _schema(type_: inspect.Type, *, shown: bool = False) -> dict[str, Any]:
    """Return the schema of a type. ``shown``: of the status, where nothing has a default: the operator writes it all."""
    match type_:
        case inspect.Metadata():
            return _schema(type_.type, shown=shown) | (type_.extra_json_schema or {})
        case inspect.StructType():
            return _object(type_, shown=shown)
        case inspect.StrType():
            return _bounded(
                {"type": "string"}, maxLength=type_.max_length, minLength=type_.min_length, pattern=type_.pattern
            )
        case inspect.IntType():
            schema = {"type": "integer", "format": "int64" if type_.le is None or type_.le >= INT64_MIN else "int32"}
            return _bounded(schema, minimum=type_.ge, maximum=type_.le)
        case inspect.BoolType():
            return {"type": "boolean"}
        case inspect.LiteralType():
            return {"type": "string", "enum": list(type_.values)}
        case inspect.VarTupleType():
            return _bounded(
                {"type": "array", "items": _schema(type_.item_type, shown=shown)}, maxItems=type_.max_length
            )
        case inspect.DictType():
            values = _schema(type_.value_type, shown=shown)
            return _bounded({"type": "object", "additionalProperties": values}, maxProperties=type_.max_length)
        case inspect.UnionType():
            return _union(type_, shown=shown)
        case _:
            raise AssertionError(f"the resource has a type that no schema is known for: {type_}")


def _bounded(schema: dict[str, Any], **bounds: object) -> dict[str, Any]:
    return schema | {key: bound for key, bound in bounds.items() if bound is not None}


def _union(type_: inspect.UnionType, *, shown: bool) -> dict[str, Any]:
    parts = [part for part in type_.types if not isinstance(part, inspect.NoneType)]
    if len(parts) == 1:
        return _schema(parts[0], shown=shown)
    assert {type(part) for part in parts} == {inspect.IntType, inspect.StrType}, "an amount is a number or a text"
    return {
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "x-kubernetes-int-or-string": True,
        "pattern": QUANTITY_PATTERN,
        "maxLength": 32,
    }


def _object(type_: inspect.StructType, *, shown: bool) -> dict[str, Any]:
    properties, required = {}, []
    for field in type_.fields:
        schema = _schema(field.type, shown=shown)
        if field.required:
            required.append(field.encode_name)
        elif not shown:
            schema |= _default_of(field)
        rules = _rules_of_field(type_.cls, field.encode_name)
        if rules:
            schema["x-kubernetes-validations"] = rules
        properties[field.encode_name] = schema
    made: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        made["required"] = required
    if rules := _rules_of(type_.cls):
        made["x-kubernetes-validations"] = rules
    return made


def _default_of(field: inspect.Field) -> dict[str, Any]:
    """Return the default for the schema; an object's is empty, because its own fields have theirs."""
    if field.default_factory is not msgspec.NODEFAULT:
        return {"default": {}}
    if isinstance(field.default, msgspec.Struct):
        return {"default": {}}
    if isinstance(field.default, tuple):
        return {"default": list(field.default)}
    return {} if field.default is None else {"default": field.default}
