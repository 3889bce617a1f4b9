"""Real engines with other workers than one that has our extension: two that share the model, and one without it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from loradock.core.promises import EnginePromise
from loradock.dev.engine_environment import EngineEnvironment
from loradock.dev.ports import PortPool
from loradock.dev.samples import Samples
from tests.engines.adapters import BAD
from tests.engines.conftest import real_world
from tests.engines.contract import refused
from tests.engines.world import PROMPT, World
from tests.fixtures.infra import VllmEngine, running_vllms, vllm_options

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(600)]

STAGED = "staged_load"
TENSOR_PARALLEL = {"arguments": ("--tensor-parallel-size", "2")}
WITHOUT_WORKERS = {"stages_loads": False}


@pytest.fixture(scope="module")
def engines(
    engine_environment: EngineEnvironment,
    tiny_model: Samples,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, VllmEngine]]:
    """Both, started at once."""
    ports = PortPool()
    variants = {"parallel": TENSOR_PARALLEL, "plain": WITHOUT_WORKERS}
    options = [
        vllm_options(name, tiny_model, tmp_path_factory.mktemp(name), ports, **more)
        for name, more in variants.items()
    ]
    with running_vllms(engine_environment, *options) as engines:
        for engine in engines:
            # The first step compiles, in every worker: on a busy machine for longer than a test waits for an answer.
            body = {"model": engine.base_model, "prompt": PROMPT, "max_tokens": 2}
            httpx.post(f"{engine.url}/v1/completions", json=body, timeout=300).raise_for_status()
        yield dict(zip(variants, engines, strict=True))


@pytest.fixture
async def parallel(
    engines: dict[str, VllmEngine], tiny_model: Samples, reference: dict[str, dict[str, str]], tmp_path: Path
) -> AsyncIterator[World]:
    """Two tensor parallel workers."""
    async with real_world(engines["parallel"], tiny_model, reference, tmp_path / "host") as world:
        yield world


@pytest.fixture
async def plain(
    engines: dict[str, VllmEngine], tiny_model: Samples, reference: dict[str, dict[str, str]], tmp_path: Path
) -> AsyncIterator[World]:
    """The middleware alone."""
    async with real_world(engines["plain"], tiny_model, reference, tmp_path / "host") as world:
        yield world


async def answers_are_right(world: World, prompts: list[str]) -> None:
    versions = await world.loaded(*world.good)
    for version in versions:
        for prompt in prompts:
            assert await world.answer(version.served_name, prompt) == world.expected(version, prompt)
    for version in versions:
        assert await world.unload(version) == "unloaded"


async def test_every_worker_of_a_tensor_parallel_engine_gets_its_part(
    parallel: World, tiny_model: Samples
) -> None:
    assert STAGED in (await parallel.engine.state()).capabilities
    await answers_are_right(parallel, tiny_model.prompts)


@pytest.mark.parametrize("what", ["weights cut short", "another base's shapes", "rank above the engine's"])
async def test_an_adapter_that_all_workers_refuse_leaves_the_engine_as_it_was(
    parallel: World, what: str
) -> None:
    code, make = BAD[what]
    kept = (await parallel.loaded())[0]
    source = parallel.host / "bad"
    make(source)
    with refused(code):
        await parallel.load(parallel.version(source))
    state = await parallel.engine.state()
    assert [adapter.served_name for adapter in state.adapters if adapter.resident] == [kept.served_name]
    assert state.foreign_int_ids == ()
    other = (await parallel.loaded(parallel.good[1]))[0]
    for version in (kept, other):
        assert await parallel.answer(version.served_name) == parallel.expected(version, PROMPT)


async def test_without_the_worker_extension_loads_run_in_the_step_loop_and_it_says_so(
    plain: World, tiny_model: Samples
) -> None:
    state = await plain.engine.state()
    assert STAGED not in state.capabilities
    assert any("--worker-extension-cls" in text for text in state.limitations)
    assert state.missing_promises == (EnginePromise.STAGED_LOADS,)
    await answers_are_right(plain, tiny_model.prompts)
