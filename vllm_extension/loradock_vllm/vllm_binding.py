"""The extension's only knowledge of vLLM's insides."""

import logging
import os
from dataclasses import replace
from typing import Any, Final

from loradock_vllm.admission import AdmittedAdapters
from loradock_vllm.asgi import Scope
from loradock_vllm.auth import TokenGuard
from loradock_vllm.base_config import read_base_config
from loradock_vllm.binding import EngineFacts
from loradock_vllm.staging.loads import CAPABILITY, NotStagedError, StagedLoads, StagedLoadSettings
from loradock_vllm.version import TESTED_VLLM, is_tested
from loradock_vllm.vllm_ranks import Ranks

_ENGINE_CALLS: Final = ("add_lora", "remove_lora", "list_loras")
_KEYED_PREFIX: Final = "/v1"
"""Paths that vLLM guards with its own API key in every version tested."""

logger = logging.getLogger("vllm.loradock")


class VllmBinding:
    """A running vLLM API server, reached through its application's state.

    Args:
        state: the application's state, with `engine_client`, `openai_serving_models` and `args`.
    """

    def __init__(self, state: Any) -> None:
        self._engine = getattr(state, "engine_client", None)
        self._models = getattr(state, "openai_serving_models", None)
        self._args = getattr(state, "args", None)
        self._ranks = Ranks(self._engine)
        self._lora_request_class, self._version = _import_vllm()
        self._names = self._install_names()
        self._resolvers = self._switch_off_resolvers()
        self._facts = self._read_facts()
        self._staged = self._read_staged_loads()
        self._told: tuple[str | None, EngineFacts] = (None, self._facts)
        keys = [key for key in _as_list(getattr(self._args, "api_key", None)) if key]
        keys = keys or [key for key in (os.environ.get("VLLM_API_KEY", ""),) if key]
        self._key_guard = TokenGuard(keys) if keys else None

    @classmethod
    def from_scope(cls, scope: Scope) -> "VllmBinding":
        """The server that handles this connection."""
        return cls(getattr(scope.get("app"), "state", None))

    @property
    def facts(self) -> EngineFacts:
        """What does not change while the engine runs, once `prepare` has asked it."""
        why_not = self._staged.why_not
        if self._told[0] != why_not:
            self._told = (why_not, _with_staged_loads(self._facts, why_not))
        return self._told[1]

    async def prepare(self) -> None:
        """Ask the workers whether they can stage loads."""
        if not self._facts.lora:
            return
        why_not = await self._staged.find_out()
        logger.info("Loradock extension: staged loads: %s", f"no, {why_not}" if why_not else "yes")

    async def list_ranks(self) -> list[set[int]]:
        """The int ids that are resident now, on each rank."""
        return [set(ids) for ids in await self._ranks.call("list_loras")]

    async def add(self, name: str, int_id: int, path: str) -> bool:
        """Load an adapter into every rank, beside the engine's steps where the workers can do that."""
        if not await self._staged.find_out():
            try:
                await self._staged.add(name, int_id, path)
            except NotStagedError as error:
                logger.warning("Loradock extension: %s is loaded in the step loop: %s", name, error)
            else:
                return True
        return all(await self._ranks.call("add_lora", self._request(name, int_id, path)))

    async def remove(self, int_id: int) -> bool:
        """Take an adapter out of every rank."""
        return all(await self._ranks.call("remove_lora", int_id))

    def bind_name(self, name: str, int_id: int, path: str) -> None:
        """Have admitted requests for `name` answered by the adapter."""
        if self._names is not None:
            self._names.bind(name, self._request(name, int_id, path))

    def unbind_name(self, name: str) -> None:
        """Stop answering for `name`."""
        if self._names is not None:
            self._names.unbind(name)

    def foreign_names(self) -> dict[str, int]:
        """Adapters of `--lora-modules`: name to int id."""
        if self._names is None:
            return {}
        return {name: int(request.lora_int_id) for name, request in self._names.foreign().items()}

    def may_read_body(self, path: str, headers: list[tuple[bytes, bytes]]) -> bool:
        """False where vLLM will refuse the request for its API key: such a body is not worth reading."""
        if self._key_guard is None or not path.startswith(_KEYED_PREFIX):
            return True
        return self._key_guard.allows(headers)

    def _request(self, name: str, int_id: int, path: str) -> Any:
        assert self._lora_request_class is not None  # noqa: S101
        return self._lora_request_class(lora_name=name, lora_int_id=int_id, lora_path=path)

    def _install_names(self) -> AdmittedAdapters | None:
        """Put our table in the place of the server's, so that only admitted requests see our adapters."""
        entries = getattr(self._models, "lora_requests", None)
        if isinstance(entries, AdmittedAdapters):
            return entries
        if not isinstance(entries, dict) or self._models is None:
            return None
        names = AdmittedAdapters(entries)
        self._models.lora_requests = names
        return names

    def _read_staged_loads(self) -> StagedLoads:
        parallel = getattr(getattr(self._engine, "vllm_config", None), "parallel_config", None)
        return StagedLoads(
            self._engine,
            version=self._version,
            device=self._facts.device,
            extension=str(getattr(parallel, "worker_extension_cls", "") or ""),
            ranks=int(getattr(parallel, "data_parallel_size", 1)),
            settings=StagedLoadSettings.from_environment(os.environ),
        )

    def _switch_off_resolvers(self) -> tuple[str, ...]:
        """Empty the server's list of plugins that bring adapters at a request: one would bring back what was unloaded."""
        resolvers = getattr(self._models, "lora_resolvers", None)
        if not isinstance(resolvers, list):
            return ()
        names = tuple(type(resolver).__name__ for resolver in resolvers)
        resolvers.clear()
        return names

    def _read_facts(self) -> EngineFacts:
        config = getattr(self._engine, "vllm_config", None)
        lora = getattr(config, "lora_config", None)
        device = str(getattr(getattr(config, "device_config", None), "device_type", "") or "unknown")
        max_loras = int(getattr(lora, "max_loras", 0))
        missing = self._missing()
        tested = is_tested(self._version, device)
        return EngineFacts(
            kind="vllm",
            version=self._version,
            tested=tested,
            base_models=self._base_models(),
            device=device,
            lora=lora is not None,
            max_loras=max_loras,
            # On a CPU engine, base requests batched with the last slot's come out wrong (vLLM #48421, #49656).
            usable_slots=max(0, max_loras - 1) if device == "cpu" else max_loras,
            max_lora_rank=int(getattr(lora, "max_lora_rank", 0)),
            api_servers=self._api_servers(),
            data_parallel_ranks=self._ranks.count,
            port=_as_number(getattr(self._args, "port", None)),
            missing=missing,
            limitations=self._limitations(lora, device, tested, missing),
            base_config=read_base_config(getattr(config, "model_config", None)),
        )

    def _base_models(self) -> tuple[str, ...]:
        paths = getattr(self._models, "base_model_paths", None) or ()
        return tuple(str(path.name) for path in paths)

    def _missing(self) -> tuple[str, ...]:
        """What this version lacks for loading and unloading."""
        missing = [
            f"engine_client.{name}"
            for name in _ENGINE_CALLS
            if not callable(getattr(self._engine, name, None))
        ]
        if self._names is None:
            missing.append("openai_serving_models.lora_requests")
        if self._lora_request_class is None:
            missing.append("vllm.lora.request.LoRARequest")
        return (*missing, *self._ranks.missing())

    def _api_servers(self) -> int:
        parallel = getattr(getattr(self._engine, "vllm_config", None), "parallel_config", None)
        counts = (
            getattr(self._args, "api_server_count", None),
            getattr(parallel, "_api_process_count", None),
        )
        return max(1, *map(_as_number, counts))

    def _limitations(self, lora: Any, device: str, tested: bool, missing: tuple[str, ...]) -> tuple[str, ...]:
        found = []
        if not tested:
            known = ", ".join(f"{version} ({'/'.join(devices)})" for version, devices in TESTED_VLLM.items())
            found.append(
                f"vLLM {self._version} on {device} is not tested with this extension; tested are {known}"
            )
        if lora is None:
            found.append("the engine was started without --enable-lora: nothing can be loaded")
        elif device == "cpu":
            found.append("the last adapter slot of a CPU engine is not used (vLLM #48421, #49656)")
        if self._resolvers:
            found.append(f"LoRA resolver plugins are switched off: {', '.join(self._resolvers)}")
        if self.foreign_names():
            found.append("adapters of --lora-modules take slots and are not managed")
        found.extend(f"missing: {what}" for what in missing)
        return tuple(found)


def _with_staged_loads(facts: EngineFacts, why_not: str | None) -> EngineFacts:
    if why_not is None or not facts.lora:
        return facts
    if not why_not:
        return replace(facts, capabilities=(*facts.capabilities, CAPABILITY))
    limitation = f"loads run in the engine's step loop, where running answers wait for them: {why_not}"
    return replace(facts, limitations=(*facts.limitations, limitation))


def _import_vllm() -> tuple[Any, str]:
    """LoRARequest and vLLM's version, as far as they can be had."""
    try:
        import vllm  # noqa: PLC0415
        from vllm.lora.request import LoRARequest  # noqa: PLC0415
    except ImportError as error:
        logger.warning("Loradock extension: %s", error)
        return None, "unknown"
    return LoRARequest, str(vllm.__version__)


def _as_number(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _as_list(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]
