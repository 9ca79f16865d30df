"""The service registry: instances of services, each owned by the node that took its newest registration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from ringkeep_core.services import InstanceSeen, NodeSeen

SERVICES_TOPIC = "*services"
NODES_TOPIC = "*nodes"
ANY_TOPIC = "*any"
"""What can be waited for besides a service, which is waited for by its name: the list of services with their tags; the
nodes and their health; any change of anything."""


class RegistryView(Protocol):
    """What can be read of the registry at this node: plain look-ups in memory, nothing waits, nothing is asked of others.

    Every answer has an index. It is at least 1, grows only when the answer changed, and is told per service: a change of
    one service moves the index of no other one. Indexes are stamps of one logical clock that all nodes share, so nodes
    which know the same mostly name the same index; it may be lower at another node (or after a restart), as Consul's may.
    Whoever waits with an index that is not the present one, lower or higher, is to be answered at once.
    """

    def services(self) -> Mapping[str, tuple[str, ...]]:
        """Return every service name with the sorted union of the tags of its instances, sorted by name.

        Without the built-in ``NODE_NAMES``, which ``nodes`` makes up, and without ``NODE_SERVICE``.
        """
        ...

    def instances(self, service: str) -> Sequence[InstanceSeen]:
        """Return all instances of a service, whatever their status, in ONE order: by id. Empty for unknown names.

        The order is the same at every node, for every kind of answer and over changes of owners: Traefik pairs the rows
        of two answers by position.
        """
        ...

    def find(self, instance_id: str) -> Sequence[InstanceSeen]:
        """Return the instances of any service with this id, those that this node owns first.

        Consul's agent names an instance by its id alone.
        """
        ...

    def owned(self) -> Sequence[InstanceSeen]:
        """Return the instances that this node owns, by (service, id): what its agent endpoints list."""
        ...

    def nodes(self) -> Sequence[NodeSeen]:
        """Return the nodes of the cluster, dead ones too, by name."""
        ...

    def me(self) -> NodeSeen:
        """Return this node."""
        ...

    def index(self, topic: str) -> int:
        """Return the index of a service (by its name, known or not) or of one of the topics in this module."""
        ...


class ServicesPort(Protocol):
    """What the registry does for whoever translates requests: ``runtime.services`` implements it.

    ``client`` is the address of the caller, whose changes are bounded by a token bucket (``TooManyRequests``). Every
    change is in force here when the call returns, and at the others within a round trip. A change of an instance that
    another living node owns is handed to that node; if it is dead, this node adopts the instance. ``NotFound``: nobody
    here knows that instance, or that check.
    """

    @property
    def view(self) -> RegistryView:
        """What can be read."""
        ...

    def register(
        self, service: str, instance_id: str, registration: object, *, client: str, keep_checks: bool = False
    ) -> InstanceSeen:
        """Register an instance (``ringkeep_core.services.Registration``), in place of one with the same id.

        The same definition again is a sign of life: it renews, keeps the states of the checks and changes no index.
        ``keep_checks``: checks that are there and not in this registration stay (Consul without
        ``replace-existing-checks``). Raises ``BadRequest``, ``TooManyRequests``.
        """
        ...

    def update_check(
        self, service: str, instance_id: str, check_id: str, status: str, output: str, *, client: str
    ) -> InstanceSeen:
        """Tell the state of one ttl or manual check; for a ttl check that is a renewal. ``check_id`` "": all ttl checks."""
        ...

    def put_check(self, service: str, instance_id: str, wish: object, *, client: str) -> InstanceSeen:
        """Add a check (``ringkeep_core.services.CheckWish``) to an instance, in place of one with the same id.

        With ``NODE_SERVICE`` and the node's own name it is a check of the whole node.
        """
        ...

    def drop_check(self, service: str, instance_id: str, check_id: str, *, client: str) -> None:
        """Take a check away. Nothing happens if there is none."""
        ...

    def deregister(self, service: str, instance_id: str, *, client: str) -> bool:
        """Remove an instance; return whether there was one."""
        ...

    async def wait(self, topic: str, index: int, *, timeout_s: float) -> int:
        """Return the index of ``topic``: at once if it is not ``index``, else when it changes or the time is up.

        Only changes of that very topic wake the caller. Raises ``Overloaded`` when too many wait already.
        """
        ...
