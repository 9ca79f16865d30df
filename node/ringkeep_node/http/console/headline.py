"""The sentences on top of the console: the same that ``ringkeep status`` says, made by ``ringkeep_core.summary``.

    headline                      what is wrong and what that means, or that all is well
    doing, advice, command        of the worst finding: what is done about it without anybody, and what a person should do
    more                          the other findings

``key`` changes only with what is found, not with how long ago it was: it tells when there is something to read out.
"""

from __future__ import annotations

from typing import Any, Final

from msgspec.structs import replace

from ringkeep_core.summary import Finding, Seen, SeenPlan, Severity, sentence, summary_of
from ringkeep_node.runtime.reports import RunningPlan

MORE_MAX: Final = 5
LEVELS: Final = {Severity.UNAVAILABLE: "broken", Severity.DEGRADED: "degraded"}


def headline(seen: Seen, plan: RunningPlan | None) -> dict[str, Any]:
    """Return the sentences; ``plan`` is what the leader last told of its plan, which only it knows.

    ``level`` is ok, working, degraded or broken.
    """
    if seen.plan is None and plan is not None:
        known = SeenPlan(
            reason=plan.reason,
            since=plan.since,
            copies=plan.copies,
            copies_done=plan.copies_done,
            primaries=plan.primaries,
            waiting=plan.waiting,
        )
        seen = replace(seen, plan=known)
    summary = summary_of(seen)
    findings = summary.findings
    first = findings[0] if findings else None
    return {
        "level": LEVELS.get(summary.severity) or ("working" if findings else "ok"),
        "text": summary.headline,
        "doing": sentence(first.doing) if first is not None else "",
        "advice": sentence(first.advice) if first is not None else "",
        "command": first.command if first is not None else "",
        "more": [_shown(finding) for finding in findings[1 : 1 + MORE_MAX]],
        "key": " ".join(f"{finding.kind}:{finding.subject}" for finding in findings),
    }


def _shown(finding: Finding) -> dict[str, str]:
    return {
        "what": sentence(finding.what),
        "means": sentence(finding.means),
        "doing": sentence(finding.doing),
        "advice": sentence(finding.advice),
        "command": finding.command,
    }
