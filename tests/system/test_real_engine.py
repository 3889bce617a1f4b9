"""The story of one adapter on a real vLLM, from outside: exact tokens, and what must not load."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loradock.dev.engine_environment import EngineEnvironment
from loradock.dev.samples import ReferenceAnswer, Samples, reference_answers_now
from loradock.dev.simulated_model import Shape, write_adapter
from tests.fixtures.infra import PROJECT
from tests.system.checks import check_whole
from tests.system.conftest import empty
from tests.system.running import RunningStack, eventually, source

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(400)]

MAX_TOKENS = 12
Answers = dict[str, list[ReferenceAnswer]]


@pytest.fixture(scope="module")
def truth(engine_environment: EngineEnvironment, tiny_model: Samples) -> Answers:
    """What transformers and PEFT answer."""
    return reference_answers_now(
        engine_environment,
        tiny_model.base,
        tiny_model.adapters,
        tiny_model.prompts,
        max_tokens=MAX_TOKENS,
        cache=PROJECT / ".loradock" / "cache",
    )


@pytest.fixture(name="stack")
def _stack(vllm_stack: RunningStack) -> Iterator[RunningStack]:
    """The stack, whole and empty after each test."""
    yield vllm_stack
    try:
        check_whole(vllm_stack)
    finally:
        empty(vllm_stack)


def tokens(stack: RunningStack, model: str, prompt: str) -> tuple[int, ...]:
    reply = stack.complete("engine-1", model, prompt, max_tokens=MAX_TOKENS, return_token_ids=True)
    assert reply.status_code == 200, reply.text
    return tuple(reply.json()["choices"][0]["token_ids"])


def check_answers(stack: RunningStack, model: str, right: list[ReferenceAnswer], base: Any) -> None:
    for answer, of_base in zip(right, base, strict=True):
        assert tokens(stack, model, answer.prompt) == answer.token_ids
        assert answer.token_ids != of_base.token_ids


def test_an_adapter_from_its_publish_to_its_end(
    stack: RunningStack, tiny_model: Samples, truth: Answers
) -> None:
    adapters = tiny_model.adapters
    assert stack.stack.info.engines[0].kind == "vllm"
    first = stack.publish("greeter", adapters["greeter-v1"])
    stack.load("greeter", 1)
    check_answers(stack, "greeter@1", truth["greeter-v1"], truth[""])
    check_whole(stack)

    second = stack.publish("greeter", adapters["greeter-v2"])
    assert (first["version"], second["version"]) == (1, 2)
    stack.load("greeter", 2)
    check_answers(stack, "greeter@1", truth["greeter-v1"], truth[""])
    check_answers(stack, "greeter@2", truth["greeter-v2"], truth[""])
    check_whole(stack)

    stack.succeed("/v1/adapters/greeter/unload", {"version": 1, "force": True, "drain": "5s"})
    assert stack.held("engine-1") == {"greeter@2"}
    assert stack.complete("engine-1", "greeter@1", "Hello").status_code == 404
    check_answers(stack, "greeter@2", truth["greeter-v2"], truth[""])
    check_whole(stack)

    # Back again: the cache of the engine must not answer with anything old.
    stack.load("greeter", 1)
    check_answers(stack, "greeter@1", truth["greeter-v1"], truth[""])
    stack.unload("greeter")
    assert stack.held("engine-1") == set()
    for answer in truth[""]:
        assert tokens(stack, tiny_model.base_name, answer.prompt) == answer.token_ids
    check_whole(stack)


def too_high(folder: Path) -> None:
    write_adapter(folder, seed=1, rank=32)


def too_wide(folder: Path) -> None:
    write_adapter(folder, seed=2, shape=Shape(hidden=256))


def of_unknown_modules(folder: Path) -> None:
    write_adapter(folder, seed=3, modules=("q_proj",))
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        content = (folder / file).read_bytes().replace(b"q_proj", b"z_proj")
        (folder / file).write_bytes(content)


@pytest.mark.parametrize("write", [too_wide, of_unknown_modules])
def test_what_does_not_fit_the_base_is_never_published(
    stack: RunningStack, name: str, tmp_path: Path, write: Callable[[Path], None]
) -> None:
    write(tmp_path / "adapter")
    before = stack.snapshot()
    answer = stack.request("POST", f"/v1/adapters/{name}/versions", {"source": source(tmp_path / "adapter")})
    done = stack.ended(answer.json()["id"])
    assert (done["state"], done["error"]["code"]) == ("failed", "base_model_mismatch"), done
    after = stack.snapshot()
    assert (after.engines, after.cards) == (before.engines, before.cards)


@pytest.mark.parametrize(
    ("write", "code"),
    [(too_high, "rank_too_high")],
)
def test_what_does_not_fit_the_engine_fails_and_leaves_nothing(
    stack: RunningStack, name: str, tmp_path: Path, write: Callable[[Path], None], code: str
) -> None:
    write(tmp_path / "adapter")
    stack.publish(name, tmp_path / "adapter")
    before = stack.snapshot()
    answer = stack.request("POST", f"/v1/adapters/{name}/load", {"version": 1})
    if answer.status_code == 202:
        done = stack.ended(answer.json()["id"])
        assert (done["state"], done["error"]["code"]) == ("failed", code), done
        assert not done["repairs_pending"]
    else:
        assert (answer.status_code, answer.json()["code"]) == (422, code)
    after = stack.snapshot()
    assert (after.engines, after.cards) == (before.engines, before.cards)
    assert stack.engine_state("engine-1")["foreign_int_ids"] == []


def test_an_engine_killed_while_it_serves_forgets_and_serves_the_same_weights_again_without_a_hand(
    stack: RunningStack, tiny_model: Samples, truth: Answers
) -> None:
    stack.publish("poet", tiny_model.adapters["poet"])
    stack.load("poet", 1)
    (before,) = stack.items("/v1/cards")
    stack.kill("engine-1")
    eventually(lambda: not stack.items("/v1/cards?state=serving"), "the dead engine has traffic")
    stack.restart("engine-1")
    eventually(lambda: stack.items("/v1/cards?state=serving"), "it does not serve again", stack.describe)
    (after,) = stack.items("/v1/cards")
    assert after["incarnation"] == stack.engine_state("engine-1")["incarnation"] != before["incarnation"]
    assert (after["served_name"], after["digest"]) == (before["served_name"], before["digest"])
    check_answers(stack, "poet@1", truth["poet"], truth[""])
