"""The engines that the contract runs against."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from loradock.core.promises import EnginePromise
from loradock.dev.engine_environment import EngineEnvironment
from loradock.dev.ports import PortPool
from loradock.dev.samples import Samples, reference_answers_now
from loradock.engines import Engine, StockOptions, StockVllmEngine, VllmEngine
from loradock.engines.simulated import Faults, SimulatedEngine, create_app, serving, simulated_text
from loradock.engines.simulated.stock import SimulatedStockEngine, create_stock_app
from loradock.engines.stock import MISSING_PROMISES
from loradock_vllm.pace import LoadLimits
from loradock_vllm.settings import ExtensionSettings
from tests.engines.adapters import HIDDEN, write_adapter
from tests.engines.one_process import OneProcess, server_processes
from tests.engines.pair_contract import LOAD_PAUSE_SECONDS, Pair
from tests.engines.world import Version, World
from tests.fixtures.infra import VllmEngine as RunningVllm
from tests.fixtures.infra import running_vllms, vllm_options

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
    process: int | None = None,
    make: Callable[[httpx.AsyncClient], Engine] | None = None,
    missing: frozenset[EnginePromise] = frozenset(),
) -> AsyncIterator[World]:
    """A client of the engine; of one of its server processes, where `process` names one.

    Args:
        make: its driver; that for our extension by default.
        missing: what it cannot promise.
    """

    def transport() -> httpx.AsyncBaseTransport | None:
        return None if process is None else OneProcess(url, token, process)

    # Certificates are never needed, and reading them takes longer than most tests.
    async with (
        httpx.AsyncClient(trust_env=False, verify=False, transport=transport()) as commands,
        httpx.AsyncClient(
            base_url=url, trust_env=False, verify=False, timeout=60, transport=transport()
        ) as prompts,
    ):
        engine = make(commands) if make else VllmEngine(url, SecretStr(token), client=commands)
        yield World(engine, prompts, url, token, base_model, kind, host, good, expected, TOKENS, missing)


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


@pytest.fixture
def simulated_stock() -> SimulatedStockEngine:
    """The inside of the simulated stock vLLM, to order faults from. Its answers last longer than a drain is judged."""
    return SimulatedStockEngine(
        base_model="tiny-llama",
        max_loras=3,
        max_lora_rank=16,
        hidden_size=HIDDEN,
        faults=Faults(token_seconds=0.01),
    )


def digest_by_path(_: str, path: str) -> str | None:
    """The digest that a path carries which `World.version` made."""
    name = Path(path).name
    return name.replace("-", ":", 1) if name.startswith("sha256-") else None


def stock_driver(url: str, folder: Path, **options: Any) -> Callable[[httpx.AsyncClient], StockVllmEngine]:
    """Makes the driver of a stock engine that has rank 16 and is judged quickly."""
    chosen = StockOptions(**{"max_lora_rank": 16, "quiet_seconds": 0.3, "grace_seconds": 0.6, **options})

    def make(client: httpx.AsyncClient) -> StockVllmEngine:
        return StockVllmEngine(url, folder / "record.json", digest_by_path, options=chosen, client=client)

    return make


@contextlib.asynccontextmanager
async def stock_world_at(url: str, tmp_path: Path, **options: Any) -> AsyncIterator[World]:
    """A simulated stock vLLM that serves at this address."""
    good = [write_adapter(tmp_path / "good" / str(number), rank=4 + number) for number in range(3)]

    def expected(version: Version | None, prompt: str) -> str:
        return simulated_text(version.digest if version else None, prompt, TOKENS)

    make, missing = stock_driver(url, tmp_path, **options), frozenset(MISSING_PROMISES)
    host, kind = tmp_path / "host", "stock-vllm"
    async with _world(url, "", "tiny-llama", kind, host, good, expected, make=make, missing=missing) as world:
        yield world


@pytest.fixture
async def stock_world(simulated_stock: SimulatedStockEngine, tmp_path: Path) -> AsyncIterator[World]:
    """A simulated stock vLLM on a port of its own."""
    async with (
        serving(create_stock_app(simulated_stock)) as url,
        stock_world_at(url, tmp_path) as world,
    ):
        yield world


@pytest.fixture
async def simulated_pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """A simulated engine with two ranks and two server processes, which here share one loop."""
    engine = SimulatedEngine(
        base_model="tiny-llama", max_loras=3, max_lora_rank=16, hidden_size=HIDDEN, ranks=2, api_servers=2,
        faults=Faults(token_seconds=0.002),
    )  # fmt: skip
    settings = ExtensionSettings(
        token=TOKEN, runtime_folder=tmp_path / "run", load_limits=LoadLimits(pause_seconds=LOAD_PAUSE_SECONDS)
    )
    good = [write_adapter(tmp_path / "good" / str(number), rank=4 + number) for number in range(3)]

    def expected(version: Version | None, prompt: str) -> str:
        return simulated_text(version.digest if version else None, prompt, TOKENS)

    def world(url: str) -> contextlib.AbstractAsyncContextManager[World]:
        return _world(url, TOKEN, "tiny-llama", "simulated", tmp_path / "host", good, expected)

    async with (
        serving(create_app(engine, settings=settings)) as first,
        serving(create_app(engine.sibling(), settings=settings)) as second,
        world(first) as one,
        world(second) as other,
    ):
        yield Pair(one, other)


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


@pytest.fixture(scope="module")
def vllm_stock(
    engine_environment: EngineEnvironment,
    tiny_model: Samples,
    tmp_path_factory: pytest.TempPathFactory,
    _infra_ports: PortPool,
) -> Iterator[RunningVllm]:
    """A real vLLM without anything of ours.

    It has more slots than all tests load adapters: on a CPU answers of the base are wrong once the last one was used.
    """
    name = "vllm-stock"
    slots = ("--max-loras", "256", "--max-cpu-loras", "256")
    options = vllm_options(
        name, tiny_model, tmp_path_factory.mktemp(name), _infra_ports, stock=True, arguments=slots
    )
    with running_vllms(engine_environment, options) as engines:
        yield engines[0]


@pytest.fixture
async def vllm_stock_world(
    vllm_stock: RunningVllm, tiny_model: Samples, reference: dict[str, dict[str, str]], tmp_path: Path
) -> AsyncIterator[World]:
    """That engine as one of four slots, empty before and after."""

    def expected(version: Version | None, prompt: str) -> str:
        return reference[version.source.name if version else ""][prompt]

    make = stock_driver(vllm_stock.url, tmp_path, max_loras=4, quiet_seconds=0.1)
    host, good, missing = tmp_path / "host", list(tiny_model.adapters.values()), frozenset(MISSING_PROMISES)
    base, url, kind = vllm_stock.base_model, vllm_stock.url, "stock-vllm"
    async with _world(url, "", base, kind, host, good, expected, make=make, missing=missing) as world:
        yield world
        await world.clean()


@pytest.fixture(scope="module")
def resolver_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a plugin of `vllm_of_two` looks for adapters by the names of requests."""
    return tmp_path_factory.mktemp("resolved")


@pytest.fixture(scope="module")
def vllm_of_two(
    engine_environment: EngineEnvironment,
    tiny_model: Samples,
    resolver_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    _infra_ports: PortPool,
) -> Iterator[RunningVllm]:
    """A real vLLM with two data parallel ranks and, as vLLM does it then, two API server processes."""
    name = "vllm-of-two"
    variables = {
        "LORADOCK_EXTENSION_LOAD_PAUSE_SECONDS": str(LOAD_PAUSE_SECONDS),
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "600",
        "VLLM_PLUGINS": "lora_filesystem_resolver",
        "VLLM_LORA_RESOLVER_CACHE_DIR": str(resolver_folder),
    }
    options = vllm_options(
        name, tiny_model, tmp_path_factory.mktemp(name), _infra_ports, ranks=2, variables=variables
    )
    with running_vllms(engine_environment, options) as engines:
        yield engines[0]


@pytest.fixture
async def vllm_pair(
    vllm_of_two: RunningVllm, tiny_model: Samples, reference: dict[str, dict[str, str]], tmp_path: Path
) -> AsyncIterator[Pair]:
    """That engine, through each of its processes, empty before and after."""
    good = list(tiny_model.adapters.values())
    url, token = vllm_of_two.url, vllm_of_two.token

    def expected(version: Version | None, prompt: str) -> str:
        return reference[version.source.name if version else ""][prompt]

    def world(process: int) -> contextlib.AbstractAsyncContextManager[World]:
        host, base = tmp_path / "host", vllm_of_two.base_model
        return _world(url, token, base, "vllm", host, good, expected, process)

    first, second = await server_processes(url, token, 2)
    async with world(first) as one, world(second) as other:
        yield Pair(one, other)
        await one.clean()
