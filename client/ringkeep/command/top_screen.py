"""What `ringkeep top` draws: one picture of a cluster as lines of a given width. Pure.

headline                                              worst finding first, as `ringkeep status` says it
leader, map, members, shards
what goes on by itself, with progress and time left
NODE  STATE  COPIES ...                               one row a node, then all together
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec
from rich.text import Text

from ringkeep.measures import Figures
from ringkeep.watching import NodeNow, Picture
from ringkeep_core.summary import Finding, Progress, Severity, Summary
from ringkeep_core.summary.text import shard_states_of
from ringkeep_core.wording import capital, many, size, span

SORTINGS = ("name", "requests", "p99", "data")
MOVES_MAX = 4
FOOT_LINES = 4
"""The title of the table, its last row, a blank line, the keys."""
WIDE = 119
"""From this width on all columns have room."""
STYLES = {Severity.OK: "bold green", Severity.DEGRADED: "bold yellow", Severity.UNAVAILABLE: "bold red"}
STATE_STYLES = {
    "alive": "green",
    "joining": "cyan",
    "draining": "cyan",
    "suspect": "yellow",
    "no answer": "yellow",
    "dead": "red",
    "left": "red",
}


class Choice(msgspec.Struct, frozen=True):
    """What the person at the terminal has chosen: by what rows are sorted, and how many are scrolled past."""

    sorting: str = SORTINGS[0]
    skipped: int = 0

    def after(self, key: str, rows: int) -> Choice:
        """Return the choice after a key: ``sort``, ``up`` or ``down``; others change nothing."""
        if key == "sort":
            return Choice(SORTINGS[(SORTINGS.index(self.sorting) + 1) % len(SORTINGS)])
        step = {"up": -1, "down": 1}.get(key, 0)
        return Choice(self.sorting, min(max(0, rows - 1), max(0, self.skipped + step)))


class _Column(msgspec.Struct, frozen=True):
    """A column: its title, its width, what it shows of a node, and whether only a wide screen has it."""

    title: str
    width: int
    cell: Callable[[NodeNow], str]
    wide: bool = False


def rate(per_s: float | None) -> str:
    """Return a rate for a column: "-" if it is not known."""
    if per_s is None:
        return "-"
    return f"{per_s:.1f}" if 0 < per_s < 10 else f"{per_s:,.0f}"


def lasting(seconds: float | None) -> str:
    """Return a short time for a column: "1.9ms", "27ms", "1.2s"."""
    if seconds is None:
        return "-"
    milliseconds = seconds * 1000
    if milliseconds < 9.95:
        return f"{milliseconds:.1f}ms"
    return f"{milliseconds:.0f}ms" if milliseconds < 999.5 else f"{seconds:.1f}s"


def bytes_of(count: float | None) -> str:
    """Return a number of bytes for a column."""
    return "-" if count is None else size(int(count))


def state_of(node: NodeNow) -> str:
    """Return in a word how a node is; that it does not answer us goes before that others call it alive."""
    if node.state == "alive" and not node.answers:
        return "no answer"
    return "draining" if node.state == "alive" and node.draining else node.state


_COLUMNS = (
    _Column("COPIES", 6, lambda it: f"{it.copies}"),
    _Column("PRIM", 5, lambda it: f"{it.primaries}"),
    _Column("REQ/S", 7, lambda it: rate(it.figures.requests_per_s)),
    _Column("WRITES/S", 8, lambda it: rate(it.figures.writes_per_s), wide=True),
    _Column("READS/S", 7, lambda it: rate(it.figures.reads_per_s), wide=True),
    _Column("P50", 6, lambda it: lasting(it.figures.p50_s)),
    _Column("P99", 6, lambda it: lasting(it.figures.p99_s)),
    _Column("FSYNC", 6, lambda it: lasting(it.figures.fsync_s)),
    _Column("LAG", 6, lambda it: lasting(it.figures.loop_lag_s)),
    _Column("DATA", 10, lambda it: bytes_of(it.figures.copy_bytes)),
    _Column("LOG", 10, lambda it: bytes_of(it.figures.log_bytes), wide=True),
    _Column("FREE", 10, lambda it: bytes_of(it.figures.disk_free_bytes), wide=True),
)
_NAME_WIDTH, _STATE_WIDTH = 10, 9


def ordered(nodes: Sequence[NodeNow], sorting: str) -> list[NodeNow]:
    """Return the nodes in the order of a sorting: names as people count, everything else the greatest first."""
    by_name = sorted(nodes, key=lambda node: _counted(node.name))
    of: dict[str, Callable[[Figures], float | None]] = {
        "requests": lambda it: it.requests_per_s,
        "p99": lambda it: it.p99_s,
        "data": lambda it: it.copy_bytes,
    }
    if sorting not in of:
        return by_name
    return sorted(by_name, key=lambda node: -(of[sorting](node.figures) or 0.0))


def _counted(name: str) -> tuple[str, int]:
    digits = len(name) - len(name.rstrip("0123456789"))
    return (name[: len(name) - digits], int(name[-digits:])) if digits else (name, -1)


# --- lines -------------------------------------------------------------------------------------------------------


def drawn(picture: Picture, choice: Choice, *, width: int, height: int, every_s: float) -> list[Text]:
    """Return the lines of a screen of this size, the last one with the keys."""
    top = [*_head(picture), Text()]
    title, *rows, whole = _table(picture, choice.sorting, width=width, name_width=_NAME_WIDTH) or [Text(), Text()]
    room = max(1, height - len(top) - FOOT_LINES)
    skipped = min(choice.skipped, max(0, len(rows) - room))
    shown = [title, *rows[skipped : skipped + room], whole]
    hidden = len(rows) - min(len(rows), room)
    more = f"   up/down scroll, {hidden} hidden" if hidden > 0 else ""
    keys = Text(f"q quit   s sort: {choice.sorting}{more}   every {every_s:g} s", style="dim")
    lines = [*top, *shown, Text(), keys]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def plain(picture: Picture, sorting: str = SORTINGS[0]) -> list[str]:
    """Return a picture as lines without control codes, for a pipe: every column, nothing cut off."""
    at = datetime.fromtimestamp(picture.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    name_width = max([_NAME_WIDTH, *(len(node.name) + 1 for node in picture.nodes)])
    head, *others = (line.plain for line in _head(picture))
    rows = [line.plain.rstrip() for line in _table(picture, sorting, width=WIDE, name_width=name_width)]
    return [f"{at} {head}", *others, *rows]


def _head(picture: Picture) -> list[Text]:
    summary = picture.summary
    if summary is None:
        if picture.problem:
            return [Text(f"{capital(picture.problem)}.", style=STYLES[Severity.UNAVAILABLE])]
        return [Text(f"{many(len(picture.nodes), 'member')}; the asked node cannot say how the cluster is.")]
    lines = [Text(summary.headline, style=STYLES[summary.severity]), Text(_facts(summary))]
    return lines + [Text(move, style="cyan") for move in _moves(summary)[:MOVES_MAX]]


def _facts(summary: Summary) -> str:
    led = f"leader {summary.leader} in term {summary.term}" if summary.leader else "no leader"
    members, shards = summary.members, shard_states_of(summary.shards)
    told = [", ".join(f"{count} {state}" for state, count in sorted(counts.items())) for counts in (members, shards)]
    return f"{led}   members {told[0]}   shards {told[1]}"


def _moves(summary: Summary) -> list[str]:
    """Return what goes on, once each: a drain and the plan that carries it out have the same progress."""
    told: dict[Progress, str] = {}
    for finding in summary.findings:
        if finding.progress is not None:
            told.setdefault(finding.progress, _move(finding, finding.progress))
    return list(told.values())


def _move(finding: Finding, progress: Progress) -> str:
    parts = [f"{progress.done:,} of {progress.total:,} copies"] if progress.done and finding.kind != "plan" else []
    parts += [f"{rate(progress.per_s)}/s"] if progress.per_s is not None else []
    parts += [f"{span(progress.left_s)} left"] if progress.left_s is not None else []
    return ": ".join(filter(None, (capital(finding.what), ", ".join(parts))))


def _table(picture: Picture, sorting: str, *, width: int, name_width: int) -> list[Text]:
    """Return the title, a row for each node and one for all together; nothing if there is no node."""
    if not picture.nodes:
        return []
    columns = [column for column in _COLUMNS if not column.wide or width >= WIDE]
    titles = " ".join(f"{column.title:>{column.width}}" for column in columns)
    lines = [Text(f"{'NODE':<{name_width}} {'STATE':<{_STATE_WIDTH}} {titles}", style="bold")]
    for node in ordered(picture.nodes, sorting):
        name = f"{node.name}*" if node.leads else node.name
        state = state_of(node)
        line = Text(f"{_cut(name, name_width):<{name_width}} ")
        line.append(f"{state:<{_STATE_WIDTH}} ", style=STATE_STYLES.get(state, ""))
        lines.append(line.append(_cells(columns, node)))
    whole = NodeNow(
        name="all",
        state="",
        copies=sum(node.copies for node in picture.nodes),
        primaries=sum(node.primaries for node in picture.nodes),
        figures=picture.total,
    )
    lines.append(Text(f"{'all':<{name_width}} {'':<{_STATE_WIDTH}} {_cells(columns, whole)}", style="bold"))
    return lines


def _cells(columns: Sequence[_Column], node: NodeNow) -> str:
    return " ".join(f"{column.cell(node):>{column.width}}" for column in columns)


def _cut(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 1] + "…"
