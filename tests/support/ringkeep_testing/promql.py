"""Which metrics and labels a PromQL query speaks of: enough of its grammar to check queries against what there is.

A query is cut into words; strings and durations are left out. Whatever is neither a metric with its matchers, nor a label in
a clause, nor a function or keyword that is known here, is a mistake. That a query is one at all is for promtool to say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from msgspec import Struct

WORDS = frozenset(
    {
        *("sum", "min", "max", "count", "avg", "quantile", "topk", "absent", "clamp_min"),
        *("rate", "increase", "delta", "min_over_time", "max_over_time", "histogram_quantile"),
        *("and", "or", "unless", "by", "without", "on", "ignoring", "group_left", "group_right", "offset"),
    }
)
ADDED = frozenset({"namespace", "cluster", "job", "instance", "pod"})
"""Labels that Prometheus or its scrape configuration adds to every series."""

_CLAUSE = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"\b((?:ringkeep|process)[a-z0-9_:]*)\s*(\{[^}]*\})?")
_MATCHER = re.compile(r'([a-zA-Z_]\w*)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')
_DURATION = re.compile(r"\b(?:[0-9]+(?:ms|[smhdwy]))+\b|\$__\w+")


class Family(Struct, frozen=True):
    """A metric as it is exposed. A label with values takes no others."""

    kind: str
    labels: Mapping[str, Sequence[str]]

    def series(self, name: str) -> list[str]:
        """Return the names under which it is asked for."""
        return [f"{name}{ending}" for ending in ("_bucket", "_count", "_sum")] if self.kind == "histogram" else [name]


def mistakes(query: str, families: Mapping[str, Family], recorded: Sequence[str] = ()) -> list[str]:
    """Return what a query names that does not exist: metrics, labels, values of labels, functions."""
    by_series = {series: family for name, family in families.items() for series in family.series(name)}
    wrong: list[str] = []
    known = set(ADDED)

    def selector(match: re.Match[str]) -> str:
        name, matchers = match[1], match[2] or ""
        family = by_series.get(name)
        if family is None:
            if name not in recorded:
                wrong.append(name)
            return " "
        labels = {**family.labels, **({"le": ()} if name.endswith("_bucket") else {})}
        known.update(labels)
        for label, operator, value in _MATCHER.findall(matchers):
            values = labels.get(label)
            if values is None:
                if label not in ADDED:
                    wrong.append(f"{name}{{{label}}}")
            elif values and not (
                value in values if operator in ("=", "!=") else any(re.fullmatch(value, one) for one in values)
            ):
                wrong.append(f"{name}{{{label}{operator}{value}}}")
        return " "

    clauses: list[str] = []

    def clause(match: re.Match[str]) -> str:
        clauses.extend(re.findall(r"\w+", match[1]))
        return " "

    rest = _SELECTOR.sub(selector, _CLAUSE.sub(clause, query))
    rest = _DURATION.sub(" ", rest)
    wrong += [label for label in clauses if label not in known]
    return wrong + [word for word in re.findall(r"[A-Za-z_][\w:]*", rest) if word not in WORDS]
