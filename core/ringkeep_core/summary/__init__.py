"""Say in words how a cluster is: what is wrong, what that means for users, what is being done, what a person should do.

    Seen (what one node knows: map, members, leader, plan, events) --summary_of--> Summary: a headline and findings

Pure: the asked node makes it from what it holds (``GET /v1/cluster/summary``); nobody else is asked, so a node that is
cut off says what it sees, and says so. Severities:

    unavailable   some users' reads or writes wait or are refused now
    degraded      everybody is served, with less safety or speed than wanted
    ok            as wanted, or on an orderly way there

Source: replication.md, rules 3 to 5 and "Members, failure, recovery"; interface.md for the names.
"""

from __future__ import annotations

from msgspec.structs import replace

from ringkeep_core.summary import cluster_findings, member_findings, shard_findings
from ringkeep_core.summary.model import (
    SEVERITIES,
    Evidence,
    Finding,
    Progress,
    Seen,
    SeenMember,
    SeenMove,
    SeenPlan,
    Severity,
    ShardCounts,
    Summary,
)
from ringkeep_core.summary.picture import Picture
from ringkeep_core.wording import capital, many

__all__ = [
    "Evidence",
    "Finding",
    "Progress",
    "Seen",
    "SeenMember",
    "SeenMove",
    "SeenPlan",
    "Severity",
    "ShardCounts",
    "Summary",
    "sentence",
    "summary_of",
]


def summary_of(seen: Seen) -> Summary:
    """Return how the cluster is, as one node sees it."""
    held = seen.held
    if held is None or seen.has_left:
        finding = cluster_findings.outside(seen)
        return Summary(
            headline=sentence(f"{finding.what}: {finding.means}"),
            severity=finding.severity,
            findings=(finding,),
            node=seen.node,
            at=seen.now,
            cluster_id=seen.cluster_id,
        )
    picture = Picture(_without_dead_leader(seen), held)
    found = [
        *cluster_findings.of_leader(picture),
        *shard_findings.of(picture),
        *member_findings.of(picture),
        *shard_findings.of_copies(picture),
        *cluster_findings.of(picture),
    ]
    findings = tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))
    return Summary(
        headline=_headline(picture, findings),
        severity=findings[0].severity if findings else Severity.OK,
        findings=findings,
        node=seen.node,
        at=seen.now,
        cluster_id=held.cluster_id,
        version=held.version,
        leader=picture.seen.leader,
        term=seen.term,
        members=_states(picture),
        shards=picture.counts(),
    )


def _without_dead_leader(seen: Seen) -> Seen:
    """Take a leader that is called dead for none: nothing waits for it, the others elect another."""
    gone = any(member.name == seen.leader and member.is_out for member in seen.members)
    return replace(seen, leader=None) if gone else seen


def _headline(picture: Picture, findings: tuple[Finding, ...]) -> str:
    if not findings:
        copies = many(picture.wanted_copies, "copy", "copies")
        members = many(len(picture.held.members), "member")
        return f"All is well: {members}, {many(picture.total, 'shard')} with {copies} each."
    first = findings[0]
    if first.severity is Severity.OK:
        return sentence(f"All is well; {first.what}")
    more = sum(1 for finding in findings[1:] if finding.severity is not Severity.OK)
    others = f" ({more} more below)" if more else ""
    return sentence(f"{first.what}: {first.means}{others}" if first.means else f"{first.what}{others}")


def _states(picture: Picture) -> dict[str, int]:
    counts: dict[str, int] = {}
    for _, member in picture.members():
        counts[member.state] = counts.get(member.state, 0) + 1
    return dict(sorted(counts.items()))


def sentence(text: str) -> str:
    """Return a clause as a sentence: a great letter in front, a full stop behind."""
    return capital(text) + "." if text else ""
