"""A summary as plain lines: for pipes, logs and everybody who sees no colours."""

from __future__ import annotations

from msgspec.structs import asdict

from ringkeep_core.summary.model import Finding, ShardCounts, Summary
from ringkeep_core.wording import capital


def lines_of(summary: Summary) -> list[str]:
    """Return the headline with its severity, then each finding with what there is to say of it, one thing a line."""
    lines = [f"{summary.severity.value}: {summary.headline}"]
    for finding in summary.findings:
        lines.append(f"- {capital(finding.what)}.")
        lines += [f"  {label}: {text}." for label, text in told_of(finding)]
        if finding.command:
            lines.append(f"  command: {finding.command}")
    return lines


def shard_states_of(counts: ShardCounts) -> dict[str, int]:
    """Return how many shards are how, in words; what there is none of is left out."""
    words = {"under_replicated": "under-replicated", "no_writes": "no writes"}
    return {words.get(name, name): count for name, count in asdict(counts).items() if name != "total" and count}


def told_of(finding: Finding) -> list[tuple[str, str]]:
    """Return the clauses of a finding with their labels; what is empty is left out."""
    clauses = (
        ("seen", finding.evidence),
        ("for users", finding.means),
        ("by itself", finding.doing),
        ("to do", finding.advice),
    )
    return [(label, text) for label, text in clauses if text]
