"""What may go wrong in one run of the shard simulation, drawn from its seed."""

from __future__ import annotations

from random import Random


class Faults:
    """Probabilities of one run, drawn from its seed; ``none`` is a healthy network."""

    def __init__(self, random: Random | None) -> None:
        self.loss = self.repeat = self.reorder = 0.0
        self.delay_s = 0.002
        self.proposal_delay_s = 0.01
        self.sync_s = 0.004
        self.store_s = 0.003
        if random is not None:
            self.loss = random.choice([0.0, 0.0, 0.02, 0.1])
            self.repeat = random.choice([0.0, 0.02, 0.1])
            self.reorder = random.choice([0.0, 0.05, 0.3])
            self.delay_s = random.choice([0.001, 0.005, 0.03])
            self.proposal_delay_s = random.choice([0.01, 0.1, 1.0])
            self.sync_s = random.choice([0.002, 0.01, 0.1])
            self.store_s = random.choice([0.001, 0.05, 0.5])
