"""What the operator's world is made of: disks, claims and pods as they are, not as they are seen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Disk:
    """What a volume holds. ``listed``: whether its storage id ever was in the wanted state, and so may have data."""

    storage: str
    cluster_id: str = ""
    listed: bool = False


@dataclass
class Claim:
    """A PersistentVolumeClaim."""

    uid: str
    disk: Disk
    phase: str = "Bound"
    node: str = ""
    is_deleting: bool = False
    requested: int = 1 << 30
    owners: frozenset[str] = frozenset()


@dataclass
class Pod:
    """A pod; ``hangs``: its node does nothing while the kubelet calls it fine."""

    uid: str
    revision: str
    image: str
    node: str
    disk: Disk
    since: float
    boot: str = ""
    is_deleting: bool = False
    hangs: bool = False
    is_told: bool = False

    @property
    def starts(self) -> bool:
        """Whether its image can be had."""
        return "bad" not in self.image
