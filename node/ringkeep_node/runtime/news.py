"""What a node tells of itself while it runs: the history that people ask for, and one log line for each entry of it.

    step --History--> Event --> log line        refusal --Refusals: is it news?--> Event, log line

A refusal that repeats itself is told once a minute, with how often it was repeated, and only so many are told at all:
whoever dials us with nonsense must not fill the log or push the history out.
"""

from __future__ import annotations

from typing import Any, Final

import structlog

from ringkeep_core.mapchanges import NewGeneration, SetWanted
from ringkeep_core.plans import opinion_of
from ringkeep_core.shardmap import GENERATION_STEP, ShardMap
from ringkeep_node.machines.node import Node, NodeStep
from ringkeep_node.runtime.history import History
from ringkeep_node.runtime.reports import Event

REPEAT_S: Final = 60.0
TOLD_MAX: Final = 20
"""Refusals told in ``REPEAT_S``, whatever they say."""

logger: Any = structlog.get_logger()


class Refusals:
    """Decides which refusals are told."""

    def __init__(self) -> None:
        self._told: dict[tuple[str, str], float] = {}
        self._untold: dict[tuple[str, str], int] = {}
        self.total = 0

    def tell(self, address: str, reason: str, at: float) -> int | None:
        """Return None if this one is not to be told, else how many like it were not told since the last one."""
        self.total += 1
        self._told = {key: since for key, since in self._told.items() if at < since + REPEAT_S}
        key = (address, reason)
        if key in self._told or len(self._told) >= TOLD_MAX:
            if key in self._untold or len(self._untold) < TOLD_MAX:
                self._untold[key] = self._untold.get(key, 0) + 1
            return None
        self._told[key] = at
        return self._untold.pop(key, 0)


class News:
    """History and log of one node. Wall times are in unix seconds."""

    def __init__(self) -> None:
        self.history = History()
        self.refusals = Refusals()
        self._cluster = ""
        self._has_left = False
        self._map: ShardMap | None = None
        self.opinion: tuple[int, str] = (0, "none")
        """What became of the target that the author of a wanted state expected: the revision, and how it compared."""
        self._leader: tuple[str | None, int] = (None, 0)
        self._elected: tuple[str, int] = ("", 0)

    def joined(self, cluster_id: str) -> None:
        """The node belongs to a cluster: every line from now on names it."""
        self._cluster = cluster_id

    def stepped(self, node: Node, step: NodeStep, at: float) -> None:
        """Take in what a step changed."""
        before = self._map
        if step.map_changes or step.member_changes:
            self._changed(step, at)
        self._map = node.held.map
        if before is not self._map:
            self._look_at_generation(before, step, at)
        if node.has_left and not self._has_left:
            self._has_left = True
            sentence = node.registration.has_left_text
            self.history.left(sentence, at)
            logger.warning("node_left", cluster=self._cluster, reason=sentence)
        leader = (node.raft.leader, node.raft.term)
        if leader != self._leader:
            self._leader = leader
            self._leader_changed(node, at)

    def _changed(self, step: NodeStep, at: float) -> None:
        self._judge_opinions(step)
        for event in self.history.stepped(step, at, held=self._map):
            if event.kind == "member":
                logger.info("member_changed", cluster=self._cluster, **event.fields)
            else:
                self._map_changed(event)

    def _look_at_generation(self, before: ShardMap | None, step: NodeStep, at: float) -> None:
        """Tell that the map of a later generation came as a whole; the entry that begins one is told as a change."""
        after = self._map
        if before is None or after is None or after.generation == before.generation:
            return
        if not any(isinstance(change, NewGeneration) for change, _, _ in step.map_changes):
            self.history.followed(before, after, at)
        logger.warning(
            "generation_changed",
            cluster=self._cluster,
            generation=after.generation,
            map_version=after.version,
            former_version=before.version,
        )

    def _judge_opinions(self, step: NodeStep) -> None:
        """Compare while the map is still the one that the author may have seen: every move changes the digest."""
        version = self._map.version if self._map is not None else 0
        for change, after, applied in step.map_changes:
            if isinstance(change, SetWanted) and applied.outcomes == (None,) and after.version != version:
                self.opinion = (change.wanted.revision, opinion_of(after, change.wanted, version))
            version = after.version

    def refused(self, address: str, reason: str, at: float) -> None:
        """Somebody was refused."""
        repeated = self.refusals.tell(address, reason, at)
        if repeated is not None:
            self.history.stranger(address, reason, repeated, at)
            logger.warning("peer_refused", cluster=self._cluster, peer=address, reason=reason, repeated=repeated)

    def _map_changed(self, event: Event) -> None:
        version = int(event.fields["version"])
        fields = {name: value for name, value in event.fields.items() if name in ("shards", "member", "detail")}
        logger.info(
            "map_changed",
            cluster=self._cluster,
            map_version=version,
            index=version % GENERATION_STEP,
            kind=event.kind,
            text=event.text,
            **fields,
        )

    def _leader_changed(self, node: Node, at: float) -> None:
        storage, term = self._leader
        held = node.held.map
        # The first leader of a cluster is there before its map is held everywhere; gossip may know the name already.
        known = held.members.get(storage or "") if held is not None else node.swim.members.get(storage or "")
        name = known.name if known is not None else storage or ""
        if storage is not None and self._elected != (storage, term):
            # A voter that has not heard of the leader for a moment hears of the same one again: that is no election.
            self._elected = (storage, term)
            self.history.leads(name, term, at)
        logger.info("leader_changed", cluster=self._cluster, term=term, leader=name)
