"""The table of error codes is a contract (interface.md, REST)."""

from collections.abc import Iterator

import pytest

from ringkeep_core import errors
from ringkeep_core.errors import NotFound, RingkeepError, StartRefused

REST_CODES = {
    "bad_request": False,
    "unauthorized": False,
    "not_found": False,
    "method_not_allowed": False,
    "conflict": False,
    "gone": False,
    "unsupported_media_type": False,
    "headers_too_large": False,
    "internal": False,
    "version_mismatch": False,
    "too_large": False,
    "too_many_requests": True,
    "not_enough_copies": True,
    "key_reused": False,
    "no_primary": True,
    "overloaded": True,
    "wrong_cluster": True,
    "outcome_unknown": True,
    "disk_full": True,
}


def _descendants(kind: type[RingkeepError]) -> Iterator[type[RingkeepError]]:
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from _descendants(child)


EVERY_KIND: list[type[RingkeepError]] = [RingkeepError, *_descendants(RingkeepError)]


def test_every_code_of_the_table_exists_once_and_says_whether_to_retry() -> None:
    found = {kind.code: kind.retryable for kind in EVERY_KIND if kind.code in REST_CODES}

    assert found == REST_CODES


def test_no_two_errors_share_a_code_except_the_base_and_our_own_bug() -> None:
    codes = [kind.code for kind in EVERY_KIND if kind is not RingkeepError]

    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("kind", EVERY_KIND, ids=lambda kind: kind.__name__)
def test_an_error_without_detail_says_what_it_means_in_a_sentence(kind: type[RingkeepError]) -> None:
    detail = kind().detail

    assert detail and detail[0].isupper() and "\n" not in detail and not detail.endswith(".")


def test_an_error_carries_its_detail_and_is_caught_by_its_base() -> None:
    with pytest.raises(RingkeepError) as caught:
        raise NotFound("there is no such document")

    assert (caught.value.detail, str(caught.value)) == ("there is no such document", "there is no such document")


def test_what_refuses_a_start_has_one_base() -> None:
    names = sorted(kind.code for kind in _descendants(StartRefused))

    assert names == ["bad_setting", "directory_in_use", "foreign_directory", "port_in_use"]
