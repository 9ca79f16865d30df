"""Preconditions: If-Match and If-None-Match as conditions on a document's version.

An entity tag is the version in quotes, ``"<sn>"``. A tag that is no version (somebody else's) matches nothing. If-Match
compares strongly, so a weak tag matches nothing there; If-None-Match compares weakly.

Source: RFC 9110, sections 8.8.3 and 13.1.
"""

from __future__ import annotations

import re

from ringkeep_core.errors import BadRequest
from ringkeep_node.http.exchange import Exchange
from ringkeep_node.runtime.service import UNCONDITIONAL, Conditions

TAGS_MAX = 100
NEVER = (0,)
_TAG = re.compile(r'\s*(W/)?"([\x21\x23-\x7e]*)"\s*(?:,|$)')
_VERSION = re.compile(r"[1-9][0-9]{0,15}").fullmatch


def conditions_of(exchange: Exchange) -> Conditions:
    """Return the preconditions of a request. Raises ``BadRequest`` for a list that is none."""
    headers = exchange.request.headers
    if "If-Unmodified-Since" in headers:
        raise BadRequest("If-Unmodified-Since is too coarse to protect a document: use If-Match with its ETag")
    if_match = exchange.joined_header("If-Match")
    if_none_match = exchange.joined_header("If-None-Match")
    if if_match is None and if_none_match is None:
        return UNCONDITIONAL
    return Conditions(
        None if if_match is None else versions_of(if_match, "If-Match", strong=True),
        None if if_none_match is None else versions_of(if_none_match, "If-None-Match", strong=False),
    )


def versions_of(text: str, what: str, *, strong: bool) -> tuple[int, ...]:
    """Return the versions of a list of entity tags; () for ``*``, and ``NEVER`` if no tag can match."""
    if text.strip() == "*":
        return ()
    versions: list[int] = []
    position, tags = 0, 0
    while position < len(text):
        match = _TAG.match(text, position)
        tags += 1
        if match is None or tags > TAGS_MAX:
            raise BadRequest(f'{what} is * or a list of at most {TAGS_MAX} entity tags such as "12"')
        weak, tag = match.groups()
        if _VERSION(tag) and not (weak and strong):
            versions.append(int(tag))
        position = match.end()
    if not tags:
        raise BadRequest(f"{what} is empty")
    return tuple(versions) or NEVER
