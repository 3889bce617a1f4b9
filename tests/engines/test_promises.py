"""No promise is forgotten: each has tests on engines that keep it, and on engines that cannot."""

import re

import pytest

from loradock.core.promises import PROMISED, EnginePromise
from tests.engines import test_vllm
from tests.engines.promises_kept import PromisesKept
from tests.engines.promises_missing import PromisesMissing


def promises_with_tests(*places: object) -> set[EnginePromise]:
    """The promises that tests in these places are about."""
    tests = [value for place in places for name, value in vars(place).items() if name.startswith("test_")]
    return {promise for test in tests for promise in getattr(test, "promises", ())}


def test_each_promise_has_a_test_that_it_is_kept() -> None:
    assert promises_with_tests(PromisesKept, test_vllm) == set(EnginePromise)


def test_each_promise_has_a_test_of_what_happens_without_it() -> None:
    assert promises_with_tests(PromisesMissing) == set(EnginePromise)


def test_each_promise_is_said_in_words_and_stands_in_the_docs(pytestconfig: pytest.Config) -> None:
    assert set(PROMISED) == set(EnginePromise)
    page = (pytestconfig.rootpath / "docs" / "engines.md").read_text()
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == [str(promise) for promise in EnginePromise]
