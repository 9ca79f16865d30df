"""Carrying one action out: the only place that changes anything, each change a compare-and-set or safe to repeat.

Source: Kubernetes API reference, DeleteOptions ("preconditions").
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec
import structlog

from ringkeep_core.errors import RingkeepError
from ringkeep_core.resource import API_VERSION, KIND, ClusterResource
from ringkeep_operator.drift import lack_of
from ringkeep_operator.kube import Api, Changed, Missing, Rewritten
from ringkeep_operator.nodes import NodeError, Nodes, NodeSilent
from ringkeep_operator.observing import Observed
from ringkeep_operator.state import (
    Action,
    Apply,
    Bootstrap,
    CreateSecret,
    Delete,
    Leave,
    ObjectId,
    Refusal,
    SetWanted,
    Tell,
    TransferLeader,
)
from ringkeep_operator.telling import Teller

TOKEN_BYTES = 32
UNAUTHORIZED = 401
WRONG_CLUSTER = 421
T = TypeVar("T")

logger = structlog.get_logger()


class Actor:
    """Carries actions out for what was observed."""

    def __init__(self, api: Api, nodes: Nodes, teller: Teller) -> None:
        self._api, self._nodes, self._teller = api, nodes, teller

    async def carry_out(self, action: Action, observed: Observed) -> Refusal | None:
        """Do it; return why the nodes refused it, if they did. Raises ``ApiError``, ``NodeError`` or ``NodeSilent``."""
        resource, token = observed.resource, observed.token
        meant = resource.status.cluster_id
        if not isinstance(action, Tell):
            logger.info("action", cluster=resource.name, namespace=resource.namespace, **described(action))
        match action:
            case Apply():
                await self._apply(action, resource.namespace)
            case CreateSecret():
                await self._create_secret(action, resource.namespace)
            case Delete():
                await self._api.delete(action.target, resource.namespace, action.grace_s)
            case Tell():
                await self.tell(resource, action)
            case Bootstrap():
                await self._nodes.bootstrap(base_of(action.url, observed), action, token)
            case SetWanted():
                return await at_any(observed, lambda base: self._nodes.set_wanted(base, action, token, meant))
            case Leave():
                await at_any(observed, lambda base: self._nodes.leave(base, action, token, meant))
            case TransferLeader():
                await at_any(observed, lambda base: self._nodes.transfer_leader(base, action, token, meant))
        return None

    async def tell(self, about: ClusterResource, what: Tell) -> None:
        """Post an event about a resource."""
        await self._teller.tell(about, what)

    async def _apply(self, action: Apply, namespace: str) -> None:
        kept = await self._api.apply(action.manifest, namespace, part=action.part)
        if lack := lack_of(kept, action.manifest):
            raise Rewritten(f"something else than was applied is kept at {lack}: an admission rule changes it")

    async def _create_secret(self, action: CreateSecret, namespace: str) -> None:
        token = secrets.token_urlsafe(TOKEN_BYTES)
        try:
            await self._api.create({**action.manifest, "stringData": {action.key: token}}, namespace)
        except Changed:
            logger.info("secret_exists", object=_named(action.manifest))

    async def show_status(self, observed: Observed, status: Mapping[str, Any]) -> bool:
        """Write the status if it differs from the one that was read; return whether it did."""
        return await show_status(self._api, observed.raw, status)


async def show_status(api: Api, raw: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    """Write the status of a resource if it differs from the one that was read; return whether it did."""
    # As it is read back: a tuple is a list there, and equal values must never be written again.
    status = msgspec.json.decode(msgspec.json.encode(status))
    if raw.get("status") == status:
        return False
    metadata = raw["metadata"]
    # With the uid: the status of a resource that was made anew meanwhile is not ours to write.
    shown = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"]},
        "status": status,
    }
    try:
        await api.apply_status(shown, metadata["namespace"])
    except Missing:
        return False  # Deleted while we looked at it.
    return True


def base_of(url: str, observed: Observed) -> str:
    """Return where the node that advertises ``url`` is asked: at its pod, as a name may not resolve yet."""
    return next((one.base for one in observed.answering if one.node.url == url), url)


async def at_any(observed: Observed, ask: Callable[[str], Awaitable[T]]) -> T:
    """Ask the best node; the next where that one does not take the token or turns out to be a stranger.

    Pods know the token that they began with, and the address of one that is gone may be a node of another cluster.
    """
    refused: RingkeepError = NodeSilent("no node of the cluster answers")
    for one in observed.answering:
        if not one.version or one.node.has_left:
            continue
        try:
            return await ask(one.base)
        except NodeError as error:
            if error.status not in (UNAUTHORIZED, WRONG_CLUSTER):
                raise
            refused = error
    raise refused


def described(action: Action) -> dict[str, str]:
    """Return what an action is, for the log."""
    match action:
        case CreateSecret():
            return {"do": "create", "object": _named(action.manifest)}
        case Apply():
            return {"do": "apply", "object": _named(action.manifest)}
        case Delete():
            return {"do": "delete", "object": _who(action.target), "why": action.why}
        case Bootstrap():
            return {"do": "bootstrap", "members": ",".join(node.name for node in action.members)}
        case SetWanted():
            return {"do": "set_wanted", "why": action.why}
        case Leave():
            return {"do": "leave", "member": action.name}
        case TransferLeader():
            return {"do": "transfer_leader", "to": action.to}
        case Tell():
            return {"do": "tell", "reason": action.reason}
    raise AssertionError(action)


def _named(manifest: Mapping[str, Any]) -> str:
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def _who(target: ObjectId) -> str:
    return f"{target.kind}/{target.name}"
