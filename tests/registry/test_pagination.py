"""Cursors: what was encoded comes back, and nothing else is taken."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradock.core.errors import LoradockError
from loradock.registry.pagination import check_limit, decode_cursor, encode_cursor

SMALL = st.integers(min_value=-(2**63) + 1, max_value=2**63 - 1)
TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=60)


@given(TEXT, SMALL)
def test_a_cursor_gives_back_its_key(name: str, number: int) -> None:
    assert decode_cursor(encode_cursor(name, number), str, int) == (name, number)


@given(st.text(max_size=200))
def test_foreign_text_is_refused(cursor: str) -> None:
    with pytest.raises(LoradockError, match="invalid_request"):
        decode_cursor(cursor, str, int, str)


@given(st.binary(max_size=100))
def test_foreign_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(LoradockError, match="invalid_request"):
        decode_cursor(base64.urlsafe_b64encode(content).decode(), str, int, str)


@pytest.mark.parametrize(
    "cursor",
    [
        encode_cursor("a"),
        encode_cursor(1, "a"),
        encode_cursor("a", "1"),
        encode_cursor("a\x00", 1),
        encode_cursor("a", 2**63),
        encode_cursor("a", True),
        base64.urlsafe_b64encode(b"[" * 900).decode(),
        encode_cursor("a" * 5000, 1),
    ],
)
def test_keys_of_another_form_are_refused(cursor: str) -> None:
    with pytest.raises(LoradockError, match="invalid_request"):
        decode_cursor(cursor, str, int)


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_limits_out_of_bounds_are_refused(limit: int) -> None:
    with pytest.raises(LoradockError, match="invalid_request"):
        check_limit(limit)
