"""What a request of Consul's clients says in its query: which rows, how fresh, and how long to wait for a change.

    ?index=7&wait=30s      answer when the index is not 7 any more, or after 30 s (and up to a sixteenth more)
    ?tag=a&tag=b&passing   only rows with all the tags, only what passes
    ?stale, ?consistent    taken, and the answer says what it is (``effective``): every node answers from its memory

Parameters that are not listed in docs/discovery-consul.md are ignored, as Consul does: clients of every age send their own.
What would change the meaning of an answer and is not supported is refused.
"""

from __future__ import annotations

import re

from msgspec import Struct

from ringkeep_core.errors import BadRequest
from ringkeep_node.http.routing import decoded

WAIT_DEFAULT_S = 300.0
WAIT_MAX_S = 600.0
JITTER = 1 / 16
"""Of the wait, at most: clients that asked together should not come back together."""
PARAMETERS_MAX = 100
INDEX_DIGITS_MAX = 18
EFFECTIVE_CONSISTENCY = "stale"
"""What every answer is: from the memory of the node that was asked, which hears of changes by gossip."""

_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,12})?|\.[0-9]{1,12})(ns|us|µs|μs|ms|s|m|h)")
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


def duration_s(text: str, what: str) -> float:
    """Return a duration as Go writes it, ``10s``, ``5m``, ``1h30m`` or ``120000ms``, in seconds. Raises ``BadRequest``."""
    if text in ("0", ""):
        return 0.0
    position, seconds = 0, 0.0
    while position < len(text) <= 60:
        part = _PART.match(text, position)
        if part is None:
            break
        seconds += float(part[1]) * _UNITS_S[part[2]]
        position = part.end()
    if position != len(text):
        raise BadRequest(f"{what} is a duration like 10s, 5m or 120000ms, not {text[:60]!r}")
    return seconds


def is_true(text: str, what: str) -> bool:
    """Return a switch as Go reads it. Raises ``BadRequest``."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise BadRequest(f"{what} is true or false, not {text[:50]!r}")


class Query(Struct, frozen=True):
    """A query, checked. ``index`` 0 and ``hash`` "": answer at once."""

    tags: tuple[str, ...] = ()
    node_meta: tuple[tuple[str, str], ...] = ()
    is_passing: bool = False
    index: int = 0
    hash: str = ""
    wait_s: float = WAIT_DEFAULT_S
    is_cached: bool = False
    token: str = ""
    note: str = ""
    reason: str = ""
    enable: bool | None = None
    replaces_checks: bool = False
    is_wan: bool = False

    @property
    def filters(self) -> tuple[object, ...]:
        """What chooses the rows: equal for queries with equal answers."""
        return self.tags, self.node_meta, self.is_passing


def values_of(query: str) -> dict[str, list[str]]:
    """Return every parameter with all its values, decoded as a form is. Raises ``BadRequest``."""
    found: dict[str, list[str]] = {}
    parts = query.split("&")
    if len(parts) > PARAMETERS_MAX:
        raise BadRequest(f"a query has at most {PARAMETERS_MAX} parameters, not {len(parts)}")
    for part in parts:
        if part:
            name, _, value = part.partition("=")
            found.setdefault(decoded(name.replace("+", " "), "query"), []).append(
                decoded(value.replace("+", " "), "query")
            )
    return found


def query_of(text: str, *, datacenter: str) -> Query:
    """Return what a query asks for; raise ``BadRequest`` with one sentence if it cannot be answered as it is meant."""
    values = values_of(text)
    last = {name: given[-1] for name, given in values.items()}
    _refuse_unsupported(last, datacenter)
    wait_s = duration_s(last.get("wait", ""), "wait")
    return Query(
        tags=tuple(tag for tag in values.get("tag", ()) if tag),
        node_meta=tuple(_pair(pair) for pair in values.get("node-meta", ())),
        is_passing="passing" in last and (last["passing"] == "" or is_true(last["passing"], "passing")),
        index=_index(last.get("index", "")),
        hash=last.get("hash", ""),
        wait_s=min(wait_s, WAIT_MAX_S) if wait_s > 0 else WAIT_DEFAULT_S,
        is_cached="cached" in last,
        token=last.get("token", ""),
        note=last.get("note", ""),
        reason=last.get("reason", ""),
        enable=is_true(last["enable"], "enable") if "enable" in last else None,
        replaces_checks=is_true(last.get("replace-existing-checks") or "0", "replace-existing-checks"),
        is_wan="wan" in last and last["wan"] not in _FALSE,
    )


def _refuse_unsupported(last: dict[str, str], datacenter: str) -> None:
    if last.get("filter"):
        raise BadRequest("filter expressions are not supported here: use tag, passing and node-meta")
    if "stale" in last and "consistent" in last:
        raise BadRequest("a query is stale or consistent, not both")
    if last.get("dc") not in (None, "", datacenter):
        raise BadRequest(f"there is one datacenter here, {datacenter!r}, not {last['dc'][:80]!r}")
    for name in ("ns", "partition"):
        if last.get(name) not in (None, "", "default"):
            raise BadRequest(f"there is no {name} here but 'default'")
    for name in ("peer", "sg"):
        if last.get(name):
            raise BadRequest(f"there is no {name} here: services of other clusters are not imported")


def _index(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= INDEX_DIGITS_MAX):
        raise BadRequest(f"index is a whole number, not {text[:50]!r}")
    return int(text)


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition(":")
    return name, value
