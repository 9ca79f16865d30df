"""The errors that people and programs may see, each with a stable code.

    RingkeepError
    ├── BadRequest, Unauthorized, NotFound, MethodNotAllowed, Gone, VersionMismatch, TooLarge, HeadersTooLarge,
    │   UnsupportedMediaType, TooManyRequests, KeyReused, Conflict          the request is at fault
    ├── NoPrimary, NotEnoughCopies, Overloaded, DiskFull, WrongCluster     certainly not applied, try again
    ├── OutcomeUnknown                                                     may or may not have been applied
    ├── Internal                                                           our own bug
    └── StartRefused and its children                                      a node that cannot start, and why

The table of codes is a contract (interface.md, REST). An error carries fields; its text is made in one place, here.
"""

from __future__ import annotations


class RingkeepError(Exception):
    """Base of everything Ringkeep raises on purpose.

    ``code`` is stable and meant for programs, ``retryable`` says whether the same request may succeed later. Unless a
    subclass says otherwise nothing was changed.
    """

    code = "internal"
    retryable = False

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail or (type(self).__doc__ or "").split("\n", 1)[0].rstrip("."))

    @property
    def detail(self) -> str:
        """One sentence for people."""
        return str(self)


class BadRequest(RingkeepError):
    """The request is malformed. Nothing was changed; sending it again changes nothing either."""

    code = "bad_request"


class Unauthorized(RingkeepError):
    """The administration token is missing or wrong."""

    code = "unauthorized"


class NotFound(RingkeepError):
    """There is no such document or resource."""

    code = "not_found"


class MethodNotAllowed(RingkeepError):
    """The path exists, but not with this method."""

    code = "method_not_allowed"


class Conflict(RingkeepError):
    """The administrative change does not fit the present state. Read the state again and decide anew."""

    code = "conflict"


class Gone(RingkeepError):
    """What was asked for existed once and is no longer kept."""

    code = "gone"


class VersionMismatch(RingkeepError):
    """A precondition (``If-Match``, ``If-None-Match``) did not hold."""

    code = "version_mismatch"


class TooLarge(RingkeepError):
    """The body is larger than the limit."""

    code = "too_large"


class HeadersTooLarge(RingkeepError):
    """The request line or the headers are larger than the limit."""

    code = "headers_too_large"


class UnsupportedMediaType(RingkeepError):
    """The content type or encoding is not accepted here."""

    code = "unsupported_media_type"


class TooManyRequests(RingkeepError):
    """This caller sends more than its share."""

    code = "too_many_requests"
    retryable = True


class KeyReused(RingkeepError):
    """The Idempotency-Key was used before by another request of this user."""

    code = "key_reused"


class NoPrimary(RingkeepError):
    """No primary of the shard could be reached before the deadline. Certainly not applied."""

    code = "no_primary"
    retryable = True


class NotEnoughCopies(RingkeepError):
    """The shard has fewer in-sync copies than it needs. Certainly not applied."""

    code = "not_enough_copies"
    retryable = True


class Overloaded(RingkeepError):
    """The node has as much work as it may hold. Certainly not applied."""

    code = "overloaded"
    retryable = True


class DiskFull(RingkeepError):
    """The disk is nearly full, so no change is taken. Certainly not applied."""

    code = "disk_full"
    retryable = True


class WrongCluster(RingkeepError):
    """The request is meant for another cluster than this node's. Certainly not applied: ask a node of that cluster."""

    code = "wrong_cluster"
    retryable = True


class OutcomeUnknown(RingkeepError):
    """The deadline passed before it was known whether the change was made. Never read this as "failed"."""

    code = "outcome_unknown"
    retryable = True


class Internal(RingkeepError):
    """A bug in Ringkeep."""

    code = "internal"


class StartRefused(RingkeepError):
    """The node cannot start with what it was given. Nothing was changed on disk."""

    code = "start_refused"


class DirectoryInUse(StartRefused):
    """Another process holds the lock of this data directory."""

    code = "directory_in_use"


class ForeignDirectory(StartRefused):
    """The data directory belongs to another node."""

    code = "foreign_directory"


class PortInUse(StartRefused):
    """Another process listens on the address."""

    code = "port_in_use"


class BadSetting(StartRefused):
    """A setting has a value that makes no sense."""

    code = "bad_setting"


class ForeignCluster(RingkeepError):
    """The other side belongs to another cluster. It is refused."""

    code = "foreign_cluster"


class BadFrame(RingkeepError):
    """Bytes from the network or the disk are not a frame of this protocol version. They are dropped."""

    code = "bad_frame"
