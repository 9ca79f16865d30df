"""What is registered, in the shapes that Consul's clients read. Pure: values in, dictionaries out.

    instances of a service, by id --catalog_row--> one flat row each          /v1/catalog/service/web
                                  --health_row---> node, service, checks      /v1/health/service/web

Rows are always made from the same sequence, so both answers have the same order: Traefik pairs them by position.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from ringkeep_core.services import NODE_SERVICE, Check, InstanceSeen, NodeHealth, NodeSeen

Row = dict[str, Any]

NODE_SPACE: Final = uuid.UUID("6f1c1ed0-5f0e-4d0c-9a0b-5a5f3f6d2c11")
"""Makes UUIDs, which clients expect, of storage ids."""
MEMBER_STATES: Mapping[NodeHealth, int] = {
    NodeHealth.ALIVE: 1,
    NodeHealth.SUSPECT: 1,
    NodeHealth.LEFT: 3,
    NodeHealth.DEAD: 4,
}
"""What Serf's numbers are: 1 alive, 3 left, 4 failed."""
TYPES: Mapping[str, str] = {"ttl": "ttl", "http": "http", "tcp": "tcp", "manual": ""}


def node_id(node: NodeSeen) -> str:
    """Return a UUID that a node keeps as long as its disk."""
    return str(uuid.uuid5(NODE_SPACE, node.storage))


def node_meta(node: NodeSeen) -> dict[str, str]:
    """Return what is told of a node in its metadata."""
    return {"zone": node.zone, "boot-id": node.boot, "storage-id": node.storage, "url": node.url}


def node_row(node: NodeSeen, datacenter: str) -> Row:
    """Return a node as catalog/nodes and health/service show it."""
    return {
        "ID": node_id(node),
        "Node": node.name,
        "Address": node.address,
        "Datacenter": datacenter,
        "TaggedAddresses": {"lan": node.address, "wan": node.address},
        "Meta": node_meta(node),
        "CreateIndex": node.create_index,
        "ModifyIndex": node.modify_index,
    }


def catalog_row(seen: InstanceSeen, datacenter: str) -> Row:
    """Return an instance as catalog/service shows it: one flat row."""
    instance, node = seen.instance, seen.node
    return {
        "ID": node_id(node),
        "Node": node.name,
        "Address": node.address,
        "Datacenter": datacenter,
        "TaggedAddresses": {"lan": node.address, "wan": node.address},
        "NodeMeta": node_meta(node),
        "ServiceKind": "",
        "ServiceID": instance.id,
        "ServiceName": instance.service,
        "ServiceTags": list(instance.tags),
        "ServiceAddress": instance.address,
        "ServiceTaggedAddresses": {},
        "ServiceWeights": _weights(seen),
        "ServiceMeta": dict(instance.meta),
        "ServicePort": instance.port,
        "ServiceSocketPath": "",
        "ServiceEnableTagOverride": instance.enable_tag_override,
        "ServiceProxy": {"Mode": "", "MeshGateway": {}, "Expose": {}},
        "ServiceConnect": {},
        "CreateIndex": seen.create_index,
        "ModifyIndex": seen.modify_index,
    }


def health_row(seen: InstanceSeen, datacenter: str) -> Row:
    """Return an instance as health/service shows it: its node, itself, and the checks of both."""
    return {
        "Node": node_row(seen.node, datacenter),
        "Service": {**service_row(seen), "CreateIndex": seen.create_index, "ModifyIndex": seen.modify_index},
        "Checks": [
            *(check_row(check, seen.node) for check in seen.node.checks),
            *(check_row(check, seen.node, seen) for check in seen.instance.checks),
        ],
    }


def service_row(seen: InstanceSeen) -> Row:
    """Return an instance as the agent endpoints show it."""
    instance = seen.instance
    return {
        "Kind": "",
        "ID": instance.id,
        "Service": instance.service,
        "Tags": list(instance.tags),
        "Address": instance.address,
        "TaggedAddresses": {},
        "Meta": dict(instance.meta),
        "Port": instance.port,
        "SocketPath": "",
        "Weights": _weights(seen),
        "EnableTagOverride": instance.enable_tag_override,
        "Proxy": {"Mode": "", "MeshGateway": {}, "Expose": {}},
        "Connect": {},
    }


def check_row(check: Check, node: NodeSeen, seen: InstanceSeen | None = None) -> Row:
    """Return a check; without an instance it is one of the node."""
    created, modified = (node.create_index, node.modify_index)
    if seen is not None:
        created, modified = seen.create_index, seen.modify_index
    return {
        "Node": node.name,
        "CheckID": check.id,
        "Name": check.name,
        "Status": check.status,
        "Notes": check.notes,
        "Output": check.output,
        "ServiceID": "" if seen is None else seen.instance.id,
        "ServiceName": "" if seen is None else seen.instance.service,
        "ServiceTags": [] if seen is None else list(seen.instance.tags),
        "Type": TYPES[check.kind],
        "Interval": _duration(check.interval_s),
        "Timeout": _duration(check.timeout_s),
        "ExposedPort": 0,
        "Definition": {},
        "CreateIndex": created,
        "ModifyIndex": modified,
    }


def member_row(node: NodeSeen, datacenter: str, *, is_voter: bool) -> Row:
    """Return a node as agent/members shows it."""
    host, _, _ = node.address.partition("%")
    return {
        "Name": node.name,
        "Addr": host,
        "Port": node.port,
        "Tags": {
            "role": "consul" if is_voter else "node",
            "dc": datacenter,
            "id": node_id(node),
            "zone": node.zone,
            "boot-id": node.boot,
        },
        "Status": MEMBER_STATES[node.health],
        "ProtocolMin": 1,
        "ProtocolMax": 5,
        "ProtocolCur": 2,
        "DelegateMin": 2,
        "DelegateMax": 5,
        "DelegateCur": 4,
    }


def node_services(node: NodeSeen, owned: Sequence[InstanceSeen], datacenter: str) -> Row:
    """Return a node and its instances as catalog/node shows them."""
    return {
        "Node": node_row(node, datacenter),
        "Services": {
            seen.instance.id: {**service_row(seen), "CreateIndex": seen.create_index, "ModifyIndex": seen.modify_index}
            for seen in owned
        },
    }


def all_checks(nodes: Iterable[NodeSeen], instances: Iterable[InstanceSeen]) -> list[Row]:
    """Return the checks of nodes and of instances, in their order."""
    rows = [check_row(check, node) for node in nodes for check in node.checks]
    return rows + [check_row(check, seen.node, seen) for seen in instances for check in seen.instance.checks]


def keeps(seen: InstanceSeen, tags: Iterable[str], meta: Iterable[tuple[str, str]], *, is_passing: bool) -> bool:
    """Return whether an instance has all the tags, its node all the metadata, and it passes if that is asked for."""
    if seen.instance.service == NODE_SERVICE or (is_passing and seen.status != "passing"):
        return False
    own = {tag.lower() for tag in seen.instance.tags}
    return all(tag.lower() in own for tag in tags) and keeps_node(seen.node, meta)


def keeps_node(node: NodeSeen, meta: Iterable[tuple[str, str]]) -> bool:
    """Return whether a node has all the metadata."""
    told = node_meta(node)
    return all(told.get(name) == value for name, value in meta)


def _weights(seen: InstanceSeen) -> Row:
    return {"Passing": seen.instance.weights.passing, "Warning": seen.instance.weights.warning}


def _duration(seconds: float) -> str:
    return "" if seconds == 0 else f"{seconds:g}s"
