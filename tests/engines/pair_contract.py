"""What an engine with two API server processes must do, whichever of them is asked."""

import asyncio
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from loradock.engines import AdapterState
from tests.engines.contract import reaches, refused
from tests.engines.world import PROMPT, Version, World

LOAD_PAUSE_SECONDS = 0.4
"""The pause between loads that the engine of this contract is started with."""


@dataclass
class Pair:
    """One engine, reached through either of its processes."""

    one: World
    other: World

    async def listed(self) -> list[set[str]]:
        """The models that each process lists."""
        found = [(await world.http.get("/v1/models")).json()["data"] for world in (self.one, self.other)]
        return [{model["id"] for model in models} for models in found]

    async def answers(self, version: Version) -> set[str]:
        """All different answers of both processes, in turn, several times."""
        return {await world.answer(version.served_name) for _ in range(2) for world in (self.one, self.other)}


class PairContract:
    """The tests; a subclass gives the fixture `pair`."""

    async def test_both_tell_one_engine(self, pair: Pair) -> None:
        one, other = await pair.one.engine.state(), await pair.other.engine.state()
        assert one == other
        assert one.free_slots == one.usable_slots

    async def test_what_is_loaded_through_one_is_served_and_listed_by_both(self, pair: Pair) -> None:
        versions = await pair.one.loaded(*pair.one.good[:2])
        names = {version.served_name for version in versions}
        assert await pair.listed() == [{pair.one.base_model} | names] * 2
        for version in versions:
            assert await pair.answers(version) == {pair.one.expected(version, PROMPT)}
        assert await pair.one.engine.state() == await pair.other.engine.state()

    async def test_a_drain_through_one_counts_the_requests_of_the_other(self, pair: Pair) -> None:
        (version,) = await pair.one.loaded()
        async with pair.other.stream(version.served_name) as stream:
            await reaches(pair.one, version, 1)
            assert await pair.one.drain(version) == ("draining", 1)
            for world in (pair.other, pair.one):
                refusal = await world.status(version.served_name)
                assert refusal.headers["x-loradock-not-admitted"] == "draining"
            with refused("drain_timeout"):
                await pair.one.unload(version)
            assert await stream.is_whole()
        assert await pair.one.drain(version, wait_seconds=30) == ("drained", 0)

    async def test_what_one_removed_is_served_and_listed_by_none(self, pair: Pair) -> None:
        (version,) = await pair.one.loaded()
        assert await pair.answers(version) == {pair.one.expected(version, PROMPT)}
        assert await pair.other.unload(version) == "unloaded"
        for world in (pair.one, pair.other):
            assert (await world.status(version.served_name)).status_code == 404
            expecting = await world.status(
                version.served_name, **{"x-loradock-expect-digest": version.digest}
            )
            assert expecting.headers["x-loradock-not-admitted"] == "unknown"
            assert (await world.engine.state()).adapters == ()
        assert await pair.listed() == [{pair.one.base_model}] * 2
        assert await pair.one.unload(version) == "not_loaded"

    async def test_an_unload_through_one_cuts_the_requests_of_the_other(self, pair: Pair) -> None:
        (version,) = await pair.one.loaded()
        async with pair.other.stream(version.served_name) as stream:
            assert await pair.one.unload(version, on_timeout="abort") == "unloaded"
            with pytest.raises(httpx.RemoteProtocolError):
                await stream.rest()
        assert (await pair.other.engine.state()).foreign_int_ids == ()

    async def test_what_one_drained_the_other_resumes(self, pair: Pair) -> None:
        (version,) = await pair.one.loaded()
        await pair.one.drain(version)
        assert await pair.other.resume(version) == "serving"
        assert await pair.answers(version) == {pair.one.expected(version, PROMPT)}

    async def test_a_call_that_is_late_for_one_is_late_for_the_other(self, pair: Pair) -> None:
        (version,) = await pair.one.loaded()
        await pair.one.drain(version, epoch=7)
        with refused("stale_epoch"):
            await pair.other.resume(version, epoch=6)
        state = (await pair.other.engine.state()).adapter(version.served_name)
        assert state is not None
        assert (state.state, state.epoch) == (AdapterState.DRAINING, 7)

    async def test_equal_loads_through_both_load_once_and_ids_are_told_apart(self, pair: Pair) -> None:
        version = pair.one.version()
        results = await asyncio.gather(pair.one.load(version), pair.other.load(version))
        assert sorted(result.outcome for result in results) == ["already_loaded", "loaded"]
        with refused("int_id_conflict"):
            await pair.other.load(pair.other.version(pair.other.good[1]), int_id=version.int_id)

    async def test_loads_through_both_keep_the_pause_that_is_set(self, pair: Pair) -> None:
        versions = [pair.one.version(source) for source in pair.one.good[:2]]
        results: list[Any] = await asyncio.gather(pair.one.load(versions[0]), pair.other.load(versions[1]))
        first, second = sorted(result.adapter.loaded_at for result in results)
        assert (second - first).total_seconds() >= LOAD_PAUSE_SECONDS
        for version in versions:
            assert await pair.answers(version) == {pair.one.expected(version, PROMPT)}
