"""The worker's part of staged loads on vLLM's own LoRA managers, without an engine around them.

Run by path with the engine environment's Python and our extension on its path; prints `{behaviour: failure or ""}` as JSON.
The model is one layer, whose buffers only note what is written to which slot.
"""

import json
import math
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file, save_file
from vllm.lora.model_manager import AdapterLRUCache, LRUCacheLoRAModelManager
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager

from loradock_vllm.staging.adapter_file import NotPlainError, read_tensors
from loradock_vllm.staging.engine_loras import EngineLoras, StagingRefusedError, missing_parts
from loradock_vllm.staging.pace import Pace, StagingCancelledError

SLOTS = 3


class Layer:
    """A layer's slots."""

    def __init__(self):
        self.slots = [None] * SLOTS
        self.failing = False

    def reset_lora(self, index):
        self.slots[index] = None

    def set_lora(self, index, lora_a, lora_b):
        if self.failing:
            raise RuntimeError("The size of tensor a (128) must match the size of tensor b (256)")
        self.slots[index] = lora_b


class Lora:
    """An adapter."""

    def __init__(self, int_id):
        self.id = int_id
        self.modules_to_save = {}
        self.loras = {
            "layer": SimpleNamespace(lora_a=[None], lora_b=f"weights of {int_id}", optimize=lambda: None)
        }

    def get_lora(self, name):
        return self.loras.get(name)

    def check_lora_name(self, name):
        return name in self.loras


def worker(capacity=5):
    """A worker with vLLM's managers: their own methods and caches, put together by hand."""
    manager = LRUCacheLoRAModelManager.__new__(LRUCacheLoRAModelManager)
    manager.lora_config = SimpleNamespace(max_cpu_loras=capacity, max_loras=SLOTS)
    manager._registered_adapters = AdapterLRUCache(capacity, manager.deactivate_adapter)
    manager._active_adapters = AdapterLRUCache(SLOTS, manager._deactivate_adapter)
    manager.lora_index_to_id = [None] * SLOTS
    manager.modules = {"layer": Layer()}
    manager.packed_modules = {}
    manager.is_pooling_model = False
    manager._last_mapping = "the batch before"
    for name in ("_enable_mixed_moe_lora_format", "_enable_moe_shared_loras"):
        setattr(manager, name, False)
    manager._validate_moe_lora_format = lambda _: None
    outer = LRUCacheWorkerLoRAManager.__new__(LRUCacheWorkerLoRAManager)
    outer._adapter_manager = manager
    outer._lora_model_cls = Lora
    outer._load_adapter = lambda request: Lora(request.lora_int_id)
    runner = SimpleNamespace(lora_manager=outer, requests={})
    return SimpleNamespace(model_runner=runner, device=torch.device("cpu"), rank=0)


def pace(seconds=60):
    """No rests."""
    return Pace(lambda: False, work_seconds=0, rest_seconds=0, deadline=time.monotonic() + seconds)


def stage(loras, int_id):
    """Reserve and prepare."""
    reservation = loras.reserve(int_id)
    return reservation, loras.prepare(reservation, f"a{int_id}@1", "/nowhere", pace(), 1)


def loaded(loras, int_id):
    """A staged load."""
    reservation, lora = stage(loras, int_id)
    loras.commit(reservation, lora)
    return reservation


def books(running):
    """Slots, active and registered ids, and what the layer holds."""
    manager = running.model_runner.lora_manager._adapter_manager
    active, registered = set(manager._active_adapters), set(manager._registered_adapters)
    return manager.lora_index_to_id, active, registered, manager.modules["layer"].slots


def a_whole_worker_lacks_nothing():
    assert missing_parts(worker()) == []
    other = worker()
    del other.model_runner.lora_manager._adapter_manager.modules
    assert missing_parts(other) == ["lora model manager.modules"]
    assert missing_parts(SimpleNamespace()) == ["model_runner.lora_manager"]


def a_commit_leaves_the_books_of_an_add():
    staged, added = worker(), worker()
    loaded(EngineLoras(staged), 7)
    manager = added.model_runner.lora_manager._adapter_manager
    manager.add_adapter(Lora(7))
    manager.activate_adapter(7)
    assert books(staged) == books(added), (books(staged), books(added))
    assert not staged.model_runner.lora_manager._adapter_manager._active_adapters.pinned_items
    assert staged.model_runner.lora_manager._adapter_manager._last_mapping is None
    assert staged.model_runner.lora_manager.list_adapters() == {7}


def before_the_commit_nobody_sees_it_and_a_release_leaves_nothing():
    running = worker()
    loras = EngineLoras(running)
    reservation, _ = stage(loras, 7)
    assert running.model_runner.lora_manager.list_adapters() == set()
    loras.release(reservation)
    loras.release(reservation)
    slots, active, registered, _ = books(running)
    assert (slots, active, registered) == ([None] * SLOTS, set(), set())


def a_true_unload_frees_the_slot_for_the_next():
    running = worker()
    loras = EngineLoras(running)
    for int_id in (1, 2, 3):
        loaded(loras, int_id)
    assert running.model_runner.lora_manager.remove_adapter(2)
    loaded(loras, 4)
    slots, active, registered, held = books(running)
    assert slots == [1, 4, 3]
    assert active == registered == {1, 3, 4}
    assert held == ["weights of 1", "weights of 4", "weights of 3"]


def a_full_engine_refuses_and_evicts_nobody():
    running = worker()
    loras = EngineLoras(running)
    for int_id in (1, 2):
        loaded(loras, int_id)
    third = loras.reserve(3)
    for int_id in (4, 1):
        try:
            loras.reserve(int_id)
        except StagingRefusedError:
            continue
        raise AssertionError(int_id)
    loras.release(third)
    loaded(loras, 3)
    assert books(running)[1] == {1, 2, 3}


def a_full_cache_refuses_the_commit_and_evicts_nobody():
    running = worker(capacity=SLOTS)
    loras = EngineLoras(running)
    manager = running.model_runner.lora_manager._adapter_manager
    reservation, lora = stage(loras, 7)
    for int_id in (1, 2, 3):
        manager.add_adapter(Lora(int_id))
    try:
        loras.commit(reservation, lora)
    except StagingRefusedError:
        assert running.model_runner.lora_manager.list_adapters() == {1, 2, 3}
        return
    raise AssertionError("committed")


def a_step_that_needs_a_slot_never_gets_the_reserved_one():
    running = worker()
    loras = EngineLoras(running)
    manager = running.model_runner.lora_manager._adapter_manager
    for int_id in (1, 2):
        loaded(loras, int_id)
    reservation, lora = stage(loras, 7)
    manager.add_adapter(Lora(9))
    manager.activate_adapter(9)
    # The oldest one made room on the device, and is still the engine's.
    assert manager.lora_index_to_id == [9, 2, -7]
    assert running.model_runner.lora_manager.list_adapters() == {1, 2, 9}
    loras.commit(reservation, lora)
    assert manager.lora_index_to_id == [9, 2, 7]
    assert manager.modules["layer"].slots[2] == "weights of 7"


def a_reservation_that_was_wiped_is_not_committed():
    running = worker()
    loras = EngineLoras(running)
    reservation, lora = stage(loras, 7)
    running.model_runner.lora_manager.remove_all_adapters()
    try:
        loras.commit(reservation, lora)
    except StagingRefusedError:
        assert running.model_runner.lora_manager.list_adapters() == set()
        return
    raise AssertionError("committed")


def a_failure_in_the_slot_is_told_in_the_engine_s_words():
    running = worker()
    loras = EngineLoras(running)
    running.model_runner.lora_manager._adapter_manager.modules["layer"].failing = True
    try:
        stage(loras, 7)
    except RuntimeError as error:
        assert "must match the size" in str(error)
        assert running.model_runner.lora_manager.list_adapters() == set()
        return
    raise AssertionError("staged")


def a_staging_past_its_time_stops():
    try:
        pace(seconds=-1).pause()
    except StagingCancelledError:
        return
    raise AssertionError("went on")


def a_plain_file_is_read_as_safetensors_reads_it():
    with tempfile.TemporaryDirectory() as folder:
        tensors = {
            "a": torch.randn(3, 5),
            "b": torch.randn(7, 2).to(torch.bfloat16),
            "c": torch.randn(1, 1).to(torch.float16),
            "large": torch.randn(1100, 1024),
        }
        path = Path(folder) / "adapter_model.safetensors"
        save_file(tensors, path, metadata={"format": "pt"})
        found = read_tensors(folder, pinned=False, pace=pace())
        assert found.keys() == tensors.keys()
        for name, tensor in load_file(path).items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor), name


def a_damaged_or_unusual_file_is_left_to_the_engine_s_reader():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "adapter_model.safetensors"
        save_file({"a": torch.randn(4, 4)}, path)
        good = path.read_bytes()
        header = math.ceil(int.from_bytes(good[:8], "little"))
        for bad in (
            b"",
            good[:7],
            good[:-1],
            good + b"x",
            b"\xff" * 64,
            good[:8] + b"{" * header + good[8 + header :],
            good.replace(b'"F32"', b'"I32"'),
            good.replace(b"[4,4]", b"[4,5]"),
            good.replace(b"[0,64]", b"[0,60]"),
        ):
            assert bad != good
            path.write_bytes(bad)
            try:
                read_tensors(folder, pinned=False, pace=pace())
            except NotPlainError:
                continue
            raise AssertionError(bad[:80])


def main():
    """Run all, tell of each."""
    told = {}
    for name, check in list(globals().items()):
        if callable(check) and name.startswith(("a_", "before_")):
            try:
                check()
                told[name] = ""
            except Exception:
                told[name] = traceback.format_exc()
    print(json.dumps(told))


if __name__ == "__main__":
    sys.exit(main())
