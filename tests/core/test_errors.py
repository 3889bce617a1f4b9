"""The catalog of errors, its page, and the error itself."""

import importlib.util
import json
import re
from types import ModuleType

import pytest

from loradock.core.errors import CATALOG, MESSAGE_LIMIT, Fault, LoradockError
from loradock.core.models import Failure


def _generator(config: pytest.Config) -> ModuleType:
    path = config.rootpath / "docs" / "generate_errors.py"
    spec = importlib.util.spec_from_file_location("generate_errors", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_errors_is_what_the_catalog_makes(pytestconfig: pytest.Config) -> None:
    generator = _generator(pytestconfig)
    assert generator.PAGE.read_text() == generator.page(), "run 'make docs'"
    for code in CATALOG:
        assert f"`{code}`" in generator.page()


@pytest.mark.parametrize("code", CATALOG)
def test_every_line_of_the_catalog_is_fit_to_be_shown(code: str) -> None:
    spec = CATALOG[code]
    assert re.fullmatch(r"[a-z][a-z0-9_]{2,39}", code)
    assert 400 <= spec.status < 600
    assert spec.title.endswith(".")
    assert spec.remedy.endswith(".")
    if spec.fault is Fault.CALLER:
        assert not spec.retryable, "the same call again fails again"


def test_an_unknown_code_is_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="unknown error code"):
        LoradockError("no_such_code", "…")


def test_an_error_carries_code_message_and_details() -> None:
    error = LoradockError("adapter_busy", "busy", operation="op-1")
    assert (error.code, error.message, error.details) == ("adapter_busy", "busy", {"operation": "op-1"})
    assert str(error) == "adapter_busy: busy"
    assert error.spec is CATALOG["adapter_busy"]


def test_a_long_message_is_cut() -> None:
    error = LoradockError("internal_error", "x" * 1_000_000)
    assert len(error.message) == MESSAGE_LIMIT
    assert error.message.endswith("…")


def test_a_failure_is_the_error_as_json() -> None:
    failure = Failure.of(LoradockError("no_free_slot", "full", engine="e0"))
    assert json.loads(failure.model_dump_json()) == {
        "code": "no_free_slot", "message": "full", "details": {"engine": "e0"},
    }  # fmt: skip
