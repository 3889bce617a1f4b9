"""What the extension needs of an engine. vLLM is one; a simulated one for tests is another."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What does not change while the engine runs.

    Attributes:
        kind: `vllm` or `simulated`.
        tested: whether the extension was tested with this version on this device.
        base_models: the names under which the base model is served; the first is the one to show.
        lora: whether the engine was started with LoRA.
        max_loras: adapter slots.
        usable_slots: slots that can be used without harm.
        max_lora_rank: the highest rank that a slot can take.
        api_servers: how many server processes answer for the engine.
        data_parallel_ranks: how many copies of the model the server sends requests to.
        port: where the server listens; with its processes' common parent it tells one engine of a host from another.
        missing: what this version lacks for loading and unloading; empty when all is there.
        limitations: sentences for people.
        capabilities: what this engine can do beyond what all can, as words of the state.
        base_config: the part of the base model's `config.json` that adapters are compared with; empty when unknown.
    """

    kind: str
    version: str
    tested: bool
    base_models: tuple[str, ...]
    device: str
    lora: bool
    max_loras: int
    usable_slots: int
    max_lora_rank: int
    api_servers: int = 1
    data_parallel_ranks: int = 1
    port: int = 0
    missing: tuple[str, ...] = ()
    limitations: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    base_config: Mapping[str, Any] = field(default_factory=dict)


class EngineBinding(Protocol):
    """The engine behind the server. Every method may raise whatever the engine raises."""

    @property
    def facts(self) -> EngineFacts:
        """What does not change while the engine runs."""

    async def prepare(self) -> None:
        """Find out what only the running engine can tell, which may change the facts once. Never raises."""

    async def list_ranks(self) -> list[set[int]]:
        """The int ids that are resident now, on each data parallel rank; an engine without such ranks is one."""

    async def add(self, name: str, int_id: int, path: str) -> bool:
        """Load an adapter into every rank, and return when all have answered; nothing is served under its name yet."""

    async def remove(self, int_id: int) -> bool:
        """Take an adapter out of every rank."""

    def bind_name(self, name: str, int_id: int, path: str) -> None:
        """Have admitted requests for `name` answered by the adapter `int_id`."""

    def unbind_name(self, name: str) -> None:
        """Stop answering for `name`; a name that is not bound is no mistake."""

    def foreign_names(self) -> dict[str, int]:
        """Adapters that the server knows and the extension did not bind: name to int id."""

    def may_read_body(self, path: str, headers: list[tuple[bytes, bytes]]) -> bool:
        """Whether the server behind would look at this request at all (its own API key)."""
