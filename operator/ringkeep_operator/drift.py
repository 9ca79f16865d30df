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

AMOUNTS = (".requests", ".limits")
WHOLE = frozenset({"selector", "podSelector", "matchLabels"})
"""Atomic for the API server too: applying them takes away what others have added."""


def is_as_wanted(wanted: Manifest, live: Manifest | None) -> bool:
    """Return whether applying ``wanted`` would change nothing."""
    return live is not None and hash_of(wanted) == hash_of(live) and not lack_of(live, wanted)


def hash_of(manifest: Manifest) -> str:
    """Return the hash of what was wanted when the object was applied, "" if it was not by us."""
    metadata: Any = manifest.get("metadata") or {}
    return str((metadata.get("annotations") or {}).get(HASH_ANNOTATION, ""))


def lack_of(live: Any, wanted: Any, path: str = "") -> str:
    """Return the path of the first thing in ``wanted`` that ``live`` has not, "" if it has everything."""
    if isinstance(wanted, Mapping):
        if not isinstance(live, Mapping):
            return path or "."
        return next((lack for key, value in wanted.items() if (lack := _lack_at(live, key, value, path))), "")
    if isinstance(wanted, list | tuple):
        return "" if isinstance(live, list | tuple) and _list_covers(live, wanted) else path
    if path.rpartition(".")[0].endswith(AMOUNTS):
        return "" if live is not None and are_equal_amounts(live, wanted) else path
    return "" if live == wanted else path


def _lack_at(live: Mapping[str, Any], key: str, value: Any, path: str) -> str:
    here = f"{path}.{key}"
    if key in WHOLE:
        return "" if live.get(key) == value else here
    return lack_of(live.get(key), value, here)


def _list_covers(live: Any, wanted: Any) -> bool:
    """Others may add elements that have a name or key of their own; a list of plain values is ours as a whole."""
    if any(isinstance(element, Mapping) for element in wanted):
        return all(any(not lack_of(candidate, element) for candidate in live) for element in wanted)
    return list(live) == list(wanted)
