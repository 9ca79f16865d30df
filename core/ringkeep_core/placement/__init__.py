"""Which nodes should hold which shards, and the safe order in which to get there.

    target          the map we want, from the map we have and the members wanted
    initial         the first map of a cluster
    primary_moves   only primaries, back to balance among the in-sync members there are
    steps           the ordered, safe steps from one map to the other
    forecast        what these steps are expected to cost
    load_swaps      heavy shards for light ones, once all else is in place

Pure functions: the same input gives the same output on every node and in the operator. Source: placement.md.
"""

from ringkeep_core.placement.model import (
    NO_LEADER,
    NO_NODES,
    QUOTA,
    TOO_FEW_NODES,
    ZONE_RULE,
    AddLearner,
    Assignment,
    AwaitInSync,
    Candidate,
    Forecast,
    MovePrimary,
    NodeState,
    PlacementSettings,
    PrimaryMove,
    RemoveCopy,
    ShardChange,
    ShardCopies,
    Step,
    Target,
)
from ringkeep_core.placement.planner import initial, primary_moves, target
from ringkeep_core.placement.stepping import forecast, steps
from ringkeep_core.placement.swaps import ShardLoad, Swap, SwapSettings, load_swaps, swapped

__all__ = [
    "NO_LEADER",
    "NO_NODES",
    "QUOTA",
    "TOO_FEW_NODES",
    "ZONE_RULE",
    "AddLearner",
    "Assignment",
    "AwaitInSync",
    "Candidate",
    "Forecast",
    "MovePrimary",
    "NodeState",
    "PlacementSettings",
    "PrimaryMove",
    "RemoveCopy",
    "ShardChange",
    "ShardCopies",
    "ShardLoad",
    "Step",
    "Swap",
    "SwapSettings",
    "Target",
    "forecast",
    "initial",
    "load_swaps",
    "primary_moves",
    "steps",
    "swapped",
    "target",
]
