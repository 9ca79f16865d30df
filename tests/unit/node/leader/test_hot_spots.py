"""Heavy shards change places with light ones if people want it, a few an hour (placement.md, Load-aware swaps)."""

from msgspec.structs import replace

from ringkeep_core.placement.swaps import ShardLoad
from ringkeep_core.shardmap import Settings
from ringkeep_testing.plan_world import PlanWorld

ON = Settings(hot_spot_swaps=True, swaps_per_hour=2)


def _hot(settings: Settings) -> tuple[PlanWorld, list[int]]:
    """All heavy shards are led by n1, on a cluster where everybody holds everything."""
    world = PlanWorld.of(3, 24, settings)
    heavy = [number for number, it in enumerate(world.map.shards) if it.primary.storage == "n1"][:4]
    world.leader.learn_loads({n: ShardLoad(100.0 if n in heavy else 1.0) for n in range(24)}, now=world.now)
    return world, heavy


def _led_by_n1(world: PlanWorld, heavy: list[int]) -> int:
    return sum(1 for number in heavy if world.map.shards[number].primary.storage == "n1")


def test_heavy_primaries_spread_while_every_count_stays() -> None:
    world, heavy = _hot(ON)
    before = world.led()
    world.run(50.0)
    early = list(world.hand_overs)
    world.run(20.0)

    assert early == []
    assert _led_by_n1(world, heavy) == 2
    assert (world.led(), world.added) == (before, 0)
    assert {order.reason for _, order in world.hand_overs} == {"hot spots: heavy shards change places with light ones"}


def test_the_hours_budget_bounds_the_swaps_and_an_even_load_ends_them() -> None:
    world, _ = _hot(replace(ON, swaps_per_hour=1))
    world.run(1000.0)
    first = sum(world.moved.values())
    world.run(4000.0)
    second = sum(world.moved.values())
    world.run(20_000.0)

    assert (first, second) == (2, 4)
    assert sum(world.moved.values()) == 6


def test_nothing_is_swapped_unless_somebody_wants_it() -> None:
    world, heavy = _hot(Settings())
    world.run(4000.0)

    assert _led_by_n1(world, heavy) == 4
    assert world.hand_overs == []
