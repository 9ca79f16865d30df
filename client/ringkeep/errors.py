"""What a client call can raise: one class per stable code, and what only a client can find out.

The classes of the REST contract live in ``ringkeep_core.errors`` and are given out again here, so that
``except ringkeep.errors.VersionMismatch`` needs no second import. The problem document that a node answered is chained
as ``__cause__`` (a ``ProblemAnswer``). Two classes are the client's own:

    RingkeepError
    ├── (one class for each code of the contract)
    ├── Unavailable          no node answered at all; certainly nothing was changed
    └── UnexpectedAnswer     something answered, but not Ringkeep (a proxy, another program on the port)
"""

from __future__ import annotations

from typing import Any

import msgspec

from ringkeep_core.errors import (
    BadRequest,
    Conflict,
    DiskFull,
    Gone,
    HeadersTooLarge,
    Internal,
    KeyReused,
    MethodNotAllowed,
    NoPrimary,
    NotEnoughCopies,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    RingkeepError,
    TooLarge,
    TooManyRequests,
    Unauthorized,
    UnsupportedMediaType,
    VersionMismatch,
    WrongCluster,
)

__all__ = [
    "CLASS_OF_CODE",
    "BadRequest",
    "Conflict",
    "DiskFull",
    "Gone",
    "HeadersTooLarge",
    "Internal",
    "KeyReused",
    "MethodNotAllowed",
    "NoPrimary",
    "NotEnoughCopies",
    "NotFound",
    "NotReady",
    "OutcomeUnknown",
    "Overloaded",
    "ProblemAnswer",
    "RingkeepError",
    "TooLarge",
    "TooManyRequests",
    "Unauthorized",
    "Unavailable",
    "UnexpectedAnswer",
    "UnsupportedMediaType",
    "VersionMismatch",
    "WrongCluster",
    "error_of_answer",
]


class Unavailable(RingkeepError):
    """No node of the cluster answered before the deadline. Certainly nothing was changed."""

    code = "unavailable"
    retryable = True


class NotReady(RingkeepError):
    """The node should not be sent requests now; another one may take them. Certainly nothing was changed."""

    code = "not_ready"
    retryable = True


class UnexpectedAnswer(RingkeepError):
    """What answered does not speak Ringkeep's REST interface."""

    code = "unexpected_answer"


class ProblemAnswer(Exception):
    """A node's answer that was not a success; the cause of the error that is raised.

    ``status`` is the HTTP status, ``problem`` the decoded problem document (empty if the body was none), ``node`` and
    ``request_id`` say who answered, for the logs.
    """

    def __init__(self, *, status: int, problem: dict[str, Any], node: str = "", request_id: str = "") -> None:
        super().__init__(f"HTTP {status} from node {node or '?'} (request {request_id or '?'})")
        self.status = status
        self.problem = problem
        self.node = node
        self.request_id = request_id


CLASS_OF_CODE: dict[str, type[RingkeepError]] = {
    kind.code: kind
    for kind in (
        BadRequest,
        Unauthorized,
        NotFound,
        MethodNotAllowed,
        Conflict,
        Gone,
        UnsupportedMediaType,
        HeadersTooLarge,
        Internal,
        VersionMismatch,
        TooLarge,
        TooManyRequests,
        NotEnoughCopies,
        NotReady,
        KeyReused,
        NoPrimary,
        Overloaded,
        OutcomeUnknown,
        DiskFull,
        WrongCluster,
    )
}

# HEAD has no body, so its problem document is missing; these statuses have one meaning each.
_CODE_OF_STATUS = {
    400: "bad_request",
    401: "unauthorized",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    410: "gone",
    412: "version_mismatch",
    413: "too_large",
    415: "unsupported_media_type",
    421: "wrong_cluster",
    422: "key_reused",
    429: "too_many_requests",
    431: "headers_too_large",
    500: "internal",
    503: "not_ready",
    504: "outcome_unknown",
    507: "disk_full",
}


def error_of_answer(*, status: int, body: bytes, node: str = "", request_id: str = "") -> RingkeepError:
    """Return the error that an answer with ``status`` >= 400 stands for, its ``ProblemAnswer`` chained as cause.

    An answer without a known code is judged by its status if a node's name or any code came with it (HEAD has no body);
    anything else did not come from Ringkeep.
    """
    problem = _problem(body)
    code = problem.get("code")
    kind = CLASS_OF_CODE.get(code) if isinstance(code, str) else None
    if kind is None and (node or isinstance(code, str)):
        # No body, or a code of a newer version: the status says what to make of it.
        kind = CLASS_OF_CODE.get(_CODE_OF_STATUS.get(status, ""))
    error: RingkeepError
    if kind is None:
        error = UnexpectedAnswer(f"HTTP {status} without a Ringkeep problem document")
    else:
        error = kind(str(problem.get("detail") or problem.get("title") or ""))
    error.__cause__ = ProblemAnswer(status=status, problem=problem, node=node, request_id=request_id)
    return error


def _problem(body: bytes) -> dict[str, Any]:
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return decoded if isinstance(decoded, dict) else {}
