"""Errors as HTTP answers: the status of each code, and RFC 9457 problem documents.

The table is a contract (interface.md, REST). Every 503 means: certainly not applied.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import msgspec
from msgspec import Struct

from ringkeep_core.errors import Internal, RingkeepError

PROBLEM_TYPE = "application/problem+json"
OVERLOADED_RETRY_S = 1

STATUS_OF_CODE: Mapping[str, int] = {
    "bad_request": 400,
    "unauthorized": 401,
    "not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "gone": 410,
    "version_mismatch": 412,
    "too_large": 413,
    "unsupported_media_type": 415,
    "wrong_cluster": 421,
    "key_reused": 422,
    "too_many_requests": 429,
    "headers_too_large": 431,
    "internal": 500,
    "no_primary": 503,
    "not_enough_copies": 503,
    "not_ready": 503,
    "overloaded": 503,
    "outcome_unknown": 504,
    "disk_full": 507,
}


class Problem(Struct, frozen=True):
    """The body of an answer that is not a success."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool
    request_id: str


class NotReady(RingkeepError):
    """This node should not be sent requests now."""

    code = "not_ready"
    retryable = True


def status_of(error: RingkeepError) -> int:
    """Return the status of an error; one that is not for clients counts as our own bug."""
    return STATUS_OF_CODE.get(error.code, 500)


def shown(error: RingkeepError) -> RingkeepError:
    """Return the error that the client is told: what has no status is ``internal``."""
    return error if error.code in STATUS_OF_CODE else Internal(error.detail)


def problem_of(error: RingkeepError, request_id: str) -> bytes:
    """Return the problem document of an error."""
    error = shown(error)
    status = status_of(error)
    title = HTTPStatus(status).phrase
    return msgspec.json.encode(
        Problem("about:blank", title, status, error.detail, error.code, error.retryable, request_id)
    )


def headers_of(error: RingkeepError) -> str:
    """Return header lines that belong to an error, each with its line end."""
    if error.code in ("overloaded", "too_many_requests", "disk_full"):
        return f"Retry-After: {OVERLOADED_RETRY_S}\r\n"
    if error.code == "unauthorized":
        return 'WWW-Authenticate: Bearer realm="ringkeep"\r\n'
    return ""
