"""What a failed command says and returns: one clear sentence, what to do next, and an exit code.

0 ok   1 failed   2 usage   3 cluster unavailable (nobody answered, or every try was refused for now)
"""

from __future__ import annotations

import msgspec

from ringkeep.command.options import Output
from ringkeep.command.screen import error_console
from ringkeep.errors import ProblemAnswer, RingkeepError

OK, FAILED, USAGE, UNAVAILABLE = 0, 1, 2, 3
SERVER_ERRORS = 500
"""From this status on the cluster was at fault, or in trouble."""

_UNAVAILABLE_CODES = frozenset({"unavailable", "no_primary", "not_enough_copies", "not_ready", "overloaded"})

_NEXT = {
    "unavailable": "Start a cluster with `ringkeep up`, or name one with --url or RINGKEEP_URL.",
    "no_primary": "Nothing was changed. `ringkeep status` shows which nodes are missing; try again in a few seconds.",
    "not_enough_copies": "Nothing was changed. Bring nodes back (`ringkeep up`), then try again.",
    "not_ready": "The node is starting or catching up: try again in a few seconds.",
    "overloaded": "Nothing was changed. Try again in a few seconds.",
    "too_many_requests": "Nothing was changed. Send less at once.",
    "disk_full": "Nothing was changed. Make room on the node's disk.",
    "outcome_unknown": "It may have been done: read it back, or repeat it under the same --idempotency-key.",
    "version_mismatch": "Nothing was changed. Read the document again and use its present version.",
    "key_reused": "Nothing was changed. Use a fresh --idempotency-key for another request.",
    "conflict": "Nothing was changed. Look at the present state first.",
    "stuck": "The cluster goes on as soon as it can: the same command waits for it again.",
    "unauthorized": "Set RINGKEEP_ADMIN_TOKEN to the cluster's administration token.",
    "unexpected_answer": "Check that the address is that of a Ringkeep node.",
    "internal": "This is a bug: the node's log has more under the request id.",
}


def exit_code_of(error: RingkeepError) -> int:
    """Return the exit code that an error means."""
    return UNAVAILABLE if error.code in _UNAVAILABLE_CODES else FAILED


def tell(error: RingkeepError, output: Output) -> int:
    """Print an error in the form that was asked for and return the exit code."""
    cause = error.__cause__
    problem = cause.problem if isinstance(cause, ProblemAnswer) and cause.problem.get("code") == error.code else {}
    if output is Output.JSON:
        told = problem or {"code": error.code, "retryable": error.retryable, "detail": str(error)}
        error_console().print(msgspec.json.encode(told).decode(), markup=False, highlight=False, soft_wrap=True)
        return exit_code_of(error)
    sentence = str(error).rstrip(".")
    # Whoever looks into the logs of the nodes finds the request by its id; what was the caller's mistake is in no log.
    is_theirs = isinstance(cause, ProblemAnswer) and cause.status >= SERVER_ERRORS and cause.request_id
    request = f" (request {cause.request_id})" if is_theirs and isinstance(cause, ProblemAnswer) else ""
    hint = getattr(error, "hint", "") or _NEXT.get(error.code, "")
    error_console().print(
        f"ringkeep: {sentence}{request}. {hint}".rstrip(), markup=False, highlight=False, soft_wrap=True
    )
    return exit_code_of(error)
