"""The wanted state that follows from the spec, asked for by compare-and-set.

    map, spec, zones of Nodes -> everything at once; if that is refused: who comes, then settings, then who goes

The leader judges what is possible and plans; a refused part changes nothing, and the rest goes on. Members that are not
ours (named by people, on other machines) are kept as they are.

Source: ARCHITECTURE.md, "One move, step by step"; ringkeep_core.plans.expected_digest.
"""

from __future__ import annotations

import json

import msgspec
from msgspec.structs import replace
from xxhash import xxh3_64_hexdigest

from ringkeep_core.plans import expected_digest
from ringkeep_core.shardmap import Settings, ShardMap, Wanted, WantedMember
from ringkeep_operator.naming import GATEWAY
from ringkeep_operator.state import SetWanted
from ringkeep_operator.view import Note, Outcome, Reason, View

JOIN_TOGETHER_S = 3.0
"""Newcomers wait so long for each other: one plan for two moves less than two plans for one each."""


def wanted(view: View) -> Outcome:
    """Return the change of the wanted state to ask for, and what is under way because of it."""
    cluster, shard_map = view.cluster, view.shard_map
    if view.spec.suspend or cluster is None or shard_map is None:
        return Outcome()
    notes, soon_s = _coming(view, shard_map)
    if view.status.cluster_id != shard_map.cluster_id:
        # Nothing is asked of a cluster before its id is written down: it could be founded anew after a crash.
        founded = Note(Reason.BOOTSTRAPPING, f"writing down that cluster {shard_map.cluster_id} is there")
        return Outcome(under_way=(founded, *notes), soon_s=1.0)
    if cluster.term == 0:
        return Outcome(under_way=notes, soon_s=1.0)
    asks = _asks(view, shard_map)
    refusal = view.seen.refusal
    refused = next((n for n, (ask, _) in enumerate(asks) if refusal and asked_of(ask) == refusal.asked), None)
    wrong: tuple[Note, ...] = ()
    if refusal is not None and refused is not None:
        wrong = (Note(Reason.REFUSED, f"{asks[refused][1]} is refused ({refusal.code}): {refusal.detail}"),)
    for ask, why in asks[0 if refused is None else refused + 1 :]:
        if asked_of(ask) != (refusal.asked if refusal else ""):
            change = _change(shard_map, ask, why)
            under_way = (*notes, Note(_reason_of(shard_map, ask), why))
            return Outcome(actions=(change,), wrong=wrong, under_way=under_way, soon_s=1.0)
    return Outcome(wrong=wrong, under_way=notes, soon_s=soon_s)


def asked_of(ask: Wanted) -> str:
    """Return a digest of what is asked, the same whatever the revision is."""
    body = msgspec.to_builtins((ask.members, ask.settings))
    return xxh3_64_hexdigest(json.dumps(body, sort_keys=True).encode())


def _asks(view: View, shard_map: ShardMap) -> list[tuple[Wanted, str]]:
    """Return what to ask, first to last; none that would change nothing."""
    present = shard_map.wanted
    coming = replace(present, members={**present.members, **_come(view, shard_map)})
    settings = replace(coming, settings=_settings(view, present.settings))
    going = _go(view, shard_map)
    everything = replace(settings, members={**settings.members, **going})
    parts = [
        (everything, "the cluster as the spec wants it"),
        (coming, f"{_names_changed(present, coming)} in the cluster"),
        (replace(present, settings=settings.settings), "a change of settings"),
        (
            replace(present, members={**present.members, **going}),
            f"taking {', '.join(sorted(going))} out of the cluster",
        ),
    ]
    changes = [(ask, why) for ask, why in parts if ask != present]
    # One that is all there is to ask has its own name.
    return changes[1:] if len(changes) == 2 else changes


def _names_changed(present: Wanted, ask: Wanted) -> str:
    return ", ".join(sorted(name for name, want in ask.members.items() if present.members.get(name) != want))


def _reason_of(shard_map: ShardMap, ask: Wanted) -> Reason:
    if any(want.draining and not _drains(shard_map, name) for name, want in ask.members.items()):
        return Reason.SCALING_DOWN
    return Reason.SCALING_UP if ask.members.keys() - shard_map.wanted.members.keys() else Reason.APPLYING


def _drains(shard_map: ShardMap, name: str) -> bool:
    want = shard_map.wanted.members.get(name)
    return want is not None and want.draining


def _come(view: View, shard_map: ShardMap) -> dict[str, WantedMember]:
    """Who is listed and wanted stays, in its Node's zone; who has registered and is wanted is listed."""
    members = {}
    newcomers = _newcomers(view, shard_map)
    for name in view.expected():
        want = shard_map.wanted.members.get(name)
        if want is None:
            if name not in newcomers:
                continue
            group = view.group_of(name)
            want = WantedMember(weight=0.0 if group is not None and group.component == GATEWAY else 1.0)
        pod = view.pods.get(name)
        zone = view.seen.zones.get(pod.node, "") if pod is not None else ""
        members[name] = replace(want, zone=zone or want.zone, draining=False)
    return members


def _unlisted(view: View, shard_map: ShardMap) -> list[str]:
    return [name for name in view.expected() if name in shard_map.by_name and name not in shard_map.wanted.members]


def _newcomers(view: View, shard_map: ShardMap) -> list[str]:
    """Return who may be listed now: its disk is written down, and nobody is worth waiting for."""
    unlisted = _unlisted(view, shard_map)
    missing = [name for name in view.expected() if name not in shard_map.by_name]
    waited = max((view.now - view.members[name].since for name in unlisted if name in view.members), default=0.0)
    if missing and waited < JOIN_TOGETHER_S:
        return []
    return [name for name in unlisted if view.is_written(name, shard_map.by_name[name].storage)]


def _coming(view: View, shard_map: ShardMap) -> tuple[tuple[Note, ...], float | None]:
    """Return who is on its way into the cluster."""
    unlisted = _unlisted(view, shard_map)
    missing = [name for name in view.expected() if name not in shard_map.by_name]
    notes = []
    if missing:
        notes.append(Note(Reason.SCALING_UP, f"waiting until the cluster knows {', '.join(missing)}"))
    if unlisted:
        notes.append(Note(Reason.SCALING_UP, f"{', '.join(unlisted)} has registered"))
    return tuple(notes), 0.5 if unlisted else 1.0 if missing else None


def _go(view: View, shard_map: ShardMap) -> dict[str, WantedMember]:
    """Who is listed, ours and not wanted gives everything up."""
    return {
        name: replace(want, draining=True)
        for name, want in shard_map.wanted.members.items()
        if view.group_of(name) is not None and not view.is_wanted(name)
    }


def _settings(view: View, present: Settings) -> Settings:
    spec = view.spec
    return replace(
        present,
        replication_factor=spec.replication_factor,
        min_in_sync=spec.min_in_sync,
        grace_s=spec.grace_s,
        streams_per_node=spec.moves.concurrent_per_node,
        bytes_per_s=spec.move_bytes_per_s,
    )


def _change(shard_map: ShardMap, ask: Wanted, why: str) -> SetWanted:
    revision = shard_map.wanted.revision
    made = replace(ask, revision=revision + 1, target_digest="", target_version=0)
    settings = made.settings
    body = {
        "revision": revision,
        "members": {name: msgspec.to_builtins(want) for name, want in sorted(made.members.items())},
        "settings": {
            "replication_factor": settings.replication_factor,
            "min_in_sync": settings.min_in_sync,
            "grace_s": settings.grace_s,
            "streams_per_node": settings.streams_per_node,
            "bytes_per_s": settings.bytes_per_s,
        },
        "target_digest": expected_digest(shard_map, made),
        "target_version": shard_map.version,
    }
    return SetWanted(body, asked_of(ask), why)
