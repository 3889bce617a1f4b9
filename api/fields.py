"""Types of the values in paths, queries and bodies: checked by the rules of `loradock.core`, with their own error codes."""

import re
from collections.abc import Callable
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from api.text import MAX_INT4
from loradock.core.errors import LoradockError
from loradock.core.names import (
    MAX_BASE_MODEL,
    MAX_VERSION,
    check_adapter_name,
    check_alias,
    check_base_model_name,
    check_simple_name,
)
from loradock.core.uris import MAX_URI, check_source_uri

MAX_DRAIN_SECONDS: Final = 24 * 3600

_DURATION = re.compile(r"(?P<number>[0-9]{1,9}(?:\.[0-9]{1,6})?)(?P<unit>ms|s|m|h)")
_SECONDS_OF: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def coded(check: Callable[[str], str]) -> AfterValidator:
    """A check of core as a validator; the problem that is answered keeps the check's own code."""
    return AfterValidator(lambda value: _run_coded(check, value))


def parse_duration(value: Any) -> Any:
    """Seconds of `"30s"`, `"1.5m"`, `"500ms"` or a number; anything else is left for the type to refuse."""
    if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        return float(match["number"]) * _SECONDS_OF[match["unit"]]
    if isinstance(value, (str, bool)):
        raise PydanticCustomError("duration", "give seconds as a number, or a text like '30s', '500ms', '2m'")
    return value


def parse_version_choice(value: Any) -> int | str:
    """A version's number or an alias, told apart by their JSON type."""
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_VERSION:
        return value
    if not isinstance(value, str):
        raise PydanticCustomError("version", "give a version's number (from 1) or an alias")
    return _run_coded(check_alias, value)


def _run_coded(check: Callable[[str], str], value: str) -> str:
    try:
        return check(value)
    except LoradockError as error:
        raise PydanticCustomError(error.code, "{reason}", {"reason": error.message}) from None


AdapterField = Annotated[
    str,
    Field(json_schema_extra={"maxLength": 127}, examples=["greeter", "acme/greeter"]),
    coded(check_adapter_name),
]
SimpleField = Annotated[
    str, Field(json_schema_extra={"maxLength": 63}, examples=["default"]), coded(check_simple_name)
]
AliasField = Annotated[
    str, Field(json_schema_extra={"maxLength": 63}, examples=["stable"]), coded(check_alias)
]
BaseModelField = Annotated[
    str,
    Field(json_schema_extra={"maxLength": MAX_BASE_MODEL}, examples=["meta-llama/Llama-3.1-8B-Instruct"]),
    coded(check_base_model_name),
]
SourceField = Annotated[
    str,
    Field(
        max_length=MAX_URI,
        examples=["file:///srv/adapters/greeter", "s3://trained/greeter/run-7", "hf://acme/greeter@v1"],
    ),
    coded(check_source_uri),
]
VersionChoice = Annotated[int | str, BeforeValidator(parse_version_choice, json_schema_input_type=int | str)]
VersionNumber = Annotated[int, Field(strict=True, ge=1, le=MAX_VERSION, examples=[1])]
PathVersion = Annotated[int, Field(ge=1, le=MAX_VERSION)]
Count = Annotated[int, Field(strict=True, ge=1, le=MAX_INT4, examples=[1])]
Duration = Annotated[
    float,
    BeforeValidator(parse_duration, json_schema_input_type=float | str),
    Field(ge=0, le=MAX_DRAIN_SECONDS, allow_inf_nan=False, examples=["30s", 30]),
]
