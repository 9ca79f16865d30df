"""What names, users, keys and values may look like (interface.md, paths and limits)."""

import pytest

from ringkeep_core.errors import BadRequest, TooLarge
from ringkeep_core.ids import (
    VALUE_BYTES_MAX,
    check_content_type,
    check_idempotency_key,
    check_key,
    check_user,
    check_value,
    is_identity,
    is_node_name,
)


@pytest.mark.parametrize("name", ["a", "n1", "0", "ringkeep-0", "a" * 63, "a--b"])
def test_a_node_name_is_an_rfc_1123_label(name: str) -> None:
    assert is_node_name(name)


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a.b", "a" * 64, "a\n", "\u00e9"])
def test_other_node_names_are_refused(name: str) -> None:
    assert not is_node_name(name)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("0123456789abcdef", True),
        ("0123456789ABCDEF", False),
        ("0123456789abcde", False),
        ("0123456789abcdef0", False),
        ("0123456789abcdeg", False),
        ("0123456789abcde\n", False),
        ("\u0661" * 16, False),
        ("", False),
    ],
)
def test_an_identity_is_16_lower_case_hexadecimal_digits(text: str, good: bool) -> None:
    assert is_identity(text) is good


@pytest.mark.parametrize("user", ["a", "a" * 256, "\u00e9" * 128, "a/b", "..", ".", " ", "%2F", "\x7f"])
def test_a_user_is_1_to_256_bytes_without_control_characters(user: str) -> None:
    assert check_user(user) is user


@pytest.mark.parametrize(
    ("user", "sentence"),
    [
        ("", "the user is empty"),
        ("a" * 257, "the user has 257 bytes, the limit is 256"),
        ("\u00e9" * 129, "the user has 258 bytes, the limit is 256"),
        ("a\x00", "the user contains a control character"),
        ("\x1f", "the user contains a control character"),
        ("a\n", "the user contains a control character"),
        ("\ud800", "the user is not valid UTF-8"),
    ],
)
def test_a_bad_user_is_a_bad_request_with_one_sentence(user: str, sentence: str) -> None:
    with pytest.raises(BadRequest) as caught:
        check_user(user)

    assert (caught.value.detail, caught.value.code, caught.value.retryable) == (sentence, "bad_request", False)


@pytest.mark.parametrize("key", ["a", "a/b/c", "k" * 512, "a..b", "...", ".a", "/", "a/", "//"])
def test_a_key_is_1_to_512_bytes(key: str) -> None:
    assert check_key(key) is key


@pytest.mark.parametrize("key", ["", "k" * 513, ".", "..", "a/../b", "../a", "a/.", "a\tb", "\udfff"])
def test_a_bad_key_is_a_bad_request(key: str) -> None:
    with pytest.raises(BadRequest):
        check_key(key)


def test_a_value_is_at_most_1_mib() -> None:
    largest = bytes(VALUE_BYTES_MAX)

    assert check_value(largest) is largest
    assert check_value(b"") == b""
    with pytest.raises(TooLarge, match="1048576 bytes, not 1048577"):
        check_value(largest + b"x")


@pytest.mark.parametrize("content_type", ["text/plain", "application/json; charset=utf-8", "x" * 256])
def test_a_content_type_is_printable_ascii(content_type: str) -> None:
    assert check_content_type(content_type) is content_type


@pytest.mark.parametrize("content_type", ["", "x" * 257, "text/pl\u00e4in", "text/plain\r\nX: y", "\x7f"])
def test_a_bad_content_type_is_a_bad_request(content_type: str) -> None:
    with pytest.raises(BadRequest):
        check_content_type(content_type)


@pytest.mark.parametrize("key", ["k", "~" * 128, "5f0c-1"])
def test_an_idempotency_key_is_visible_ascii(key: str) -> None:
    assert check_idempotency_key(key) is key


@pytest.mark.parametrize("key", ["", "k" * 129, "a b", "a\n", "\u00e9", "\x7f"])
def test_a_bad_idempotency_key_is_a_bad_request(key: str) -> None:
    with pytest.raises(BadRequest):
        check_idempotency_key(key)
