"""Does a live object still have everything that is wanted of it? Writes only happen where this says no.

    hash differs                      -> something is wanted that was not, or is wanted no more
    a wanted field lacks or differs   -> somebody changed it

The API server fills in defaults and others add fields; neither is drift. So the wanted part must be covered by the live
object, amounts compared by value. A selector is wanted as a whole: one label more in it selects nobody.
Nothing that the API server rewrites may be called drift: that would never end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ringkeep_core.quantities import are_equal_amounts
from ringkeep_operator.manifests import HASH_ANNOTATION
from ringkeep_operator.state import Manifest

AMOUNTS = frozenset({"requests", "limits"})
WHOLE = frozenset({"selector", "podSelector", "matchLabels"})
"""Atomic for the API server too: applying them takes away what others have added."""


def is_as_wanted(wanted: Manifest, live: Manifest | None) -> bool:
    """Return whether applying ``wanted`` would change nothing."""
    return live is not None and hash_of(wanted) == hash_of(live) and covers(live, wanted)


def hash_of(manifest: Manifest) -> str:
    """Return the hash of what was wanted when the object was applied, "" if it was not by us."""
    metadata: Any = manifest.get("metadata") or {}
    return str((metadata.get("annotations") or {}).get(HASH_ANNOTATION, ""))


def covers(live: Any, wanted: Any, *, are_amounts: bool = False) -> bool:
    """Return whether everything in ``wanted`` is in ``live`` as well."""
    if isinstance(wanted, Mapping):
        return isinstance(live, Mapping) and all(
            live.get(key) == value
            if key in WHOLE
            else covers(live.get(key), value, are_amounts=are_amounts or key in AMOUNTS)
            for key, value in wanted.items()
        )
    if isinstance(wanted, list | tuple):
        return isinstance(live, list | tuple) and _list_covers(live, wanted)
    if are_amounts:
        return live is not None and are_equal_amounts(live, wanted)
    return bool(live == wanted)


def _list_covers(live: Any, wanted: Any) -> bool:
    """Others may add elements that have a name or key of their own; a list of plain values is ours as a whole."""
    if any(isinstance(element, Mapping) for element in wanted):
        return all(any(covers(candidate, element) for candidate in live) for element in wanted)
    return list(live) == list(wanted)
