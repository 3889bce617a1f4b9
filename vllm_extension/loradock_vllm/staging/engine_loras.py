"""A worker's LoRA managers: the worker extension's only knowledge of vLLM's insides.

Written against vLLM 0.25 and 0.32 (`vllm/lora/worker_manager.py`, `model_manager.py`). The engine's own code reads,
packs and places an adapter; what this module adds is where it happens. `reserve`, `commit`, `release` and `remove` run
in the step loop, between two steps; `prepare` runs in a thread.

A slot of the device's buffers that no adapter is registered for is read by no kernel, so it can be written while steps
run. A reservation keeps it from being given away: a pinned entry under a negative id, which no request can name. Should a
step need a slot all the same, vLLM deactivates its oldest adapter, as it always does when all slots are taken.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from loradock_vllm.staging.adapter_file import FILE, NotPlainError, read_tensors
from loradock_vllm.staging.pace import Pace, PacedDict

_WORKER_MANAGER: Final = ("_load_adapter", "_lora_model_cls", "_adapter_manager", "remove_adapter")
_MODEL_MANAGER: Final = (
    "_add_adapter",
    "_last_mapping",
    "_registered_adapters",
    "_active_adapters",
    "lora_index_to_id",
    "modules",
    "capacity",
    "lora_slots",
)
_DEVICES: Final = ("cpu", "cuda")


class StagingRefusedError(Exception):
    """The engine cannot take the adapter now."""


class TooLargeToStageError(Exception):
    """The adapter's file is larger than what may be staged."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """A slot that is kept for an adapter.

    Attributes:
        after: the device's event that its earlier use ended with; None on a CPU.
    """

    int_id: int
    slot: int
    after: Any = None

    @property
    def ghost(self) -> int:
        """The id that holds the slot until the adapter is committed."""
        return -self.int_id


def missing_parts(worker: Any) -> list[str]:
    """What this worker lacks for staged loads, in words; empty when all is there."""
    runner = getattr(worker, "model_runner", None)
    manager = getattr(runner, "lora_manager", None)
    if manager is None:
        return ["model_runner.lora_manager"]
    missing = [f"lora_manager.{name}" for name in _WORKER_MANAGER if not hasattr(manager, name)]
    adapters = getattr(manager, "_adapter_manager", None)
    missing += [f"lora model manager.{name}" for name in _MODEL_MANAGER if not hasattr(adapters, name)]
    if not missing and not all(
        hasattr(adapters._active_adapters, name) for name in ("pin", "touch", "pop", "pinned_items")
    ):
        missing.append("the cache of active adapters with pins")
    device = str(getattr(getattr(worker, "device", None), "type", "unknown"))
    if device not in _DEVICES:
        missing.append(f"a device that this was written for (it is {device})")
    if not missing and adapters.lora_slots < 2:
        missing.append("a second adapter slot (--max-loras 2 or more)")
    config = getattr(worker, "vllm_config", None)
    if getattr(getattr(config, "model_config", None), "enable_sleep_mode", False):
        missing.append("an engine without sleep mode, whose memory stays where it is")
    if getattr(config, "weight_transfer_config", None) is not None:
        missing.append("an engine whose weights are not replaced while it runs")
    return missing


class EngineLoras:
    """The adapters of one worker.

    Args:
        worker: vLLM's worker, in which `missing_parts` misses nothing.
    """

    def __init__(self, worker: Any) -> None:
        self._runner = worker.model_runner
        self._manager = worker.model_runner.lora_manager
        self._device = worker.device
        self._stream: Any = None

    @property
    def _adapters(self) -> Any:
        return self._manager._adapter_manager

    @property
    def _on_cuda(self) -> bool:
        return str(self._device.type) == "cuda"

    def busy(self) -> bool:
        """Whether requests run now. True when this version does not tell."""
        running = getattr(self._runner, "requests", None)
        if running is None:
            running = getattr(getattr(self._runner, "req_states", None), "req_id_to_index", None)
        return running is None or len(running) > 0

    def reserve(self, int_id: int) -> Reservation:
        """Keep a free slot for an adapter.

        Raises:
            StagingRefusedError: the id is resident, or nothing is free.
        """
        adapters = self._adapters
        if int_id in adapters._registered_adapters:
            raise StagingRefusedError(f"int id {int_id} is resident")
        if None not in adapters.lora_index_to_id or len(adapters._active_adapters) >= adapters.lora_slots:
            raise StagingRefusedError("No free lora slots")
        if len(adapters._registered_adapters) >= adapters.capacity:
            raise StagingRefusedError("No free adapter slots")
        # The first one, as the engine itself would take: on a CPU the last must stay unused (vLLM #48421).
        found = Reservation(int_id, adapters.lora_index_to_id.index(None), self._record_event())
        adapters.lora_index_to_id[found.slot] = found.ghost
        adapters._active_adapters[found.ghost] = None
        adapters._active_adapters.pin(found.ghost)
        return found

    def prepare(self, reservation: Reservation, name: str, path: str, pace: Pace, max_bytes: int) -> Any:
        """Read an adapter and write it to its slot, in this thread. Returns what `commit` registers.

        Raises:
            TooLargeToStageError: more than `max_bytes`.
            StagingCancelledError: by `pace`.
            Exception: whatever the engine raises for an adapter that it does not take.
        """
        if self._on_cuda:
            import torch  # noqa: PLC0415

            torch.cuda.set_device(self._device)
            # Of this thread: helpers that wait for work would spin on the step loop's cores.
            torch.set_num_threads(1)
        lora = self._load(reservation.int_id, name, path, pace, max_bytes)
        self._place(reservation, lora, pace)
        return lora

    def commit(self, reservation: Reservation, lora: Any) -> None:
        """Make the adapter one of the engine's, with the bookkeeping of an `add_lora`.

        Raises:
            StagingRefusedError: the slot is no longer kept, or the id or the cache is taken; nothing was changed.
        """
        adapters = self._adapters
        if not self._holds(reservation):
            raise StagingRefusedError("the reserved slot was given away")
        if reservation.int_id in adapters._registered_adapters:
            raise StagingRefusedError(f"int id {reservation.int_id} is resident")
        if len(adapters._registered_adapters) >= adapters.capacity:
            raise StagingRefusedError("No free adapter slots")
        self.release(reservation)
        try:
            adapters._active_adapters[reservation.int_id] = None
            adapters.lora_index_to_id[reservation.slot] = reservation.int_id
            adapters._registered_adapters[reservation.int_id] = lora
        except BaseException:
            self.remove(reservation.int_id)
            raise
        # vLLM 0.25 keeps slot numbers from step to step while a batch looks the same, though a version that comes back
        # may be in another slot now.
        adapters._last_mapping = None

    def release(self, reservation: Reservation) -> None:
        """Give the slot back; one that is not held is no mistake."""
        if self._holds(reservation):
            # Popping calls vLLM's own deactivation, which frees the slot.
            self._adapters._active_adapters.pop(reservation.ghost)

    def remove(self, int_id: int) -> None:
        """Take a committed adapter out again."""
        self._manager.remove_adapter(int_id)

    def _holds(self, reservation: Reservation) -> bool:
        adapters = self._adapters
        return (
            adapters.lora_index_to_id[reservation.slot] == reservation.ghost
            and reservation.ghost in adapters._active_adapters
        )

    def _record_event(self) -> Any:
        """What the staging stream waits for: steps that were begun before the slot became free."""
        if not self._on_cuda:
            return None
        import torch  # noqa: PLC0415

        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _load(self, int_id: int, name: str, path: str, pace: Pace, max_bytes: int) -> Any:
        from vllm.lora.request import LoRARequest  # noqa: PLC0415

        weights = Path(path) / FILE
        if weights.is_file() and weights.stat().st_size > max_bytes:
            raise TooLargeToStageError(f"{weights.stat().st_size} bytes; {max_bytes} may be staged")
        loader = copy.copy(self._manager)
        loader._lora_model_cls = _paced_model(self._manager._lora_model_cls, pace, pinned=self._on_cuda)
        return loader._load_adapter(LoRARequest(lora_name=name, lora_int_id=int_id, lora_path=path))

    def _place(self, reservation: Reservation, lora: Any, pace: Pace) -> None:
        """Pack the adapter and write it to its slot by the engine's own code, on a copy of its bookkeeping."""
        from vllm.lora.model_manager import LoRAModelManager  # noqa: PLC0415

        shadow = copy.copy(self._adapters)
        shadow._registered_adapters, shadow._active_adapters = {}, {}
        shadow.lora_index_to_id = [0] * len(self._adapters.lora_index_to_id)
        shadow.lora_index_to_id[reservation.slot] = None
        shadow._add_adapter(lora)
        pace.pause()
        if reservation.after is None:
            shadow.modules = PacedDict(self._adapters.modules, pace.pause)
            LoRAModelManager.activate_adapter(shadow, reservation.int_id)
            return
        import torch  # noqa: PLC0415

        stream = self._stream
        stream.wait_event(reservation.after)
        shadow.modules = PacedDict(self._adapters.modules, lambda: pace.pause(stream.synchronize))
        try:
            with torch.cuda.stream(stream):
                LoRAModelManager.activate_adapter(shadow, reservation.int_id)
        finally:
            # Until then the copies are only queued; also after a failure nothing may write to the slot any more.
            stream.synchronize()


def _paced_model(engine_class: Any, pace: Pace, *, pinned: bool) -> Any:
    """The engine's class of LoRA models, reading plain files in short pieces of work."""

    class PacedLoRAModel(engine_class):  # type: ignore[misc]
        @classmethod
        def from_local_checkpoint(
            cls, lora_dir: str, expected_lora_modules: set[str], peft_helper: Any, **options: Any
        ) -> Any:
            try:
                tensors = _read_plain(lora_dir, expected_lora_modules, options, pace, pinned=pinned)
            except (NotPlainError, OSError):
                return engine_class.from_local_checkpoint(
                    lora_dir, expected_lora_modules, peft_helper, **options
                )
            options.pop("tensorizer_config_dict", None)
            options.pop("moe_ep_spec", None)
            return engine_class.from_lora_tensors(
                tensors=PacedDict(tensors, pace.pause), peft_helper=peft_helper, **options
            )

    return PacedLoRAModel


def _read_plain(
    folder: str, expected: set[str], options: dict[str, Any], pace: Pace, *, pinned: bool
) -> dict[str, Any]:
    """The tensors, if all of them are of modules that the engine expects and nothing special is asked for."""
    from vllm.lora.utils import is_base_embedding_weights, parse_fine_tuned_lora_name  # noqa: PLC0415

    known = {"lora_model_id", "device", "dtype", "model_vocab_size", "weights_mapper", "skip_prefixes"}
    if unknown := {name for name, value in options.items() if name not in known and value is not None}:
        raise NotPlainError(f"options {sorted(unknown)}")
    tensors = read_tensors(folder, pinned=pinned, pace=pace)
    for name in tensors:
        if is_base_embedding_weights(name) or "base_layer" in name:
            raise NotPlainError(name)
        try:
            module, _ = parse_fine_tuned_lora_name(name, options.get("weights_mapper"))
        except Exception as error:
            raise NotPlainError(name) from error
        if ".experts" in module or module.rsplit(".", 1)[-1] not in expected:
            raise NotPlainError(name)
        pace.pause()
    return tensors
