"""Findings about the cluster as a whole: leader and majority, settings that cannot be met, versions, the asked node."""

from __future__ import annotations

from ringkeep_core.shardmap import position_of
from ringkeep_core.summary.model import Finding, Seen, Severity
from ringkeep_core.summary.picture import Picture, named
from ringkeep_core.summary.shard_findings import copies_of, start
from ringkeep_core.wording import many, names, part, share, size, span, verb

BACKLOG_BYTES = 16 << 20
"""Four whole batches of the log: it takes in more than the disk writes."""
BEHIND_AFTER_S = 2.0
"""A new map is here within milliseconds; a node whose map is older for so long does not hear of it."""


def outside(seen: Seen) -> Finding:
    """Return why a node that holds no map answers nobody."""
    if seen.has_left:
        return Finding(
            kind="has_left",
            severity=Severity.UNAVAILABLE,
            subject=seen.node,
            what=f"{seen.node} has left its cluster for good",
            means="it answers no request; the cluster goes on without it",
            doing="nothing: its storage id is never accepted again",
            advice="ask another node; to use this one again, empty its data directory and start it",
        )
    if seen.cluster_id:
        return Finding(
            kind="no_map",
            severity=Severity.UNAVAILABLE,
            subject=seen.node,
            what=f"{seen.node} does not hold the shard map yet",
            means="it cannot say where users live, nor how its cluster is",
            doing="it asks its seeds for the map again and again",
            advice="ask another node, and see that this one can reach them",
        )
    return Finding(
        kind="no_cluster",
        severity=Severity.UNAVAILABLE,
        subject=seen.node,
        what=f"{seen.node} belongs to no cluster yet",
        means="it serves nobody",
        doing="it takes the cluster that its seeds name, or the one that is founded with it",
        advice="" if seen.managed else "start a cluster, which founds it",
        command="" if seen.managed else "ringkeep up",
    )


def of(picture: Picture) -> list[Finding]:
    """Return what is not about single members or shards, and is no emergency."""
    return [*_too_few(picture), *_min_in_sync(picture), *_backlog(picture), *_behind(picture), *_versions(picture)]


# --- the leader --------------------------------------------------------------------------------------------------


def of_leader(picture: Picture) -> list[Finding]:
    """Return why nobody leads, if nobody does."""
    if picture.seen.leader is not None:
        return []
    voters = [storage for storage in picture.seen.voters if storage in picture.held.members]
    living = [storage for storage in voters if storage not in picture.out]
    majority = len(voters) // 2 + 1
    hurt = picture.hurt
    severity = Severity.UNAVAILABLE if hurt else Severity.DEGRADED
    means = _without_leader(picture, len(hurt))
    if not voters or len(living) >= majority:
        known = f"{len(living)} of {many(len(voters), 'voter')} live" if voters else "this node does not vote"
        return [
            Finding(
                kind="no_leader",
                severity=severity,
                subject="cluster",
                what=f"{picture.seen.node} knows no leader",
                evidence=known,
                means=means,
                doing="the voters elect one; that takes about a second",
            )
        ]
    missing = majority - len(living)
    gone = sorted(picture.name_of(storage) for storage in voters if storage in picture.out)
    here = sorted(picture.name_of(storage) for storage in living)
    advice, command = start(picture, gone)
    survivor = picture.seen.node if picture.seen.node in here else here[0] if here else picture.seen.node
    return [
        Finding(
            kind="no_quorum",
            severity=severity,
            subject="cluster",
            what=f"no leader can be elected ({len(living)} of {many(len(voters), 'voter')} "
            f"{verb(len(living), 'lives', 'live')}, {majority} are needed)",
            evidence=f"as {picture.seen.node} sees it, {names(gone)} {verb(len(gone), 'is', 'are')} out, or cut off from it",
            means=means,
            doing=f"one is elected as soon as {missing} of {names(gone)} {verb(missing, 'is', 'are')} back",
            advice=f"{advice}; only if their disks are lost for ever, go on from one voter with `ringkeep recover --from "
            f"{survivor}`, which loses what only they knew (docs/recover.md)",
            command=command,
        )
    ]


def _without_leader(picture: Picture, hurt: int) -> str:
    served = picture.total - hurt
    if not hurt:
        return "reads and writes go on; nothing can fail over or move"
    if not served:
        kinds = ("reads" if picture.unread else "", "writes" if picture.unwritten else "")
        every = {len(wait) for wait in (picture.unread, picture.unwritten) if wait} == {picture.total}
        told = names(filter(None, kinds), "and" if every else "or")
        return f"{told} of every shard wait; nothing can fail over or move"
    return f"{share(served, picture.total, 'goes', 'go')} on, the others wait; nothing can fail over or move"


# --- what is wanted ----------------------------------------------------------------------------------------------


def _too_few(picture: Picture) -> list[Finding]:
    held, factor = picture.held, picture.held.wanted.settings.replication_factor
    able = held.weighted_members()
    if able >= factor:
        return []
    return [
        Finding(
            kind="too_few_nodes",
            severity=Severity.DEGRADED,
            subject="cluster",
            what=f"{many(factor, 'copy', 'copies')} of each shard are wanted, and only {many(able, 'node')} may hold copies",
            means=f"each shard has {copies_of(picture)} at most",
            doing="copies are added as soon as nodes are",
            advice="raise spec.replicas" if picture.seen.managed else "add nodes",
            command="" if picture.seen.managed else f"ringkeep scale {factor}",
        )
    ]


def _min_in_sync(picture: Picture) -> list[Finding]:
    held, settings = picture.held, picture.held.wanted.settings
    low = [number for number, shard in enumerate(held.shards) if shard.need < settings.min_in_sync]
    if not low:
        return []
    able, needs = held.weighted_members(), sorted({held.shards[number].need for number in low})
    need = str(needs[0]) if len(needs) == 1 else f"{needs[0]} to {needs[-1]}"
    below_factor = settings.min_in_sync > settings.replication_factor
    few = able < settings.min_in_sync
    why = (
        f"the replication factor is {settings.replication_factor}" if below_factor else "",
        f"only {many(able, 'node')} may hold copies" if few else "",
    )
    return [
        Finding(
            kind="min_in_sync",
            severity=Severity.DEGRADED,
            subject="cluster",
            what=f"writes of {part(len(low), picture.total)} need only {need} in sync, although min_in_sync is "
            f"{settings.min_in_sync}",
            evidence=" and ".join(told for told in why if told),
            means="an acknowledged write is safe from the loss of fewer disks than was asked for",
            doing="" if below_factor else "each shard needs more as soon as it has them",
            advice="change one of the two settings" if below_factor else "add nodes" if few else "",
            command=f"ringkeep scale {settings.min_in_sync}"
            if few and not below_factor and not picture.seen.managed
            else "",
            shard_count=len(low),
            shards=named(low),
        )
    ]


# --- the asked node ----------------------------------------------------------------------------------------------


def _backlog(picture: Picture) -> list[Finding]:
    queued, node = picture.seen.log_queued_bytes, picture.seen.node
    if queued < BACKLOG_BYTES:
        return []
    return [
        Finding(
            kind="log_backlog",
            severity=Severity.DEGRADED,
            subject=node,
            what=f"{size(queued)} wait for the log of {node}",
            evidence="its disk takes less than comes in",
            means="writes are acknowledged late; a queue that grows further is refused (overloaded)",
            doing="the log writes in batches as fast as the disk can",
            advice="see what else uses the disk; a faster one, or more nodes, help",
        )
    ]


def _behind(picture: Picture) -> list[Finding]:
    seen, held = picture.seen, picture.held
    if seen.leader in (None, seen.node) or seen.leader_version <= held.version:
        return []
    newest = max((move.at for move in seen.moves), default=0.0)
    past_s = seen.now - newest
    if past_s < BEHIND_AFTER_S:
        return []
    entries = position_of(seen.leader_version) - held.position
    return [
        Finding(
            kind="behind",
            severity=Severity.DEGRADED,
            subject=seen.node,
            what=f"{seen.node} holds a map that is {many(entries, 'entry', 'entries')} behind that of the leader "
            f"{seen.leader}",
            evidence=f"its newest change came {span(past_s)} ago" if newest else "no change has come since its start",
            means="what is said here may be out of date; requests are sent on until they reach the right primary",
            doing="it asks for the newer map again and again",
            advice="ask the leader for the present state",
        )
    ]


def _versions(picture: Picture) -> list[Finding]:
    by_version: dict[str, list[str]] = {}
    for member, seen in picture.members():
        if seen.version and not seen.is_out:
            by_version.setdefault(seen.version, []).append(member.name)
    if len(by_version) < 2:
        return []
    told = [f"{version} on {names(of)}" for version, of in sorted(by_version.items())]
    return [
        Finding(
            kind="mixed_versions",
            severity=Severity.OK,
            subject="cluster",
            what="nodes of different versions run together",
            evidence="; ".join(told),
            means="reads and writes go on, as during every rolling update",
            doing="",
            advice=""
            if picture.seen.managed
            else "finish the update: restart the nodes with the older version one by one",
        )
    ]
