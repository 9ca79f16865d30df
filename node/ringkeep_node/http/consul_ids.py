"""Which instance is meant by what Consul's clients say: an id alone, of an instance or of one of its checks.

Our own paths name a service beside the id, and may give two services the same one. Nothing in what is registered tells
through which paths it came. An id that could mean several instances is therefore refused with their names: to take the
first would renew, or remove, what somebody else registered.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from ringkeep_core.errors import BadRequest, NotFound
from ringkeep_core.services import NODE_SERVICE, InstanceSeen
from ringkeep_node.machines.registry_view import RegistryView

SERVICE_MAINTENANCE: Final = "_service_maintenance:"
DEFAULT_CHECK: Final = "service:"
NAMED_MAX: Final = 3
"""So many names are in one sentence."""

Key = tuple[str, str]


def one_of(found: Collection[InstanceSeen], instance_id: str) -> InstanceSeen | None:
    """Return the only one of the instances that have an id; raise ``BadRequest`` if there are several."""
    if len(found) > 1:
        raise BadRequest(
            f"{len(found)} services have an instance {instance_id[:140]!r} ({_services(found)}): "
            "say which one by its own path, /v1/services/<service>/<id>"
        )
    return next(iter(found), None)


def instance_of(view: RegistryView, instance_id: str) -> InstanceSeen:
    """Return the instance with an id. Raises ``NotFound``, and ``BadRequest`` if several services have one."""
    seen = one_of(view.find(instance_id), instance_id)
    if seen is None:
        raise NotFound(f"unknown service ID {instance_id[:140]!r}")
    return seen


def check_is_free(view: RegistryView, service: str, instance_id: str) -> None:
    """Raise ``BadRequest`` if an instance would come to be that has its id in common with one of another service.

    Consul's agent would rename the other one, which is its own; here it may be anybody's.
    """
    if view.get(service, instance_id) is not None:
        return
    others = view.find(instance_id)
    if others:
        raise BadRequest(
            f"the ID {instance_id[:140]!r} is that of an instance of {_services(others)}: take another ID, or deregister "
            "that one first, or register at this service's own path, /v1/services/<service>/<id>"
        )


def key_of_check(view: RegistryView, check_id: str) -> Key | None:
    """Return which instance has a check: by the id's own word, else this node's own, else anybody's."""
    keys = _keys_by_word(view, check_id)
    if not keys:
        if any(check.id == check_id for check in view.me().checks):
            return NODE_SERVICE, view.me().name
        keys = [seen.instance.key for seen in view.owned() if seen.instance.check(check_id) is not None]
    if not keys:
        everything = (seen for name in view.services() for seen in view.instances(name))
        keys = [seen.instance.key for seen in everything if seen.instance.check(check_id) is not None]
    if len(keys) > 1:
        names = _shown([f"{service}/{instance_id}" for service, instance_id in keys])
        raise BadRequest(
            f"{len(keys)} instances have a check {check_id[:140]!r} ({names}): give their checks ids of their own, "
            "or say which one by its own path, /v1/services/<service>/<id>/renew"
        )
    return keys[0] if keys else None


def _keys_by_word(view: RegistryView, check_id: str) -> list[Key]:
    """Return the instances that have a check whose id was made of theirs: ``service:w1:2`` of ``w1`` or of ``w1:2``."""
    if not check_id.startswith((DEFAULT_CHECK, SERVICE_MAINTENANCE)):
        return []
    whole = check_id.partition(":")[2]
    found = [seen for name in (whole, whole.rpartition(":")[0]) if name for seen in view.find(name)]
    return [seen.instance.key for seen in found if seen.instance.check(check_id) is not None]


def _services(found: Collection[InstanceSeen]) -> str:
    return _shown(sorted(seen.instance.service for seen in found))


def _shown(names: list[str]) -> str:
    more = ["..."] if len(names) > NAMED_MAX else []
    return ", ".join([*(repr(name) for name in names[:NAMED_MAX]), *more])
