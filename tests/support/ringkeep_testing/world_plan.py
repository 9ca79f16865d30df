"""What one seed of the whole-cluster simulation draws: sizes, speeds, and how often each fault strikes (swarm testing)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from ringkeep_node.machines.leader import LeaderSettings
from ringkeep_node.machines.node import NodeSettings

VOTERS_OF = (0, 1, 2, 3, 3, 5, 5, 5)
"""How many of so many members vote."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Options of a run. Rates are faults per machine and second of the safety phase, times are in seconds."""

    nodes: int = 3
    shards: int = 16
    replication_factor: int = 3
    min_in_sync: int = 2
    safety_s: float = 8.0
    healing_s: float = 45.0
    serving_s: float = 4.0
    clients: int = 4
    documents: int = 10
    think_s: float = 0.05
    latency_s: float = 0.002
    sync_s: float = 0.003
    store_s: float = 0.003
    disk_bytes_per_s: float = 0.0
    link_bytes_per_s: float = 0.0
    """What a log's disk and each connection between two nodes carry a second; 0: bytes take no time."""
    kill_rate: float = 0.0
    power_cut_rate: float = 0.0
    pause_rate: float = 0.0
    lag_rate: float = 0.0
    hang_rate: float = 0.0
    slow_disk_rate: float = 0.0
    cut_rate: float = 0.0
    slow_link_rate: float = 0.0
    reset_rate: float = 0.0
    wipe_rate: float = 0.0
    roll_back_rate: float = 0.0
    rot_rate: float = 0.0
    clock_rate: float = 0.0
    datagram_loss: float = 0.0
    datagram_repeat: float = 0.0
    proposal_repeat: float = 0.0
    proposal_delay_s: float = 1.0
    zones: int = 0
    grace_s: float = 300.0
    nodes_max: int = 7
    join_rate: float = 0.0
    want_rate: float = 0.0
    restart_rate: float = 0.0
    rolling_rate: float = 0.0
    transfer_rate: float = 0.0
    meddle_rate: float = 0.0
    is_elastic: bool = False
    """Whether members come and go, so that the map must become what is wanted."""

    @property
    def voters(self) -> int:
        """How many of the members vote."""
        return VOTERS_OF[self.nodes]

    @property
    def copies(self) -> int:
        """How many copies of a shard there are when all is well."""
        return min(self.replication_factor, self.nodes)

    @staticmethod
    def drawn(seed: int) -> Plan:
        """Return the options of a seed: some runs are calm in one respect and wild in another."""
        rng = Random(seed)
        return Plan(
            nodes=rng.choice((1, 2, 3, 3, 3, 3, 4, 4, 5, 6, 7)),
            replication_factor=rng.choice((2, 3, 3, 3)),
            min_in_sync=rng.choice((1, 2, 2, 2)),
            think_s=rng.choice((0.03, 0.1)),
            latency_s=rng.choice((0.0005, 0.002, 0.01, 0.03)),
            sync_s=rng.choice((0.001, 0.005, 0.03)),
            store_s=rng.choice((0.001, 0.02, 0.2)),
            kill_rate=rng.choice((0.0, 0.05, 0.2)),
            power_cut_rate=rng.choice((0.0, 0.0, 0.15)),
            pause_rate=rng.choice((0.0, 0.0, 0.1)),
            lag_rate=rng.choice((0.0, 0.0, 0.05)),
            hang_rate=rng.choice((0.0, 0.0, 0.05)),
            slow_disk_rate=rng.choice((0.0, 0.0, 0.1)),
            cut_rate=rng.choice((0.0, 0.0, 0.05, 0.15)),
            slow_link_rate=rng.choice((0.0, 0.0, 0.1)),
            reset_rate=rng.choice((0.0, 0.0, 0.3)),
            wipe_rate=rng.choice((0.0, 0.0, 0.0, 0.05)),
            roll_back_rate=rng.choice((0.0, 0.0, 0.2)),
            clock_rate=rng.choice((0.0, 0.0, 0.2)),
            datagram_loss=rng.choice((0.0, 0.02, 0.2)),
            datagram_repeat=rng.choice((0.0, 0.05)),
            proposal_repeat=rng.choice((0.0, 0.1, 0.5)),
            proposal_delay_s=rng.choice((0.3, 3.0)),
            rot_rate=rng.choice((0.0, 0.0, 0.0, 0.3)),  # Drawn last: the other options of a seed stay what they were.
        )

    @staticmethod
    def elastic(seed: int) -> Plan:
        """Return the options of a seed in which members come and go, beside all the faults of ``drawn``."""
        rng = Random(seed * 31 + 7)
        return replace(
            Plan.drawn(seed),
            is_elastic=True,
            safety_s=rng.choice((6.0, 10.0)),
            healing_s=60.0,
            zones=rng.choice((0, 0, 2, 3)),
            grace_s=rng.choice((300.0, 300.0, 1.0, 0.0)),
            nodes=rng.choice((1, 2, 3, 3, 4, 5)),
            join_rate=rng.choice((0.1, 0.3, 0.6)),
            want_rate=rng.choice((0.2, 0.5, 1.5)),
            restart_rate=rng.choice((0.0, 0.1, 0.4)),
            rolling_rate=rng.choice((0.0, 0.0, 0.1)),
            transfer_rate=rng.choice((0.0, 0.2, 1.0)),
            meddle_rate=rng.choice((0.0, 0.0, 2.0)),
        )


def elastic_world_settings() -> NodeSettings:
    """Return settings under which a node that died gets primaries back within seconds: a run is too short to wait."""
    return NodeSettings(leader=LeaderSettings(guard_s=1.0, guard_max_s=4.0, window_s=20.0))
