"""Routing as a pure function: whatever is sent, the answer is a target or a refusal, and encoding never changes a name."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringkeep_core.errors import BadRequest, NotFound, RingkeepError
from ringkeep_core.ids import check_key
from ringkeep_node.http.conditions import NEVER, versions_of
from ringkeep_node.http.routing import METHODS, ROUTES, Target, parameters, split_target, switch, whole_number

# What a target can hold: visible ASCII and stray bytes that a client sent as they are.
RAW = st.text(
    st.one_of(st.characters(min_codepoint=0x21, max_codepoint=0x7E), st.sampled_from("\udc80\udcffü")), max_size=60
)
NAMES = st.text(st.characters(exclude_categories=["Cs"], min_codepoint=0x20), min_size=1, max_size=40)


@given(RAW)
def test_whatever_is_sent_is_a_target_or_is_refused(raw: str) -> None:
    for target in (raw, "/" + raw, "/v1/users/" + raw, "/v1/users/u/docs/" + raw, "/v1/users/u/docs?" + raw):
        try:
            found = split_target(target)
        except (BadRequest, NotFound):
            continue
        assert found.route in METHODS
        assert (found.user + found.key).encode().decode() == found.user + found.key


@given(NAMES, NAMES)
def test_names_survive_being_encoded_in_any_way(user: str, key: str) -> None:
    if user in (".", ".."):
        return
    every_byte = "".join(f"%{byte:02x}" for byte in key.encode())
    expected = Target("document", user, key, "")

    for spelled in (quote(key, safe="/"), quote(key, safe=""), every_byte):
        assert split_target(f"/v1/users/{quote(user, safe='')}/docs/{spelled}") == expected


@given(NAMES)
def test_a_key_that_is_allowed_names_one_document_and_a_segment_of_dots_never_does(key: str) -> None:
    try:
        check_key(key)
    except RingkeepError:
        return

    assert not any(segment in (".", "..") for segment in split_target(f"/v1/users/u/docs/{quote(key)}").key.split("/"))


@pytest.mark.parametrize(("path", "route"), sorted(ROUTES.items()))
def test_every_fixed_path_has_its_route_and_nothing_near_it(path: str, route: str) -> None:
    assert split_target(path + "?a=b") == Target(route, query="a=b")
    for near in (path + "/x/y/z", path.upper() if path != path.upper() else path + "x", path + "%20"):
        with pytest.raises(NotFound):
            split_target(near)


@given(
    st.dictionaries(st.sampled_from(["prefix", "after", "limit"]), st.text(st.characters(exclude_categories=["Cs"])))
)
def test_query_parameters_survive_being_encoded(given_: dict[str, str]) -> None:
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in given_.items())

    assert parameters(query, ("prefix", "after", "limit")) == given_


def test_a_plus_in_a_query_is_a_space_as_in_forms() -> None:
    assert parameters("prefix=a+b%2B", ("prefix",)) == {"prefix": "a b+"}
    assert parameters("&&", ()) == {}


@given(st.text(max_size=30))
def test_numbers_and_switches_are_what_they_say_or_refused(text: str) -> None:
    try:
        number = whole_number(text, "x")
    except BadRequest:
        assert not (text.isascii() and text.isdigit() and len(text) <= 18)
    else:
        assert 0 <= number < 10**18
    try:
        assert switch(text, "x") in (True, False)
    except BadRequest:
        assert text not in ("true", "false", "0", "1", "")


@given(st.lists(st.integers(1, 10**15), min_size=1, max_size=20), st.booleans(), st.booleans())
def test_a_list_of_entity_tags_is_read_back(versions: list[int], weak: bool, strong: bool) -> None:
    text = " , ".join(f'{"W/" * weak}"{version}"' for version in versions)

    assert versions_of(text, "If-Match", strong=strong) == (NEVER if weak and strong else tuple(versions))


@given(st.text(st.sampled_from('W/"*, 12a'), max_size=12))
def test_any_list_of_entity_tags_gives_versions_or_is_refused(text: str) -> None:
    for strong in (True, False):
        try:
            versions = versions_of(text, "If-Match", strong=strong)
        except BadRequest:
            continue
        # Nothing but a star means "any version": a list that matches nothing must never become one.
        assert (versions == ()) == (text.strip() == "*")
        assert all(version >= 0 for version in versions)
