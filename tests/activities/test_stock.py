"""A host's activities on a stock vLLM: the same steps, and each says what the engine could not promise of it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from activities.engines import EngineActivities
from activities.host_cache import CacheActivities, holder
from activities.interface.hosts import HostInput, LoadAdapterInput, UnloadAdapterInput
from activities.interface.reconcile import ObserveInput
from activities.progress import TransferSlots
from loradock.artifacts.cache import HostCache
from loradock.core.models import StepReport, VersionRef
from loradock.core.reconcile import HeldAdapter
from loradock.engines import StockOptions, StockVllmEngine
from loradock.engines.protocol import UNKNOWN_DIGEST, Engine
from loradock.engines.simulated import Faults, serving
from loradock.engines.simulated.stock import SimulatedStockEngine, create_stock_app
from tests.activities.conftest import stored
from tests.activities.parts import RUN, Bench, Reports, SlowObjects, ref_of, target


@dataclass
class Host:
    """A host with one stock engine, and the version in its cache."""

    inside: SimulatedStockEngine
    cache: HostCache
    http: httpx.AsyncClient
    engines: EngineActivities
    files: CacheActivities
    ref: VersionRef
    life: str

    @property
    def given(self) -> HostInput:
        return HostInput(run=RUN, ref=self.ref, target=target(incarnation=self.life))

    async def load(self) -> list[StepReport]:
        path = (await asyncio.to_thread(Bench().run, self.files.download, self.given)).path
        loaded = await Bench().run(self.engines.load, LoadAdapterInput(**dict(self.given), path=path))
        return list(loaded.steps)

    async def unload(self, **more: object) -> tuple[str, dict[str, dict[str, object]]]:
        fields = {"drain_seconds": 20.0, **dict(self.given), **more}
        done = await Bench().run(self.engines.unload, UnloadAdapterInput(**fields))
        return done.outcome, {step.name: step.detail for step in done.steps}

    async def release(self) -> object:
        return (await Bench().run(self.files.release, self.given)).step.detail["outcome"]

    async def observe(self) -> tuple[HeldAdapter, ...]:
        return (await Bench().run(self.engines.observe, ObserveInput(target=self.given.target))).held


@pytest.fixture
async def host(
    tmp_path: Path, folder: Path, folder_objects: SlowObjects, reports: Reports, slots: TransferSlots
) -> AsyncIterator[Host]:
    inside = SimulatedStockEngine(base_model="tiny-llama", faults=Faults(token_seconds=0.02))
    store, digest = stored(folder_objects, folder)  # type: ignore[arg-type]
    cache = HostCache(tmp_path / "cache", store)
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(create_stock_app(inside)))
        engine = StockVllmEngine(
            url, tmp_path / "record.json", cache.digest_at, options=StockOptions(quiet_seconds=0.3)
        )
        stack.push_async_callback(engine.aclose)
        drivers: dict[str, Engine] = {"e1": engine}
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, trust_env=False, timeout=30))
        yield Host(
            inside,
            cache,
            http,
            EngineActivities(drivers, reports),
            CacheActivities(cache, drivers, reports, slots),
            ref_of(digest),
            (await engine.state()).incarnation,
        )


async def test_each_step_says_what_the_engine_could_not_promise_of_it(host: Host) -> None:
    load, verify = await host.load()
    assert (load.name, load.detail["unkept"]) == ("load", ["no_eviction", "residency_check"])
    assert "first_token_seconds" in verify.detail
    outcome, details = await host.unload()
    assert outcome == "unloaded"
    assert details["drain"]["unkept"] == ["drain_count"]
    assert details["remove"]["unkept"] == ["residency_check", "true_unload"]
    assert await host.release() == "released"
    assert host.cache.holders(host.ref) == ()


async def test_a_forced_unload_under_a_running_answer_keeps_its_files(host: Host) -> None:
    await host.load()
    body = {
        "model": host.ref.served_name,
        "prompt": "x",
        "stream": True,
        "max_tokens": 200,
        "ignore_eos": True,
    }
    async with host.http.stream("POST", "/v1/completions", json=body) as answer:
        lines = answer.aiter_lines()
        assert json.loads((await anext(lines)).removeprefix("data: "))
        outcome, details = await host.unload(drain_seconds=0.0, cut_requests=True)
        assert (outcome, details["remove"]["unkept"]) == (
            "unloaded",
            ["cut_requests", "residency_check", "true_unload"],
        )
        assert await host.release() == "kept: the engine needs it"
        assert [line async for line in lines if line][-1] == "data: [DONE]"
    assert host.cache.holders(host.ref) == (holder(host.given),)


async def test_an_undo_takes_out_its_own_load_alone_and_waits_for_no_drain(host: Host) -> None:
    await host.load()
    other = RUN.model_copy(update={"operation": "op-other"})
    assert (await host.unload(run=other, own_only=True, drain_seconds=0.0))[0] == "not_owned"
    assert (await host.unload(own_only=True, drain_seconds=0.0, cut_requests=True))[0] == "unloaded"
    assert host.inside.names == {}


async def test_the_path_tells_whose_weights_a_name_has(host: Host, tmp_path: Path) -> None:
    await host.load()
    (held,) = await host.observe()
    assert (held.served_name, held.digest, held.int_id, held.serving, held.operation) == (
        host.ref.served_name, host.ref.digest, host.ref.int_id, True, RUN.operation,
    )  # fmt: skip
    # The same bytes at another place: nobody vouches for what lies there, whatever the folder is called.
    path = host.cache.path(host.ref)
    copy = tmp_path / "elsewhere" / path.name
    copy.parent.mkdir()
    copy.symlink_to(path)
    host.inside.unload(host.ref.served_name)
    await host.inside.load(host.ref.served_name, str(copy))
    (held,) = await host.observe()
    assert (held.digest, held.int_id, held.operation) == (UNKNOWN_DIGEST, 0, "")


def test_a_digest_is_read_from_a_path_of_the_cache_s_own_making_only(host: Host) -> None:
    path = host.cache.path(host.ref)
    assert host.cache.digest_at(host.ref.served_name, str(path)) == host.ref.digest
    for name, other in (
        ("other@1", path),
        (host.ref.served_name, path.parent),
        (host.ref.served_name, path / ".."),
        (host.ref.served_name, Path("/elsewhere") / path.name),
        ("no name", path),
        (host.ref.served_name, Path("relative") / path.name),
    ):
        assert host.cache.digest_at(name, str(other)) is None
