"""What every engine must do, whatever it cannot promise: one truth for the simulated ones and the real, with our extension
and without.

What needs a promise that not every engine keeps is in `promises_kept`; what happens without it, in `promises_missing`.
"""

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from loradock.core.errors import LoradockError
from loradock.engines import AdapterState
from tests.engines.adapters import BAD
from tests.engines.world import PROMPT, Version, World, in_flight


@contextlib.contextmanager
def refused(code: str) -> Iterator[pytest.ExceptionInfo[LoradockError]]:
    """The block must fail with this code."""
    with pytest.raises(LoradockError) as caught:
        yield caught
    assert caught.value.code == code, caught.value


async def reaches(world: World, version: Version, count: int) -> None:
    """Wait until the engine counts so many requests; the test's timeout bounds it."""
    while in_flight(await world.engine.state(), version) != count:
        await asyncio.sleep(0.01)


class EngineContract:
    """The tests; a subclass gives the fixture `world`."""

    # State

    async def test_an_empty_engine_tells_what_it_can_hold(self, world: World) -> None:
        state = await world.engine.state()
        assert state.engine.kind == world.kind
        assert state.engine.tested
        assert state.base_model == world.base_model
        assert state.adapters == ()
        assert state.foreign_int_ids == ()
        assert 0 < state.usable_slots <= state.max_loras
        assert state.free_slots == state.usable_slots
        assert state.max_lora_rank == 16
        assert {"load", "unload", "drain", "resume"} <= set(state.capabilities)
        assert set(state.missing_promises) == world.missing

    async def test_the_incarnation_stays_while_the_engine_runs(self, world: World) -> None:
        assert (await world.engine.state()).incarnation == (await world.engine.state()).incarnation

    # Load

    async def test_a_loaded_version_answers_with_its_own_weights(self, world: World) -> None:
        versions = await world.loaded(*world.good[:2])
        for version in versions:
            assert await world.answer(version.served_name) == world.expected(version, PROMPT)
        assert await world.answer(world.base_model) == world.expected(None, PROMPT)
        answers = {world.expected(version, PROMPT) for version in [*versions, None]}
        assert len(answers) == 3

    async def test_a_loaded_version_is_told_in_full(self, world: World) -> None:
        (version,) = await world.loaded()
        state = await world.engine.state()
        report = state.adapter(version.served_name)
        assert report is not None
        assert (report.digest, report.int_id, report.path) == (version.digest, version.int_id, version.path)
        assert (report.state, report.resident, report.in_flight) == (AdapterState.SERVING, True, world.idle)
        assert (report.operation, report.epoch) == ("op-1", 1)
        assert state.free_slots == state.usable_slots - 1

    async def test_a_loaded_version_is_listed_among_the_models(self, world: World) -> None:
        (version,) = await world.loaded()
        models = (await world.http.get("/v1/models")).json()["data"]
        assert {model["id"] for model in models} == {world.base_model, version.served_name}

    async def test_the_same_load_again_changes_nothing_and_keeps_its_owner(self, world: World) -> None:
        (version,) = await world.loaded()
        again = await world.load(version, operation="op-2", epoch=2)
        assert again.outcome == "already_loaded"
        assert again.adapter.operation == "op-1"

    async def test_two_equal_loads_at_once_load_once(self, world: World) -> None:
        version = world.version()
        results = await asyncio.gather(world.load(version), world.load(version))
        assert sorted(result.outcome for result in results) == ["already_loaded", "loaded"]

    async def test_different_loads_at_once_all_end_well(self, world: World) -> None:
        versions = [world.version(source) for source in world.good]
        await asyncio.gather(*(world.load(version) for version in versions))
        for version in versions:
            assert await world.answer(version.served_name) == world.expected(version, PROMPT)

    async def test_other_weights_under_a_name_are_a_conflict(self, world: World) -> None:
        (version,) = await world.loaded()
        other = world.version(world.good[1])
        with refused("adapter_conflict"):
            await world.load(other, served_name=version.served_name)
        with refused("adapter_conflict"):
            await world.load(version, int_id=other.int_id)
        assert await world.answer(version.served_name) == world.expected(version, PROMPT)

    async def test_one_int_id_is_never_two_adapters(self, world: World) -> None:
        (version,) = await world.loaded()
        other = world.version(world.good[1])
        with refused("int_id_conflict"):
            await world.load(other, int_id=version.int_id)
        assert (await world.status(other.served_name)).status_code == 404

    async def test_a_path_without_the_digest_is_refused(self, world: World) -> None:
        version = world.version()
        with refused("path_without_digest"):
            await world.load(version, path=str(world.good[0]))

    async def test_a_path_that_is_not_there_is_told(self, world: World) -> None:
        version = world.version()
        with refused("artifact_missing"):
            await world.load(version, path=version.path.replace("adapter", "nothing"))

    @pytest.mark.parametrize("what", BAD)
    async def test_a_bad_adapter_is_refused_and_leaves_nothing_behind(self, world: World, what: str) -> None:
        code, make = BAD[what]
        folder = world.host / "bad"
        make(folder)
        bad = world.version(folder)
        before = await world.engine.state()
        with refused(code) as caught:
            await world.load(bad)
        assert not caught.value.retryable
        after = await world.engine.state()
        assert after.foreign_int_ids == ()
        assert after.free_slots == before.free_slots
        # Its id is free for good weights: nothing half-loaded answers in their place.
        good = world.version(world.good[1])
        await world.load(good, int_id=bad.int_id)
        assert await world.answer(good.served_name) == world.expected(good, PROMPT)

    async def test_a_load_whose_caller_goes_away_is_whole_or_not_there(self, world: World) -> None:
        version = world.version()
        command = asyncio.create_task(world.load(version))
        await asyncio.sleep(0.004)
        command.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await command
        assert (await world.load(version)).outcome in {"loaded", "already_loaded"}
        assert await world.answer(version.served_name) == world.expected(version, PROMPT)

    # Unload

    async def test_an_unload_takes_the_name_away(self, world: World) -> None:
        (version,) = await world.loaded()
        assert await world.unload(version) == "unloaded"
        state = await world.engine.state()
        assert state.adapters == ()
        assert state.free_slots == state.usable_slots
        assert (await world.status(version.served_name)).status_code == 404
        assert await world.unload(version) == "not_loaded"

    async def test_an_unloaded_version_can_come_back(self, world: World) -> None:
        (version,) = await world.loaded()
        await world.unload(version)
        assert (await world.load(version)).outcome == "loaded"
        assert await world.answer(version.served_name) == world.expected(version, PROMPT)

    async def test_an_undo_leaves_what_another_operation_loaded(self, world: World) -> None:
        (version,) = await world.loaded()
        assert await world.unload(version, only_operation="op-2") == "not_owned"
        assert await world.answer(version.served_name) == world.expected(version, PROMPT)
        assert await world.unload(version, only_operation="op-1") == "unloaded"

    async def test_an_unload_waits_for_a_running_answer(self, world: World) -> None:
        (version,) = await world.loaded()
        async with world.stream(version.served_name) as stream:
            unload = asyncio.create_task(world.unload(version, drain_seconds=30))
            assert await stream.is_whole()
            assert await unload == "unloaded"

    # Drain and counts

    async def test_a_resumed_name_is_admitted_again(self, world: World) -> None:
        (version,) = await world.loaded()
        await world.drain(version)
        assert await world.resume(version) == "serving"
        assert await world.resume(version) == "serving"
        assert await world.answer(version.served_name) == world.expected(version, PROMPT)

    async def test_a_resume_ends_the_unload_that_waits(self, world: World) -> None:
        (version,) = await world.loaded()
        async with world.stream(version.served_name) as stream:
            unload = asyncio.create_task(world.unload(version, drain_seconds=30))
            while (await world.status(version.served_name)).status_code != world.away:
                await asyncio.sleep(0)
            await world.resume(version)
            assert await stream.is_whole()
            with refused("adapter_conflict"):
                await unload
        assert await world.answer(version.served_name) == world.expected(version, PROMPT)

    async def test_a_load_of_a_draining_version_leaves_it_draining(self, world: World) -> None:
        (version,) = await world.loaded()
        await world.drain(version)
        again = await world.load(version)
        assert (again.outcome, again.adapter.state) == ("already_loaded", AdapterState.DRAINING)

    async def test_what_is_not_loaded_cannot_be_drained_or_resumed(self, world: World) -> None:
        version = world.version()
        with refused("adapter_not_loaded"):
            await world.drain(version)
        with refused("adapter_not_loaded"):
            await world.resume(version)

    # Fences

    async def test_another_incarnation_is_refused(self, world: World) -> None:
        version = world.version()
        with refused("incarnation_mismatch") as caught:
            await world.load(version, incarnation="another-life")
        assert caught.value.details["incarnation"] == (await world.engine.state()).incarnation

    async def test_an_older_epoch_is_refused_for_its_name_only(self, world: World) -> None:
        (version,) = await world.loaded()
        await world.drain(version, epoch=7)
        for late in (
            world.load(version, epoch=6),
            world.resume(version, epoch=6),
            world.unload(version, epoch=6),
        ):
            with refused("stale_epoch"):
                await late
        await world.resume(version, epoch=7)
        await world.loaded(world.good[1])

    async def test_an_epoch_outlives_the_adapter(self, world: World) -> None:
        (version,) = await world.loaded()
        assert await world.unload(version, epoch=9) == "unloaded"
        with refused("stale_epoch"):
            await world.load(version, epoch=8)

    # Probe

    async def test_a_probe_shows_that_the_version_answers(self, world: World) -> None:
        (version,) = await world.loaded()
        result = await world.engine.probe(version.served_name, PROMPT)
        assert result.served_name == version.served_name
        assert world.expected(version, PROMPT).startswith(result.text)

    async def test_a_probe_of_what_does_not_answer_fails(self, world: World) -> None:
        (version,) = await world.loaded()
        await world.drain(version)
        with refused("engine_not_verified"):
            await world.engine.probe(version.served_name, PROMPT)
        with refused("engine_not_verified"):
            await world.engine.probe("nobody@1", PROMPT)
