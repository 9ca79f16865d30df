"""What the registry does for whoever translates requests."""

from __future__ import annotations

from typing import Protocol

from ringkeep_core.services import CheckWish, InstanceSeen, Registration
from ringkeep_node.machines.registry_view import RegistryView


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
        self, service: str, instance_id: str, registration: Registration, *, client: str, keep_checks: bool = False
    ) -> InstanceSeen:
        """Register an instance (``ringkeep_core.services.Registration``), in place of one with the same id.

        The same definition again is a sign of life: it renews, keeps the states of the checks and changes no index.
        ``keep_checks``: checks that are there and not in this registration stay (Consul without
        ``replace-existing-checks``). Raises ``BadRequest``, ``TooManyRequests``.
        """
        ...

    def update_check(
        self, service: str, instance_id: str, check_id: str, status: str, output: str, *, client: str
    ) -> None:
        """Tell the state of one ttl or manual check; for a ttl check that is a renewal. ``check_id`` "": all ttl checks."""
        ...

    def put_check(self, service: str, instance_id: str, wish: CheckWish, *, client: str) -> None:
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
