"""What the objects of a cluster are called, and by which labels they are found.

    demo          StatefulSet, client Service, ServiceAccount, PodDisruptionBudget, NetworkPolicy, ServiceMonitor
    demo-nodes    headless Service      demo-admin      Secret         demo-shard-map   ConfigMap
    demo-gateway  StatefulSet of the gateways           demo-0, data-demo-0, demo-gateway-0: pods and volumes by ordinal

A pod has the name of its member. Names and selectors never change: the API server lets none of them be changed.
"""

from __future__ import annotations

from dataclasses import dataclass

from ringkeep_core.resource import GROUP

CLUSTER_LABEL = f"{GROUP}/cluster"
INSTANCE_LABEL = "app.kubernetes.io/instance"
COMPONENT_LABEL = "app.kubernetes.io/component"
NODE, GATEWAY = "node", "gateway"
MANAGED_BY = "ringkeep-operator"

API_PORT, PEER_PORT = 8080, 7400
TOKEN_KEY = "token"  # noqa: S105 - the key's name, not a token
DATA_CLAIM = "data"


@dataclass(frozen=True, slots=True)
class Group:
    """The pods of one StatefulSet: the members that hold data, or the gateways."""

    component: str
    set_name: str

    def member(self, ordinal: int) -> str:
        """Return the name of a member, which is its pod's name too."""
        return f"{self.set_name}-{ordinal}"

    def ordinal(self, name: str) -> int | None:
        """Return the ordinal of one of our members, or None for any other name."""
        prefix, dash, digits = name.rpartition("-")
        # A leading zero would give two names to one ordinal.
        is_ours = prefix == self.set_name and bool(dash) and digits.isdecimal() and str(int(digits)) == digits
        return int(digits) if is_ours else None


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one cluster's objects."""

    cluster: str
    namespace: str

    @property
    def nodes(self) -> Group:
        """The members that hold data."""
        return Group(NODE, self.cluster)

    @property
    def gateways(self) -> Group:
        """The members of weight 0."""
        return Group(GATEWAY, f"{self.cluster}-gateway")

    @property
    def headless(self) -> str:
        """The Service that gives each pod a name."""
        return f"{self.cluster}-nodes"

    @property
    def secret(self) -> str:
        """The Secret with the administration token."""
        return f"{self.cluster}-admin"

    @property
    def services_secret(self) -> str:
        """Return the name of the Secret that people may make: what changes of registered services must show."""
        return f"{self.cluster}-services"

    @property
    def shard_map(self) -> str:
        """The ConfigMap with the map."""
        return f"{self.cluster}-shard-map"

    def claim(self, ordinal: int) -> str:
        """Return the name of a member's volume."""
        return f"{DATA_CLAIM}-{self.cluster}-{ordinal}"

    def all(self) -> tuple[tuple[str, str], ...]:
        """Return (kind, name) of everything that this cluster may ever need."""
        return (
            ("ServiceAccount", self.cluster),
            ("Secret", self.secret),
            ("Service", self.headless),
            ("Service", self.cluster),
            ("StatefulSet", self.cluster),
            ("StatefulSet", self.gateways.set_name),
            ("PodDisruptionBudget", self.cluster),
            ("ConfigMap", self.shard_map),
            ("NetworkPolicy", self.cluster),
            ("ServiceMonitor", self.cluster),
        )


def labels_of(cluster: str, component: str) -> dict[str, str]:
    """Return the labels of an object or pod of ours."""
    return {
        "app.kubernetes.io/name": "ringkeep",
        INSTANCE_LABEL: cluster,
        "app.kubernetes.io/managed-by": MANAGED_BY,
        COMPONENT_LABEL: component,
        CLUSTER_LABEL: cluster,
    }


def selector_of(cluster: str, component: str = "") -> dict[str, str]:
    """Return by which labels pods are selected; of both groups if no component is named."""
    selector = {CLUSTER_LABEL: cluster}
    return {**selector, COMPONENT_LABEL: component} if component else selector


def selector_text(cluster: str) -> str:
    """Return the selector of the pods that ``spec.replicas`` counts, as the scale subresource shows it."""
    return ",".join(f"{key}={value}" for key, value in sorted(selector_of(cluster, NODE).items()))
