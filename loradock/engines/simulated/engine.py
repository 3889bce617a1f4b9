"""The simulated engine's inside: slots, residency, and faults to order. It keeps the hazards of the real one."""

import asyncio
import copy
import itertools
import random
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from loradock.engines.simulated.adapter_files import check_adapter
from loradock_vllm.admission import AdmittedAdapters
from loradock_vllm.base_config import read_base_config
from loradock_vllm.binding import EngineFacts
from loradock_vllm.version import __version__

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_DEAD: Final = "EngineCore encountered an issue. See stack trace (above) for the root cause."


class Faults(BaseModel):
    """What shall go wrong, or slowly, from now on.

    Attributes:
        load_seconds: how long each load takes.
        load_jitter: by which share of it a load may be longer or shorter.
        load_error: the engine's text with which loads fail; None lets them through.
        failing_loads: how many loads fail with `load_error`; None is all of them.
        failing_rank: the only rank that `load_error` happens on; None is all of them.
        leave_half_loaded: a failing load leaves its id resident, as vLLM does at times.
        ignored_removals: so many removals are accepted and do nothing.
        token_seconds: time between two tokens of an answer.
        silent: prompts are answered with status 500.
        dead: the engine behind the server has died: every call to it fails.
    """

    model_config = ConfigDict(extra="forbid")

    load_seconds: float = Field(default=0.0, ge=0)
    load_jitter: float = Field(default=0.0, ge=0, le=1)
    load_error: str | None = None
    failing_loads: int | None = Field(default=None, ge=0)
    failing_rank: int | None = Field(default=None, ge=0)
    leave_half_loaded: bool = False
    ignored_removals: int = Field(default=0, ge=0)
    token_seconds: float = Field(default=0.0, ge=0)
    silent: bool = False
    dead: bool = False


@dataclass(frozen=True, slots=True)
class Bound:
    """The entry of the server's name table."""

    name: str
    int_id: int
    path: str


class SimulatedEngine:
    """An engine as the extension sees it (`loradock_vllm.binding.EngineBinding`), without a model.

    Args:
        base_model: the served name of the base model.
        max_loras: adapter slots.
        max_lora_rank: highest rank that loads.
        hidden_size: width that adapters' shapes must have; None takes any.
        faults: what goes wrong from the start on.
        base_config: the base model's `config.json`, which the state tells a part of.
        ranks: data parallel ranks, each with slots of its own; prompts go to them in turn.
        api_servers: how many server processes there are for this engine; an object of this class serves one of them.
    """

    def __init__(
        self,
        *,
        base_model: str = "base",
        max_loras: int = 4,
        max_lora_rank: int = 16,
        hidden_size: int | None = None,
        faults: Faults | None = None,
        base_config: Mapping[str, Any] | None = None,
        ranks: int = 1,
        api_servers: int = 1,
    ) -> None:
        self.faults = faults or Faults()
        self.names = AdmittedAdapters({})
        self._hidden_size = hidden_size
        self._ranks: list[dict[int, str]] = [{} for _ in range(ranks)]
        self._turns = itertools.cycle(self._ranks)
        self._facts = EngineFacts(
            kind="simulated",
            version=__version__,
            tested=True,
            base_models=(base_model,),
            device="simulated",
            lora=True,
            max_loras=max_loras,
            usable_slots=max_loras,
            max_lora_rank=max_lora_rank,
            api_servers=api_servers,
            data_parallel_ranks=ranks,
            limitations=("simulated: no model answers here",),
            base_config=read_base_config(SimpleNamespace(hf_config=SimpleNamespace(**(base_config or {})))),
        )

    def sibling(self) -> "SimulatedEngine":
        """The same engine as another of its server processes sees it: the same slots, a table of names of its own."""
        other = copy.copy(self)
        other.names = AdmittedAdapters({})
        return other

    @property
    def base_model(self) -> str:
        """The served name of the base model."""
        return self._facts.base_models[0]

    def paths(self) -> dict[str, str]:
        """The folders of all adapters that are served, by name."""
        return {bound.name: bound.path for bound in self.names.values()}

    def running(self, model: str | None) -> AbstractContextManager[None]:
        """The extension counts the requests."""
        del model
        return nullcontext()

    @property
    def facts(self) -> EngineFacts:
        """What does not change while the engine runs."""
        return self._facts

    async def prepare(self) -> None:
        """Nothing to find out."""

    async def list_ids(self) -> set[int]:
        """The int ids that any rank holds now."""
        return set().union(*await self.list_ranks())

    async def list_ranks(self) -> list[set[int]]:
        """The int ids that are resident now, on each rank."""
        self._check_alive()
        return [set(resident) for resident in self._ranks]

    async def add(self, name: str, int_id: int, path: str) -> bool:
        """Load an adapter into every rank.

        As in vLLM, a rank takes an id that is resident as it is, whatever the path says; no rank waits for another.
        """
        jitter = random.uniform(-self.faults.load_jitter, self.faults.load_jitter)  # noqa: S311
        await asyncio.sleep(self.faults.load_seconds * (1 + jitter))
        self._check_alive()
        failing = self._fails()
        errors = []
        for number, resident in enumerate(self._ranks):
            try:
                if int_id not in resident:
                    fails = failing and self.faults.failing_rank in (None, number)
                    self._add_to(resident, name, int_id, path, fails=fails)
            except RuntimeError as error:
                errors.append(error)
        if errors:
            raise errors[0]
        return True

    def _add_to(self, resident: dict[int, str], name: str, int_id: int, path: str, *, fails: bool) -> None:
        if fails:
            if self.faults.leave_half_loaded:
                resident[int_id] = path
            raise RuntimeError(f"Call to add_lora method failed: {self.faults.load_error}")
        try:
            check_adapter(
                name, Path(path), max_lora_rank=self._facts.max_lora_rank, hidden_size=self._hidden_size
            )
        except ValueError as error:
            raise RuntimeError(f"Call to add_lora method failed: {error}") from error
        if len(resident) >= self._facts.max_loras:
            del resident[next(iter(resident))]
        resident[int_id] = path

    async def remove(self, int_id: int) -> bool:
        """Take an adapter out of every rank."""
        self._check_alive()
        if self.faults.ignored_removals:
            self.faults.ignored_removals -= 1
            return True
        removed = [resident.pop(int_id, None) is not None for resident in self._ranks]
        return all(removed)

    def bind_name(self, name: str, int_id: int, path: str) -> None:
        """Have requests for `name` answered by the adapter."""
        self.names.bind(name, Bound(name, int_id, path))

    def unbind_name(self, name: str) -> None:
        """Stop answering for `name`."""
        self.names.unbind(name)

    def foreign_names(self) -> dict[str, int]:
        """There are none."""
        return {}

    def may_read_body(self, path: str, headers: list[tuple[bytes, bytes]]) -> bool:
        """The server's own key is checked after the body was read: it is small."""
        return bool(path) or bool(headers)

    def digest_for(self, model: str | None) -> str | None:
        """The digest of the weights that answer for a model now; None for the base model.

        Raises:
            LookupError: the current request knows no such model.
        """
        if model is None or model in self._facts.base_models:
            return None
        bound: Bound = self.names[model]
        # What is resident under the id answers, not what the name was meant for. Not resident: read from its path again.
        return digest_in(next(self._turns).setdefault(bound.int_id, bound.path))

    def _fails(self) -> bool:
        if self.faults.load_error is None or self.faults.failing_loads == 0:
            return False
        if self.faults.failing_loads is not None:
            self.faults.failing_loads -= 1
        return True

    def _check_alive(self) -> None:
        if self.faults.dead:
            raise RuntimeError(_DEAD)


def digest_in(path: str) -> str:
    """What stands for the weights in a folder: the digest that its path carries, else the path."""
    found = _DIGEST.findall(path)
    return f"sha256:{found[-1]}" if found else f"path:{path}"
