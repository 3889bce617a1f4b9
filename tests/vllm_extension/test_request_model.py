import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loradock_vllm.request_model import AmbiguousModelError, RequestedModel, is_json, read_model


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (b'{"model":"a@1"}', "a@1"),
        (b'{"mod\\u0065l":"a@1"}', "a@1"),
        ('{"model":"a@1"}'.encode("utf-16"), "a@1"),
        (b'{"messages":[{"model":"b@1"}],"model":"a@1","x":{"model":"c@1"}}', "a@1"),
        (b'{"messages":[{"model":"b@1"}]}', None),
        (b'{"model":""}', None),
        (b'{"model":null}', None),
        (b'{"model":["a@1"]}', None),
        (b'[["model","a@1"]]', None),
        (b'"model"', None),
        (b"", None),
        (b"{", None),
        (b"\xff\xff", None),
        (b"[" * 100_000, None),
    ],
)
def test_the_model_is_the_top_level_field(body: bytes, name: str | None) -> None:
    assert read_model(body).name == name


@pytest.mark.parametrize("second", [b'"model":"b@1"', b'"model":"a@1"', b'"mod\\u0065l":1', b'"model":null'])
def test_a_model_that_stands_twice_is_ambiguous(second: bytes) -> None:
    with pytest.raises(AmbiguousModelError):
        read_model(b'{"model":"a@1",' + second + b"}")


def test_background_work_is_seen() -> None:
    assert read_model(b'{"model":"a@1","background":true}') == RequestedModel("a@1", background=True)
    assert not read_model(b'{"model":"a@1","background":false}').background
    assert not read_model(b'{"model":"a@1","x":{"background":true}}').background


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        (b"application/json", True),
        (b"Application/JSON; charset=utf-8", True),
        (b"application/problem+json", True),
        (b"", True),
        (b"multipart/form-data; boundary=x", False),
        (b"text/plain", False),
    ],
)
def test_only_json_is_read(content_type: bytes, expected: bool) -> None:
    assert is_json(content_type) is expected


@settings(max_examples=50)
@given(st.dictionaries(st.text(), st.recursive(st.text() | st.none(), st.lists)))
def test_it_sees_what_a_json_parser_sees(content: dict[str, Any]) -> None:
    name = content.get("model")
    assert read_model(json.dumps(content).encode()).name == (name if isinstance(name, str) and name else None)
