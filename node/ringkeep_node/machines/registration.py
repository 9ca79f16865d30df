"""Whether the map names this boot of this node, and what follows from it: propose the boot, serve, idle or end.

    unregistered --boot proposed, applied--> registered --leave applied--> left: idle until the process is stopped
         ^  `--stale_name: newer map, then again                `--name given to another disk--> end
         `-- own storage has left, rolled back, ... --> end, with a sentence

A boot names the storage that has the name in the held map. If that is no longer so, the map here is older than the
leader's: nothing is proposed before it has caught up. Who left stays up and says so, because an orchestrator that sees a
process end starts it again; a start in a directory that has left ends at once.

Source: replication.md, rules 0 and 8, "Leave"; counterexamples.md S12.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ringkeep_core.mapchanges import Boot
from ringkeep_core.shardmap import ShardMap
from ringkeep_node.machines.control import NO_PRIMARY, OUTCOME_UNKNOWN, Control
from ringkeep_node.machines.messages import ProposeOutcome

BOOT_TIMEOUT_S = 10.0
RETRIED = (NO_PRIMARY, OUTCOME_UNKNOWN)
STALE_NAME = "stale_name"


class Registration:
    """See the module. ``fatal`` says why the process must end, "" while it need not."""

    def __init__(
        self, *, name: str, storage: str, boot: str, cluster_id: str, control: Control, boot_for: Callable[[str], Boot]
    ) -> None:
        """``boot_for`` returns the change that registers this boot, given the storage id that has the name now.

        ``is_gone`` says that the cluster told this process so: the own storage id has left for good, which nothing takes
        back. That a map lacks the own name or storage id says nothing of the kind.
        """
        self.fatal = ""
        self.has_left = False
        self.is_gone = False
        self._name, self._storage, self._boot = name, storage, boot
        self._cluster_id = cluster_id
        self._control = control
        self._boot_for = boot_for
        self._was_registered = False
        self._number: int | None = None
        self._version_needed = 0

    @property
    def registered(self) -> bool:
        """Whether the held map names this boot."""
        held = self._control.held.map
        return held is not None and held.is_registered(self._storage, self._boot)

    @property
    def has_left_text(self) -> str:
        """What people are told by a node that has left."""
        return f"{self._name} has left cluster {self._cluster_id} for good; empty its directory to use it again"

    def map_held(self, held: ShardMap) -> None:
        """Look for this node in a newer map."""
        if held.is_registered(self._storage, self._boot):
            self._was_registered = True
        elif self._storage in held.left and not self.has_left:
            self.is_gone = True
            if self._was_registered and self._name not in held.by_name:
                self.has_left = True
            else:
                self.fatal = self.has_left_text

    def housekeep(self, *, now: float) -> None:
        """Propose the boot unless it is registered, on its way or hopeless with the map held here."""
        held = self._control.held.map
        if held is None or self.has_left or self.registered or self._number is not None:
            return
        if held.version < self._version_needed:
            self._control.look_around(now=now, pause_s=0.0)
            return
        former = held.by_name.get(self._name)
        change = self._boot_for(former.storage if former is not None else "")
        self._number = self._control.propose_tracked(change, deadline=now + BOOT_TIMEOUT_S, now=now)

    def settle(self, outcomes: Sequence[tuple[int, ProposeOutcome]]) -> list[tuple[int, ProposeOutcome]]:
        """Take the outcome of the own boot; return the others."""
        others = []
        for number, outcome in outcomes:
            if number != self._number:
                others.append((number, outcome))
                continue
            self._number = None
            if outcome.code == STALE_NAME:
                self._version_needed = outcome.version
            elif outcome.code == "left":
                self.is_gone = True
                self.fatal = self.has_left_text
            elif outcome.code and outcome.code not in RETRIED:
                self.fatal = f"this node was refused by the cluster: {outcome.detail}"
        return others
