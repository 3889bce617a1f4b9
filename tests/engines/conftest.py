"""The engines that the contract runs against."""

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from loradock.dev.engine_environment import EngineEnvironment
from loradock.dev.samples import Samples, reference_answers_now
from loradock.engines import VllmEngine
from loradock.engines.simulated import Faults, SimulatedEngine, create_app, serving, simulated_text
from loradock_vllm.settings import ExtensionSettings
from tests.engines.adapters import HIDDEN, write_adapter
from tests.engines.world import Version, World
from tests.fixtures.infra import VllmEngine as RunningVllm

TOKEN = "token-of-the-simulated-engine"
TOKENS = 16


@contextlib.asynccontextmanager
async def _world(
    url: str,
    token: str,
    base_model: str,
    kind: str,
    host: Path,
    good: list[Path],
    expected: Callable[[Version | None, str], str],
) -> AsyncIterator[World]:
    # Certificates are never needed, and reading them takes longer than most tests.
    async with (
        httpx.AsyncClient(trust_env=False, verify=False) as commands,
        httpx.AsyncClient(base_url=url, trust_env=False, verify=False, timeout=60) as prompts,
    ):
        engine = VllmEngine(url, SecretStr(token), client=commands)
        yield World(engine, prompts, url, token, base_model, kind, host, good, expected, TOKENS)


@pytest.fixture
def simulated() -> SimulatedEngine:
    """The inside of the simulated engine, to order faults from."""
    return SimulatedEngine(
        base_model="tiny-llama",
        max_loras=3,
        max_lora_rank=16,
        hidden_size=HIDDEN,
        faults=Faults(token_seconds=0.002),
    )


@contextlib.asynccontextmanager
async def simulated_world_at(url: str, tmp_path: Path) -> AsyncIterator[World]:
    """A simulated engine that serves at this address."""
    good = [write_adapter(tmp_path / "good" / str(number), rank=4 + number) for number in range(3)]

    def expected(version: Version | None, prompt: str) -> str:
        return simulated_text(version.digest if version else None, prompt, TOKENS)

    async with _world(url, TOKEN, "tiny-llama", "simulated", tmp_path / "host", good, expected) as world:
        yield world


@pytest.fixture
async def simulated_world(simulated: SimulatedEngine, tmp_path: Path) -> AsyncIterator[World]:
    """A simulated engine on a port of its own."""
    app = create_app(simulated, settings=ExtensionSettings(token=TOKEN))
    async with serving(app) as url, simulated_world_at(url, tmp_path) as world:
        yield world


@pytest.fixture(scope="session")
def reference(engine_environment: EngineEnvironment, tiny_model: Samples) -> dict[str, dict[str, str]]:
    """What transformers and PEFT answer: by the adapter's folder name (empty for the base), then by prompt."""
    answers = reference_answers_now(
        engine_environment, tiny_model.base, tiny_model.adapters, tiny_model.prompts, max_tokens=TOKENS
    )
    return {name: {answer.prompt: answer.text for answer in given} for name, given in answers.items()}


@contextlib.asynccontextmanager
async def real_world(
    engine: RunningVllm, model: Samples, reference: dict[str, dict[str, str]], host: Path
) -> AsyncIterator[World]:
    """A real vLLM, empty before and after."""

    def expected(version: Version | None, prompt: str) -> str:
        return reference[version.source.name if version else ""][prompt]

    good = list(model.adapters.values())
    async with _world(engine.url, engine.token, engine.base_model, "vllm", host, good, expected) as world:
        yield world
        await world.clean()


@pytest.fixture
async def vllm_world(
    vllm_engine: RunningVllm, tiny_model: Samples, reference: dict[str, dict[str, str]], tmp_path: Path
) -> AsyncIterator[World]:
    """The session's real vLLM."""
    async with real_world(vllm_engine, tiny_model, reference, tmp_path / "host") as world:
        yield world
