"""What names, keys and identities may look like, and how large things may be.

Identities are 16 lower-case hexadecimal digits: a *storage id* is made with a data directory, a *boot id* at each start.
Users and keys are bounded in UTF-8 bytes and free of control characters; there is no normalisation.
Source: interface.md, "Paths and limits".
"""

from __future__ import annotations

import re

from ringkeep_core.errors import BadRequest, TooLarge

USER_BYTES_MAX = 256
KEY_BYTES_MAX = 512
VALUE_BYTES_MAX = 1 << 20
CONTENT_TYPE_BYTES_MAX = 256
IDEMPOTENCY_KEY_MAX = 128
LOG_ENTRY_BYTES_MAX = 3 << 20
IMPORT_LINE_BYTES_MAX = 3 << 19
HEADERS_BYTES_MAX = 16 << 10

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_IDENTITY = re.compile(r"[0-9a-f]{16}")
_CONTROL = re.compile(r"[\x00-\x1f]")
_VISIBLE = re.compile(r"[\x21-\x7e]{1,128}")


def is_node_name(name: str) -> bool:
    """Return whether ``name`` is an RFC 1123 label: 1..63 of a-z, 0-9 and ``-``, neither end a ``-``."""
    return _NAME.fullmatch(name) is not None


def is_identity(text: str) -> bool:
    """Return whether ``text`` is a storage id, boot id or cluster id: 16 lower-case hexadecimal digits."""
    return _IDENTITY.fullmatch(text) is not None


def check_user(user: str) -> str:
    """Return ``user`` if it may be a partition key; raise ``BadRequest`` with the reason otherwise."""
    return _check_text("user", user, USER_BYTES_MAX)


def check_key(key: str) -> str:
    """Return ``key`` if it may name a document; raise ``BadRequest`` with the reason otherwise."""
    _check_text("key", key, KEY_BYTES_MAX)
    if any(segment in (".", "..") for segment in key.split("/")):
        raise BadRequest("a key must not have a segment '.' or '..'")
    return key


def check_value(value: bytes) -> bytes:
    """Return ``value`` if it is at most 1 MiB; raise ``TooLarge`` otherwise."""
    if len(value) > VALUE_BYTES_MAX:
        raise TooLarge(f"a document may have {VALUE_BYTES_MAX} bytes, not {len(value)}")
    return value


def check_content_type(content_type: str) -> str:
    """Return ``content_type`` if it is 1..256 printable ASCII characters; raise ``BadRequest`` otherwise."""
    if (
        not 0 < len(content_type) <= CONTENT_TYPE_BYTES_MAX
        or not content_type.isascii()
        or not content_type.isprintable()
    ):
        raise BadRequest(f"a content type is 1..{CONTENT_TYPE_BYTES_MAX} printable ASCII characters")
    return content_type


def check_idempotency_key(key: str) -> str:
    """Return ``key`` if it is 1..128 visible ASCII characters; raise ``BadRequest`` otherwise."""
    if _VISIBLE.fullmatch(key) is None:
        raise BadRequest("an Idempotency-Key is 1..128 visible ASCII characters")
    return key


def _check_text(what: str, text: str, bytes_max: int) -> str:
    if not text:
        raise BadRequest(f"the {what} is empty")
    check_text(f"the {what}", text, bytes_max)
    return text


def check_text(what: str, text: str, bytes_max: int, control: re.Pattern[str] = _CONTROL) -> None:
    """Raise ``BadRequest`` unless ``text``, which the sentence calls ``what``, is short UTF-8 without control characters."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise BadRequest(f"{what} is not valid UTF-8") from None
    if size > bytes_max:
        raise BadRequest(f"{what} has {size} bytes, the limit is {bytes_max}")
    if control.search(text):
        raise BadRequest(f"{what} contains a control character")
