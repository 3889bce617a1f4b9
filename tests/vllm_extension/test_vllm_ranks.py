"""Data parallel ranks, with a client that stands for vLLM's: one rank can be made to fail. Real ranks: tests/engines."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from loradock_vllm import vllm_binding
from loradock_vllm.commands import ResumeCommand
from loradock_vllm.controller import Controller
from loradock_vllm.errors import ExtensionError
from loradock_vllm.vllm_binding import VllmBinding
from loradock_vllm.vllm_ranks import Ranks
from tests.vllm_extension.test_controller import common, folders, load, unload  # noqa: F401 - a fixture, and commands
from tests.vllm_extension.test_vllm_binding import _Request, server


class RankedClient:
    """Stands for vLLM's client of several engine cores (`DPLBAsyncMPClient`), with what they hold."""

    def __init__(self, ranks: int = 2) -> None:
        self.core_engines = [number.to_bytes(2, "little") for number in range(ranks)]
        self.held: list[set[int]] = [set() for _ in range(ranks)]
        self.failing: int | None = None
        self.deaf: int | None = None
        self.clinging: int | None = None
        self.answered: list[int] = []

    async def _call_utility_async(self, method: str, *args: Any, engine: bytes) -> Any:
        rank = int.from_bytes(engine, "little")
        # The last rank answers first, so that a failure of one is known before the others have answered.
        for _ in range(10 * (len(self.held) - rank)):
            await asyncio.sleep(0)
        self.answered.append(rank)
        if method == "list_loras":
            return set(self.held[rank])
        if method == "remove_lora":
            present = args[0] in self.held[rank]
            if rank != self.clinging:
                self.held[rank].discard(args[0])
            return present
        if rank == self.failing:
            raise RuntimeError(
                "Call to add_lora method failed: LoRA rank 32 is greater than max_lora_rank 16."
            )
        if rank != self.deaf:
            self.held[rank].add(args[0].lora_int_id)
        return True


@pytest.fixture
def client() -> RankedClient:
    return RankedClient()


@pytest.fixture
def controller(client: RankedClient, monkeypatch: pytest.MonkeyPatch) -> Controller:
    monkeypatch.setattr(vllm_binding, "_import_vllm", lambda: (_Request, "0.32.0+cpu"))
    state = server()
    state.engine_client.engine_core = client
    return Controller(VllmBinding(state))


async def test_a_load_and_an_unload_reach_every_rank(
    controller: Controller,
    client: RankedClient,
    folders: list[Any],  # noqa: F811
) -> None:
    await controller.load(load(controller, folders, 0))
    assert client.held == [{1}, {1}]
    state = await controller.state()
    assert (state["data_parallel_ranks"], state["adapters"][0]["resident"]) == (2, True)
    await controller.unload(unload(controller, 0))
    assert client.held == [set(), set()]


async def test_when_one_rank_fails_all_are_put_back(
    controller: Controller,
    client: RankedClient,
    folders: list[Any],  # noqa: F811
) -> None:
    client.failing = 1
    with pytest.raises(ExtensionError) as caught:
        await controller.load(load(controller, folders, 0))
    assert (caught.value.code, caught.value.details["cleaned"]) == ("rank_too_high", True)
    assert client.held == [set(), set()]
    assert (await controller.state())["foreign_int_ids"] == []


async def test_a_rank_that_says_yes_and_does_nothing_is_found_out(
    controller: Controller,
    client: RankedClient,
    folders: list[Any],  # noqa: F811
) -> None:
    client.deaf = 1
    with pytest.raises(ExtensionError) as caught:
        await controller.load(load(controller, folders, 0))
    assert caught.value.code == "engine_error"
    assert client.held == [set(), set()]


async def test_what_one_rank_has_lost_is_not_resident_and_is_loaded_again(
    controller: Controller,
    client: RankedClient,
    folders: list[Any],  # noqa: F811
) -> None:
    await controller.load(load(controller, folders, 0))
    client.held[0].clear()
    state = await controller.state()
    assert (state["adapters"][0]["resident"], state["free_slots"]) == (False, 2)
    assert (await controller.load(load(controller, folders, 0)))["outcome"] == "loaded"
    assert client.held == [{1}, {1}]


async def test_what_one_rank_did_not_let_go_is_remembered_when_its_unload_is_given_up_and_can_be_loaded_again(
    controller: Controller,
    client: RankedClient,
    folders: list[Any],  # noqa: F811
) -> None:
    await controller.load(load(controller, folders, 0))
    client.clinging = 1
    with pytest.raises(ExtensionError, match="unload_failed"):
        await controller.unload(unload(controller, 0))
    assert client.held == [set(), {1}]
    with pytest.raises(ExtensionError, match="adapter_not_loaded"):
        await controller.resume(ResumeCommand(**common(controller, 0)))
    # Of other weights under its number nothing is loaded while it is there.
    other = load(controller, folders, 0, served_name="b@1", digest=f"sha256:{'2' * 64}")
    with pytest.raises(ExtensionError, match="int_id_conflict"):
        await controller.load(other)
    client.clinging = None
    assert (await controller.load(load(controller, folders, 0)))["outcome"] == "loaded"
    assert client.held == [{1}, {1}]


async def test_a_call_ends_only_when_every_rank_has_answered(client: RankedClient) -> None:
    client.failing = 1
    with pytest.raises(RuntimeError):
        await Ranks(SimpleNamespace(engine_core=client)).call("add_lora", _Request(lora_int_id=1))
    assert client.answered == [1, 0]


async def test_a_version_whose_ranks_cannot_be_called_one_by_one_is_told() -> None:
    client = SimpleNamespace(core_engines=[b"\0\0", b"\1\0"])
    assert Ranks(SimpleNamespace(engine_core=client)).missing()
    assert not Ranks(SimpleNamespace(engine_core=SimpleNamespace(core_engines=[b"\0\0"]))).missing()
