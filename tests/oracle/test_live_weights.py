"""Mixed traffic on a real vLLM while versions come and go: every answer is exactly that of the weights that are live.

`make test-oracle` runs it for an hour; LORADOCK_ORACLE_SECONDS sets another time.
"""

import asyncio
import os
import time
from collections.abc import Iterator

import pytest

from loradock.dev.engine_environment import EngineEnvironment
from loradock.dev.samples import Samples
from tests.fixtures.infra import PROJECT
from tests.oracle.operator import Operator
from tests.oracle.timeline import Residence, Timeline
from tests.oracle.traffic import Traffic, Verdicts
from tests.oracle.truth import BASE, Truth, learn
from tests.system.checks import check_whole
from tests.system.conftest import empty
from tests.system.running import RunningStack

SECONDS = float(os.environ.get("LORADOCK_ORACLE_SECONDS", "45"))

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(SECONDS + 1000)]

ADAPTERS = {"greeter-v1": "oracle-greeter@1", "greeter-v2": "oracle-greeter@2", "poet": "oracle-poet@1"}
"""Which weights are published as which version."""


@pytest.fixture(scope="module")
def truth(engine_environment: EngineEnvironment, tiny_model: Samples) -> Truth:
    return learn(engine_environment, tiny_model, tiny_model.adapters, PROJECT / ".loradock" / "cache")


@pytest.fixture
def stack(vllm_stack: RunningStack) -> Iterator[RunningStack]:
    yield vllm_stack
    try:
        check_whole(vllm_stack)
    finally:
        empty(vllm_stack)


async def operate(stack: RunningStack, traffic: Traffic, operator: Operator, seconds: float) -> Verdicts:
    asking = asyncio.create_task(traffic.run())
    ends = time.monotonic() + seconds
    try:
        while time.monotonic() < ends and not traffic.verdicts.wrong and not asking.done():
            await asyncio.to_thread(operator.step)
    finally:
        traffic.stopped.set()
        await asking
    return traffic.verdicts


def test_every_answer_is_that_of_the_weights_that_are_live(
    stack: RunningStack, tiny_model: Samples, truth: Truth
) -> None:
    assert len(truth.questions) >= 4, "too few questions tell the weights apart"
    for weights, name in ADAPTERS.items():
        adapter, version = name.split("@")
        assert stack.publish(adapter, tiny_model.adapters[weights])["version"] == int(version)
    seed = int(time.time())
    timeline = Timeline(
        truth, {**{name: weights for weights, name in ADAPTERS.items()}, tiny_model.base_name: BASE}
    )
    engines = {one: stack.engine_url(one) for one in stack.engines}
    names = [*ADAPTERS.values(), tiny_model.base_name, "oracle-nobody@1"]
    traffic = Traffic(engines, names, truth.questions, timeline, seed)
    operator = Operator(stack, timeline, list(ADAPTERS.values()), seed)
    verdicts = asyncio.run(operate(stack, traffic, operator, SECONDS))
    told = f"seed {seed}: {operator.done} changes ({operator.failed} failed), {verdicts}"
    print(told)
    assert verdicts.wrong == [], told
    assert min(verdicts.right[name] for name in (*ADAPTERS.values(), tiny_model.base_name)) > 0, told
    assert verdicts.right["oracle-nobody@1"] == 0
    assert operator.done >= 4, told
    for name in ADAPTERS.values():  # what is left is taken away by the fixture
        assert timeline.now("engine-1", name) is not Residence.CHANGING
