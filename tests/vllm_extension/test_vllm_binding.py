"""What the binding says of servers that lack something. A real vLLM is tested in tests/engines."""

from types import SimpleNamespace
from typing import Any

import pytest

from loradock_vllm import vllm_binding
from loradock_vllm.admission import AdmittedAdapters
from loradock_vllm.controller import Controller
from loradock_vllm.errors import ExtensionError
from loradock_vllm.version import is_tested
from loradock_vllm.vllm_binding import VllmBinding
from tests.vllm_extension.test_ledger import load


class _Request(SimpleNamespace):
    """Stands for vLLM's LoRARequest."""


def server(
    *, device: str = "cpu", lora: bool = True, api_servers: int = 1, **changes: Any
) -> SimpleNamespace:
    """The state of a server's application, with the parts that the binding looks at."""

    async def call(*_: object) -> set[int]:
        return set()

    config = SimpleNamespace(
        lora_config=SimpleNamespace(max_loras=4, max_lora_rank=16) if lora else None,
        device_config=SimpleNamespace(device_type=device),
        parallel_config=SimpleNamespace(data_parallel_size=1, _api_process_count=api_servers),
    )
    return SimpleNamespace(
        **{
            "engine_client": SimpleNamespace(
                vllm_config=config, add_lora=call, remove_lora=call, list_loras=call
            ),
            "openai_serving_models": SimpleNamespace(
                base_model_paths=[SimpleNamespace(name="base"), SimpleNamespace(name="alias")],
                lora_requests={},
            ),
            "args": SimpleNamespace(api_server_count=None, api_key=None),
            **changes,
        }
    )


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_binding, "_import_vllm", lambda: (_Request, "0.32.0+cpu"))


async def refusal(binding: VllmBinding) -> str:
    controller = Controller(binding)
    command = load(incarnation=controller.incarnation)
    with pytest.raises(ExtensionError) as caught:
        await controller.load(command)
    state = await controller.state()
    assert "load" not in state["capabilities"]
    assert (state["adapters"], state["free_slots"]) == ([], state["usable_slots"])
    return caught.value.code


def test_a_cpu_engine_keeps_its_last_slot_free() -> None:
    assert VllmBinding(server()).facts.usable_slots == 3
    assert VllmBinding(server(device="cuda")).facts.usable_slots == 4


def test_an_untested_version_or_device_is_told() -> None:
    assert VllmBinding(server()).facts.tested
    facts = VllmBinding(server(device="cuda")).facts
    assert not facts.tested
    assert "not tested" in facts.limitations[0]
    assert is_tested("0.25.0", "cuda")
    assert not is_tested("0.26.0", "cuda")


async def test_without_enable_lora_the_state_answers_and_a_load_is_not_supported() -> None:
    assert await refusal(VllmBinding(server(lora=False))) == "engine_not_supported"


def test_several_api_processes_are_told() -> None:
    assert VllmBinding(server(api_servers=2)).facts.api_servers == 2
    assert VllmBinding(server()).facts.api_servers == 1


async def test_a_plugin_that_brings_adapters_at_a_request_is_switched_off() -> None:
    """H9: one would bring back under its name what was unloaded."""
    state = server()
    state.openai_serving_models.lora_resolvers = [SimpleNamespace()]
    binding = VllmBinding(state)
    assert state.openai_serving_models.lora_resolvers == []
    assert any("resolver" in text for text in binding.facts.limitations)


@pytest.mark.parametrize("missing", ["engine_client", "openai_serving_models"])
async def test_a_server_without_what_is_needed_is_no_crash(missing: str) -> None:
    state = server()
    if missing == "engine_client":
        del state.engine_client.remove_lora
    else:
        del state.openai_serving_models.lora_requests
    binding = VllmBinding(state)
    assert any(missing in text for text in binding.facts.missing)
    assert await refusal(binding) == "engine_not_supported"


async def test_a_server_without_vllm_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_binding, "_import_vllm", lambda: (None, "unknown"))
    assert await refusal(VllmBinding(server())) == "engine_not_supported"
    assert VllmBinding(None).facts.missing


async def test_names_and_ids_of_adapters_given_at_the_start_are_not_ours_to_use() -> None:
    state = server(device="cuda")
    state.openai_serving_models.lora_requests = {"greeter@1": _Request(lora_int_id=7)}
    controller = Controller(VllmBinding(state))
    assert isinstance(state.openai_serving_models.lora_requests, AdmittedAdapters)
    with pytest.raises(ExtensionError) as caught:
        await controller.load(load("greeter@1", int_id=1, incarnation=controller.incarnation))
    assert caught.value.code == "adapter_conflict"
    assert (await controller.state())["free_slots"] == 3


def test_a_body_that_vllm_will_refuse_for_its_key_is_not_read() -> None:
    state = server()
    state.args.api_key = ["vllm-key"]
    binding = VllmBinding(state)
    assert not binding.may_read_body("/v1/completions", [])
    assert binding.may_read_body("/v1/completions", [(b"authorization", b"Bearer vllm-key")])
    assert binding.may_read_body("/invocations", [])
    assert VllmBinding(server()).may_read_body("/v1/completions", [])
