"""A staged load is on every worker or on none, whatever fails and whenever."""

import asyncio
from typing import Any

import pytest

from loradock_vllm.errors import ConfigurationError
from loradock_vllm.staging import loads
from loradock_vllm.staging.engine_loras import TooLargeToStageError
from loradock_vllm.staging.loads import (
    NotStagedError,
    StagedLoadError,
    StagedLoadMode,
    StagedLoads,
    StagedLoadSettings,
)
from loradock_vllm.worker import WorkerExtension
from tests.vllm_extension.staging.workers import FakeEngine, FakeLoras

OURS = "loradock_vllm.worker.WorkerExtension"


def engine(workers: int = 2, **changes: Any) -> FakeEngine:
    return FakeEngine([FakeLoras() for _ in range(workers)], **changes)


def staged_loads(client: Any, **changes: Any) -> StagedLoads:
    given = {"version": "0.32.0+cpu", "device": "cpu", "extension": OURS, "ranks": 1}
    return StagedLoads(client, **{**given, "settings": StagedLoadSettings(), **changes})


async def ready(client: FakeEngine, **changes: Any) -> StagedLoads:
    found = staged_loads(client, **changes)
    assert await found.find_out() == ""
    return found


async def add(found: StagedLoads) -> None:
    await found.add("greeter@1", 7, "/adapters/greeter")


async def until(client: FakeEngine, method: str) -> None:
    while method not in client.called:
        await asyncio.sleep(0.001)


async def test_an_adapter_reaches_every_worker() -> None:
    client = engine()
    await add(await ready(client))
    assert [loras.resident for loras in client.loras] == [{7: "greeter@1 from /adapters/greeter"}] * 2
    assert not any(loras.reserved for loras in client.loras)


async def test_workers_that_are_done_are_not_asked_again_and_again() -> None:
    client = engine()
    client.loras[1].hold.clear()
    task = asyncio.create_task(add(await ready(client)))
    await until(client, "loradock_stage")
    client.loras[1].hold.set()
    await task
    # One question after the word of the last worker, and perhaps one that was asked before it came.
    assert client.called.count("loradock_staged") <= 2


async def test_without_a_word_of_the_workers_they_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loads, "ASK_SECONDS", 0.005)
    monkeypatch.setattr("loradock_vllm.staging.hints.Hints._receive", lambda *_: None)
    client = engine()
    await add(await ready(client))
    assert [7 in loras.resident for loras in client.loras] == [True, True]


async def test_one_worker_that_cannot_read_it_leaves_nothing_on_any() -> None:
    client = engine()
    client.loras[1].failure = ValueError("LoRA rank 32 is greater than max_lora_rank 16.")
    with pytest.raises(StagedLoadError, match="LoRA rank 32"):
        await add(await ready(client))
    assert client.empty


async def test_one_worker_that_cannot_take_it_over_leaves_nothing_on_any() -> None:
    client = engine(3)
    client.loras[1].refusal = "No free adapter slots"
    with pytest.raises(StagedLoadError, match="No free adapter slots"):
        await add(await ready(client))
    assert client.empty


async def test_a_worker_without_a_free_slot_refuses_before_anything_is_read() -> None:
    client = engine()
    client.loras[1].resident = {1: "a", 2: "b"}
    with pytest.raises(StagedLoadError, match="No free lora slots"):
        await add(await ready(client))
    assert client.loras[0].empty
    assert client.loras[1].resident == {1: "a", 2: "b"}


async def test_an_adapter_too_large_to_stage_may_be_loaded_otherwise() -> None:
    client = engine()
    client.loras[0].failure = TooLargeToStageError("9 bytes; 8 may be staged")
    with pytest.raises(NotStagedError, match="9 bytes"):
        await add(await ready(client))
    assert client.empty


@pytest.mark.parametrize("method", ["loradock_stage", "loradock_staged", "loradock_commit"])
async def test_a_caller_that_is_cancelled_leaves_nothing_on_any_worker(method: str) -> None:
    client = engine()
    client.swallowed = {method}
    if method == "loradock_staged":
        client.loras[1].hold.clear()
    task = asyncio.create_task(add(await ready(client)))
    await until(client, method)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert client.empty


async def test_a_cancelled_caller_who_is_cancelled_again_still_waits_for_the_end() -> None:
    client = engine()
    client.loras[0].hold.clear()
    task = asyncio.create_task(add(await ready(client)))
    await until(client, "loradock_stage")
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert client.empty


@pytest.mark.parametrize("method", ["loradock_stage", "loradock_commit"])
async def test_workers_that_do_not_answer_in_time_hold_nothing_afterwards(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loads, "CALL_SECONDS", 0.05)
    client = engine()
    client.swallowed = {method}
    with pytest.raises(StagedLoadError, match="did not answer"):
        await add(await ready(client))
    assert client.empty


async def test_a_staging_that_takes_too_long_is_given_up() -> None:
    client = engine()
    client.loras[1].hold.clear()
    found = await ready(client, settings=StagedLoadSettings(seconds=0.05))
    with pytest.raises(StagedLoadError, match=r"too long|in time"):
        await add(found)
    assert client.empty


async def test_what_a_lost_server_left_is_swept_before_the_next_load() -> None:
    client = engine()
    order = {"token": "lost", "name": "lost@1", "int_id": 3, "path": "/lost", "seconds": 0.02, "max_bytes": 1}
    order |= {"work_seconds": 0.001, "rest_seconds": 0.001, "notify": ""}
    await client.collective_rpc("loradock_stage", None, (order,))
    found = await ready(client)
    await asyncio.sleep(0.05)
    await add(found)
    assert [set(loras.resident) for loras in client.loras] == [{7}, {7}]
    assert not any(loras.reserved for loras in client.loras)


async def test_an_answer_of_too_few_workers_is_a_failure() -> None:
    client = engine()
    found = await ready(client)
    client.desks.pop()
    with pytest.raises(StagedLoadError, match="1 of 2 workers"):
        await add(found)
    assert client.empty


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"extension": ""}, "without --worker-extension-cls"),
        ({"extension": "collections.OrderedDict"}, "without --worker-extension-cls"),
        ({"version": "0.99.0"}, "not tested with vLLM 0.99.0"),
        ({"ranks": 2}, "data parallel"),
        ({"settings": StagedLoadSettings(mode=StagedLoadMode.OFF)}, "is off"),
    ],
)
async def test_where_loads_cannot_be_staged_the_reason_is_told_and_no_worker_is_asked(
    changes: dict[str, Any], why: str
) -> None:
    client = engine()
    assert why in await staged_loads(client, **changes).find_out()
    assert client.called == []


class Inherited(WorkerExtension):
    """An extension of somebody's own, with ours in it."""


async def test_an_extension_that_inherits_ours_will_do() -> None:
    await ready(engine(), extension=f"{__name__}.Inherited")


async def test_an_untested_version_is_tried_when_asked_for() -> None:
    await ready(engine(), version="0.99.0", settings=StagedLoadSettings(mode=StagedLoadMode.ON))


async def test_what_the_workers_lack_is_told() -> None:
    assert "lack modules" in await staged_loads(engine(missing=("modules",))).find_out()


async def test_a_server_without_the_call_or_workers_that_never_answer_are_no_crash(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "collective_rpc" in await staged_loads(None).find_out()
    monkeypatch.setattr(loads, "PROBE_SECONDS", 0.02)
    client = engine()
    client.swallowed = {"loradock_probe"}
    assert "did not answer" in await staged_loads(client).find_out()


async def test_the_workers_are_asked_once_by_many() -> None:
    client = engine()
    found = staged_loads(client)
    assert await asyncio.gather(*(found.find_out() for _ in range(5))) == [""] * 5
    assert client.called == ["loradock_probe"]


def test_settings_come_from_the_environment() -> None:
    read = StagedLoadSettings.from_environment
    name = "LORADOCK_EXTENSION_STAGED_LOAD"
    assert read({}) == StagedLoadSettings()
    assert read({name: "off"}).mode is StagedLoadMode.OFF
    assert read({f"{name}_REST_MS": "5"}).rest_seconds == pytest.approx(0.005)
    for bad in ({name: "perhaps"}, {f"{name}_SECONDS": "-1"}, {f"{name}_WORK_MS": "nan"}):
        with pytest.raises(ConfigurationError):
            read(bad)
