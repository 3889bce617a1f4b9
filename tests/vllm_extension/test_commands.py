import json
from typing import Any

import pytest

from loradock_vllm.commands import parse_drain, parse_load, parse_resume, parse_unload
from loradock_vllm.errors import ExtensionError

HEX = "a" * 64
COMMON = {"served_name": "org/greeter@1", "incarnation": "i", "operation": "op", "run_id": "r", "epoch": 1}
LOAD = {**COMMON, "int_id": 1, "path": f"/cache/sha256-{HEX}", "digest": f"sha256:{HEX}"}


def code_of(body: bytes | dict[str, Any]) -> str:
    with pytest.raises(ExtensionError) as caught:
        parse_load(body if isinstance(body, bytes) else json.dumps(body).encode())
    return caught.value.code


def test_a_load_is_read() -> None:
    command = parse_load(json.dumps(LOAD).encode())
    assert (command.served_name, command.int_id, command.epoch) == ("org/greeter@1", 1, 1)


@pytest.mark.parametrize("field", sorted(LOAD))
def test_every_field_of_a_load_is_needed(field: str) -> None:
    assert code_of({name: value for name, value in LOAD.items() if name != field}) == "invalid_request"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("served_name", "greeter"),
        ("served_name", "greeter@0"),
        ("served_name", "greeter@1\n"),
        ("served_name", "a/b/c@1"),
        ("served_name", "*"),
        ("served_name", "../x@1"),
        ("int_id", 0),
        ("int_id", True),
        ("int_id", 2**31),
        ("int_id", 1.0),
        ("int_id", "1"),
        ("epoch", -1),
        ("epoch", 2**63),
        ("digest", HEX),
        ("digest", "sha256:" + "A" * 64),
        ("path", f"relative/{HEX}"),
        ("path", f"/cache/../{HEX}"),
        ("path", f"/cache/\0{HEX}"),
        ("path", "/" + "x" * 5000 + HEX),
        ("operation", ""),
        ("operation", "a b"),
        ("run_id", "x" * 201),
    ],
)
def test_a_malformed_field_is_refused(field: str, value: Any) -> None:
    assert code_of({**LOAD, field: value}) == "invalid_request"


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"{", b"\xff", b'{"epoch":1,"epoch":2}', b"[" * 100_000]
)
def test_a_body_that_is_no_single_object_is_refused(body: bytes) -> None:
    assert code_of(body) == "invalid_request"


def test_a_path_must_carry_the_digest() -> None:
    assert code_of({**LOAD, "path": "/cache/" + "b" * 64}) == "path_without_digest"


@pytest.mark.parametrize("seconds", [-1, 31, "1", True, None, float("nan"), float("inf")])
def test_a_wait_has_bounds(seconds: Any) -> None:
    for parse, field in ((parse_drain, "wait_seconds"), (parse_unload, "drain_seconds")):
        with pytest.raises(ExtensionError):
            parse(json.dumps({**COMMON, field: seconds}).encode())


def test_an_unload_waits_for_nobody_and_cuts_nobody_unless_told() -> None:
    command = parse_unload(json.dumps(COMMON).encode())
    assert (command.only_operation, command.drain_seconds, command.on_timeout) == (None, 0.0, "keep_draining")


def test_an_unload_knows_two_ways_to_end() -> None:
    with pytest.raises(ExtensionError):
        parse_unload(json.dumps({**COMMON, "on_timeout": "hope"}).encode())


def test_fields_of_a_newer_caller_are_left_alone() -> None:
    assert parse_resume(json.dumps({**COMMON, "reason": "x"}).encode()).served_name == "org/greeter@1"
