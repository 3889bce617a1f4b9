"""The stack's engines and what they serve: the tiny model made if needed, then one process per engine."""

import asyncio
import hashlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import httpx

from loradock.core.errors import LoradockError
from loradock.core.settings import EngineKind as AgentEngineKind
from loradock.core.settings import Settings
from loradock.dev.child import ChildSpec
from loradock.dev.dev_file import EngineInfo
from loradock.dev.files import temporary_folder
from loradock.dev.options import EngineKind, StackOptions
from loradock.dev.ports import PortPool
from loradock.dev.probes import http_answers
from loradock.dev.samples import Samples, tiny_model_spec
from loradock.dev.simulated_model import Shape, make_simulated_samples
from loradock.dev.supervisor import Supervisor
from loradock.dev.vllm_process import MAX_LORA_RANK, MAX_LORAS, VllmOptions, extension_folder, vllm_spec


@dataclass(frozen=True, slots=True)
class Fleet:
    """The engines, and the samples where there are any.

    Attributes:
        started: whether the engines are ours.
    """

    engines: tuple[EngineInfo, ...]
    samples: Samples | None
    started: bool


class EngineStarter:
    """Makes the samples and starts the engines of a stack.

    Args:
        token_file: holds the extensions' bearer token.
    """

    def __init__(
        self, options: StackOptions, ports: PortPool, supervisor: Supervisor, token_file: Path
    ) -> None:
        self._options = options
        self._ports = ports
        self._supervisor = supervisor
        self._token_file = token_file
        self._temporary = options.state / "tmp"

    def check(self) -> None:
        """See, before anything is started, that the engines can be started at all.

        Raises:
            LoradockError: `engine_environment_missing`.
        """
        if not self._options.settings.engines and self._options.engine_kind is EngineKind.VLLM:
            self._options.environment.check_present()

    async def prepare(self) -> Fleet:
        """Make the samples; tells where the engines will be."""
        options = self._options
        self._temporary = temporary_folder(options.state)
        if options.settings.engines:
            return Fleet(await self._external_engines(), await self._samples_if_possible(), started=False)
        samples = await self._samples()
        engines = tuple(
            EngineInfo(
                id=f"engine-{number}",
                url=f"http://127.0.0.1:{self._ports.take(f'engine-{number}')}",
                kind=options.engine_kind.value,
                base_model=samples.base_name,
            )
            for number in range(1, options.engines + 1)
        )
        return Fleet(engines, samples, started=True)

    async def start(self, fleet: Fleet) -> None:
        """Start all engines at once and wait until all are ready.

        Raises:
            LoradockError: `stack_failed`, or `engine_environment_missing` when vLLM turns out to be broken.
        """
        if not fleet.started or fleet.samples is None:
            return
        specs = [self._spec(engine.id, fleet.samples) for engine in fleet.engines]
        try:
            async with asyncio.TaskGroup() as tasks:
                for spec in specs:
                    tasks.create_task(self._supervisor.start(spec))
        except* LoradockError as group:
            if self._options.engine_kind is EngineKind.VLLM and _is_import_failure(group):
                await asyncio.to_thread(self._options.environment.check_import)
            raise group.exceptions[0] from None

    def _spec(self, name: str, samples: Samples) -> ChildSpec:
        port, extension = self._ports.take(name), extension_folder(self._options.state)
        if self._options.engine_kind is EngineKind.SIMULATED:
            spec = simulated_spec(name, port, samples.base_name, self._token_file, extension)
        else:
            vllm = VllmOptions(
                name=name,
                port=port,
                model=samples.base,
                model_name=samples.base_name,
                token_file=self._token_file,
                cache=self._options.cache,
                extension=extension,
                temporary=self._temporary,
            )
            spec = vllm_spec(self._options.environment, vllm)
        self._ports.release(name)
        return spec

    async def _samples(self) -> Samples:
        folder = self._options.samples_folder
        if self._options.engine_kind is EngineKind.SIMULATED:
            await asyncio.to_thread(make_simulated_samples, folder)
        elif not _made(folder):
            await self._supervisor.run(
                tiny_model_spec(self._options.environment, folder, cache=self._options.cache)
            )
        return Samples.read(folder)

    async def _samples_if_possible(self) -> Samples | None:
        """With engines from outside the samples are a convenience: they fit only a tiny base."""
        try:
            return Samples.read(self._options.samples_folder)
        except LoradockError:
            return None

    async def _external_engines(self) -> tuple[EngineInfo, ...]:
        settings = self._options.settings
        found = []
        async with httpx.AsyncClient(timeout=5.0) as client:
            for engine, url in settings.engines:
                try:
                    base = await _base_of(client, settings, url)
                except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
                    message = f"engine {engine} at {url} does not answer as one: {type(error).__name__}"
                    raise LoradockError("engine_unreachable", message) from None
                found.append(EngineInfo(id=engine, url=url, kind=settings.engine_kind.value, base_model=base))
        return tuple(found)


async def _base_of(client: httpx.AsyncClient, settings: Settings, url: str) -> str:
    """What an engine that is not ours calls its base model."""
    if settings.engine_kind is not AgentEngineKind.STOCK_VLLM:
        headers = {"Authorization": f"Bearer {settings.require_engine_token()}"}
        reply = await client.get(f"{url}/loradock/v1/state", headers=headers)
        return str(reply.raise_for_status().json()["base_model"])
    key = settings.engine_api_key
    headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    reply = await client.get(f"{url}/v1/models", headers=headers)
    return str(reply.raise_for_status().json()["data"][0]["id"])


def simulated_spec(name: str, port: int, base_model: str, token_file: Path, extension: Path) -> ChildSpec:
    """A simulated engine's process; it uses parts of our extension, as `vllm_spec`'s does."""
    paths = os.pathsep.join(filter(None, (str(extension), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "loradock.engines.simulated", "--host", "127.0.0.1", "--port", str(port)]
    command += [
        "--base-model",
        base_model,
        "--max-loras",
        str(MAX_LORAS),
        "--max-lora-rank",
        str(MAX_LORA_RANK),
    ]
    command += ["--hidden-size", str(Shape().hidden)]
    return ChildSpec(
        name=name,
        command=tuple(command),
        env={
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": paths,
            "PYTHONUNBUFFERED": "1",
            "LORADOCK_EXTENSION_TOKEN_FILE": str(token_file),
        },
        ready=lambda: http_answers(f"http://127.0.0.1:{port}/health"),
        timeout=60.0,
    )


def _is_import_failure(group: BaseExceptionGroup[LoradockError]) -> bool:
    return any(
        word in str(error) for error in group.exceptions for word in ("ImportError", "ModuleNotFoundError")
    )


def _made(folder: Path) -> bool:
    """Whether the samples of today's recipe are there, without starting a torch to say so."""
    try:
        made = json.loads((folder / "samples.json").read_text())["recipe"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    script = Path(__file__).with_name("tiny_model.py")
    return bool(made == hashlib.sha256(script.read_bytes()).hexdigest())
