"""The ConfigMap that shows the current map: compact, and not written more often than people can read it.

    {"clusterId", "version", "members": [[name, url, zone]], "shards": [[epoch, primary, [in sync], [learners]]]}

Members are named by their place in ``members``. A map too large for an object is shown without its shards.
Source: docs/kubernetes.md; Kubernetes, "ConfigMaps" (1 MiB at most).
"""

from __future__ import annotations

import json
from typing import Any

from ringkeep_core.resource import GROUP
from ringkeep_core.shardmap import ShardMap
from ringkeep_operator import manifests
from ringkeep_operator.drift import lack_of
from ringkeep_operator.state import Apply
from ringkeep_operator.view import Outcome, View

VERSION_ANNOTATION = f"{GROUP}/map-version"
WRITTEN_ANNOTATION = f"{GROUP}/written-at-ms"
EVERY_S = 2.0
BYTES_MAX = 900 << 10
"""An object may have 1 MiB (etcd's default limit is 1.5 MiB), and this is not all of it."""


def show_map(view: View) -> Outcome:
    """Write the map if the one that is shown is an older one, or was changed by somebody, at most every two seconds."""
    key = ("ConfigMap", view.names.shard_map)
    if view.shard_map is None or key in view.seen.foreign or not view.status.cluster_id:
        return Outcome()
    live: Any = view.seen.children.get(key) or {}
    annotations = (live.get("metadata") or {}).get("annotations") or {}
    shown, written = _number(annotations.get(VERSION_ANNOTATION)), _number(annotations.get(WRITTEN_ANNOTATION))
    data = {"map.json": _text(view.shard_map)}
    if live and shown == view.shard_map.version and not lack_of(live, {"data": data}):
        return Outcome()
    if shown > view.shard_map.version and live.get("data"):
        return Outcome()  # Whoever was asked holds an older map than the one that is shown.
    since_s = view.now - written / 1000
    if live and 0 <= since_s < EVERY_S:
        return Outcome(soon_s=EVERY_S - since_s)
    marks = {VERSION_ANNOTATION: str(view.shard_map.version), WRITTEN_ANNOTATION: str(int(view.now * 1000))}
    return Outcome(actions=(Apply(manifests.config_map(view.resource, data, marks)),))


def _number(text: object) -> int:
    return int(text) if isinstance(text, str) and text.isdecimal() and len(text) < 20 else 0


def _text(shard_map: ShardMap) -> str:
    names = sorted(shard_map.by_name)
    places = {shard_map.by_name[name].storage: place for place, name in enumerate(names)}
    shown: dict[str, object] = {
        "clusterId": shard_map.cluster_id,
        "version": shard_map.version,
        "members": [[name, shard_map.by_name[name].url, _zone(shard_map, name)] for name in names],
    }
    shards = [
        [
            shard.epoch,
            places[shard.primary.storage],
            [places[copy.storage] for copy in shard.in_sync],
            [places[copy.storage] for copy in shard.learners],
        ]
        for shard in shard_map.shards
    ]
    text = json.dumps({**shown, "shards": shards}, separators=(",", ":"))
    return (
        text if len(text) <= BYTES_MAX else json.dumps({**shown, "shardsLeftOut": len(shards)}, separators=(",", ":"))
    )


def _zone(shard_map: ShardMap, name: str) -> str:
    want = shard_map.wanted.members.get(name)
    return (want.zone if want is not None else "") or shard_map.by_name[name].zone
