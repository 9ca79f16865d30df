"""Which copies start next: streams per node and in all, many shards a stream, the endangered first (L10)."""

from ringkeep_core.placement import PlacementSettings
from ringkeep_core.placement.model import MIB
from ringkeep_node.machines.shard_work import MOVES, Work
from ringkeep_node.machines.streams import Streams


def _work(shard: int, primary: str, lacks: str, *, level: int = MOVES, streams: str = "") -> Work:
    return Work(
        shard=shard, primary=primary, urgency=(level, shard), lacks=tuple(lacks.split()), streams=tuple(streams.split())
    )


def _chosen(works: list[Work], sizes: dict[int, int] | None = None, **limits: int) -> list[tuple[int, str]]:
    settings = PlacementSettings(
        streams_in_per_node=limits.get("each", 1),
        streams_out_per_node=limits.get("each", 1),
        streams_max=limits.get("all", 16),
    )
    waiting = sorted((work for work in works if work.lacks), key=lambda work: work.urgency)
    chosen = Streams(works, sizes or {}, settings).choose(waiting, shards_max=limits.get("most", 1000))
    return [(work.shard, node) for work, node in chosen]


def test_one_stream_carries_up_to_64_shards() -> None:
    assert _chosen([_work(number, "a", "x") for number in range(100)]) == [(number, "x") for number in range(64)]


def test_one_stream_carries_up_to_64_mebibytes_but_a_larger_shard_travels_alone() -> None:
    works = [_work(number, "a", "x") for number in range(5)]

    assert _chosen(works, dict.fromkeys(range(5), 30 * MIB)) == [(0, "x"), (1, "x")]
    assert _chosen(works, {0: 100 * MIB, 1: MIB}) == [(0, "x")]


def test_a_node_sends_and_receives_one_stream_and_others_go_side_by_side() -> None:
    works = [_work(0, "a", "x"), _work(1, "b", "x"), _work(2, "a", "y"), _work(3, "b", "y"), _work(4, "c", "z")]

    assert _chosen(works) == [(0, "x"), (3, "y"), (4, "z")]
    assert _chosen(works, each=2) == [(0, "x"), (1, "x"), (2, "y"), (3, "y"), (4, "z")]
    assert _chosen(works, all=2) == [(0, "x"), (3, "y")]


def test_a_shard_whose_first_copy_finds_no_stream_starts_another_one() -> None:
    assert _chosen([_work(0, "a", "x"), _work(1, "b", "x y")]) == [(0, "x"), (1, "y")]


def test_a_stream_under_way_is_filled_up_when_half_of_it_has_arrived() -> None:
    under_way = [_work(number, "a", "", streams="x") for number in range(40)]

    assert _chosen([*under_way, _work(50, "a", "x")]) == []
    assert _chosen([*under_way[:32], _work(50, "a", "x")]) == [(50, "x")]


def test_the_endangered_go_first_and_keep_others_from_filling_up_what_they_wait_for() -> None:
    under_way = _work(0, "a", "", streams="x")
    move, endangered = _work(1, "a", "x"), _work(2, "b", "x", level=1)

    assert _chosen([_work(1, "a", "x"), endangered]) == [(2, "x")]
    assert _chosen([under_way, move]) == [(1, "x")]
    assert _chosen([under_way, move, endangered]) == []
    assert _chosen([under_way, move, endangered, _work(3, "c", "y")]) == [(3, "y")]


def test_shards_of_one_danger_share_a_stream_under_way() -> None:
    under_way = _work(0, "a", "", streams="x")

    assert _chosen([under_way, _work(1, "b", "x", level=1), _work(2, "a", "x", level=1)]) == [(2, "x")]
