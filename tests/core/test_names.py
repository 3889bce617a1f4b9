"""Names: what is let through is what the rule says, and nothing can be told two ways."""

import re
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from loradock.core.errors import LoradockError
from loradock.core.names import (
    MAX_VERSION,
    RESERVED,
    AdapterName,
    check_adapter_name,
    check_alias,
    check_simple_name,
    parse_served_name,
    path_part,
    served_name,
)

FIRST = "abcXYZ019"
REST = FIRST + "._-"
parts = st.builds(lambda head, tail: head + tail, st.sampled_from(FIRST), st.text(REST, max_size=62))
simple_names = parts.filter(lambda part: part.lower() not in RESERVED)
adapter_names = st.one_of(
    simple_names, st.builds(lambda org, name: f"{org}/{name}", simple_names, simple_names)
)
versions = st.integers(1, MAX_VERSION)


@given(adapter_names)
def test_every_name_of_the_rule_is_accepted_as_it_stands(name: str) -> None:
    assert check_adapter_name(name) == name


@given(st.text(max_size=140))
def test_whatever_is_accepted_keeps_the_rule(text: str) -> None:
    try:
        check_adapter_name(text)
    except LoradockError as error:
        assert error.code == "invalid_name"
    else:
        assert re.fullmatch(
            r"([A-Za-z0-9][A-Za-z0-9._-]{0,62}/)?[A-Za-z0-9][A-Za-z0-9._-]{0,62}", text, re.ASCII
        )
        assert not {part.lower() for part in text.split("/")} & RESERVED


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "..", "/", "a/", "/a", "a//b", "a/b/c", "-a", ".a", "_a", "a b", "a\n", "a\x00", "ä", "a@1", "a+b",
        "a" * 64, "a/" + "b" * 64, "１", "a%2fb", "../a", "a/..",
    ],
)  # fmt: skip
def test_names_that_break_the_rule_are_refused(text: str) -> None:
    with pytest.raises(LoradockError) as caught:
        check_adapter_name(text)
    assert caught.value.code == "invalid_name"


@pytest.mark.parametrize("word", sorted(RESERVED))
def test_words_of_the_api_are_refused_in_every_place_and_case(word: str) -> None:
    for text in (word, word.upper(), f"org/{word}", f"{word}/name"):
        with pytest.raises(LoradockError):
            check_adapter_name(text)


@given(adapter_names, versions)
def test_a_served_name_leads_back_to_its_version(name: str, version: int) -> None:
    parsed = parse_served_name(served_name(name, version))
    assert (parsed.adapter, parsed.version) == (name, version)
    assert str(parsed) == served_name(name, version)


@pytest.mark.parametrize(
    "text",
    ["greeter", "greeter@", "greeter@0", "greeter@01", "greeter@-1", "greeter@1.0", "greeter@stable", "@1", "a@1@2",
     "greeter@1\n", "greeter@１", "greeter@1234567890"],
)  # fmt: skip
def test_what_is_no_served_name_is_refused(text: str) -> None:
    with pytest.raises(LoradockError) as caught:
        parse_served_name(text)
    assert caught.value.code == "invalid_name"


@given(st.tuples(adapter_names, versions), st.tuples(adapter_names, versions))
def test_two_versions_never_share_a_folder(one: tuple[str, int], other: tuple[str, int]) -> None:
    assert (path_part(*one) == path_part(*other)) == (one == other)


@given(adapter_names, versions)
def test_a_folder_name_is_one_part_of_a_path(name: str, version: int) -> None:
    part = path_part(name, version)
    assert PurePosixPath("root", part).parent == PurePosixPath("root")
    assert part not in {".", ".."}
    assert len(part.encode()) <= 255


def test_an_alias_is_never_a_number() -> None:
    assert check_alias("stable-2") == "stable-2"
    for text in ("1", "007", "a/b", ""):
        with pytest.raises(LoradockError):
            check_alias(text)


def test_engines_and_pools_have_no_slash() -> None:
    assert check_simple_name("engine-1") == "engine-1"
    with pytest.raises(LoradockError):
        check_simple_name("a/b")


def test_models_refuse_bad_names_without_repeating_all_of_them() -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(AdapterName).validate_python("x" * 5000)
    assert len(caught.value.errors()[0]["msg"]) < 300
