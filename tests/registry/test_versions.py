"""One number and one engine id per digest, whoever comes first."""

import asyncio
from typing import Any

import pytest

from loradock.core.errors import LoradockError
from loradock.core.models import Failure, OperationState, RunRef
from loradock.core.requests import ReservedVersion
from loradock.registry import adapters, runs, versions
from tests.registry.world import BASE, SOURCE, World, manifest, new_publish, report, run_of, traits

FAILURE = Failure(code="store_denied", message="no")


async def _reserve(world: World, run: RunRef, seed: str = "one", **facts: Any) -> ReservedVersion:
    given: dict[str, Any] = {"base_model": BASE, "adapter": "greeter", "labels": {}, **facts}
    async with world.database.transaction() as tx:
        return await versions.reserve(
            tx, run, manifest=manifest(seed), traits=traits(), source_uri=SOURCE, actor="alice", **given
        )


async def _state(world: World, version: int = 1) -> tuple[str, str | None]:
    async with world.database.read() as tx:
        view = await versions.get_version(tx, "greeter", version)
    return view.state, view.failure.code if view.failure else None


async def test_versions_are_numbered_and_their_facts_kept(world: World) -> None:
    first, second = await world.publish(seed="one"), await world.publish(seed="two")
    assert (first.version, second.version) == (1, 2)
    assert first.int_id != second.int_id
    async with world.database.read() as tx:
        view = await versions.get_version(tx, "greeter", 1)
        detail = await adapters.get_adapter(tx, "greeter")
    assert (view.served_name, view.rank, view.size, view.artifact_uri) == (
        "greeter@1",
        8,
        10,
        "s3://store/one",
    )
    assert (view.manifest, view.traits) == (manifest("one"), traits())
    assert ([item.version for item in detail.versions], detail.latest_version, detail.base_model) == (
        [2, 1],
        2,
        BASE,
    )
    assert (await world.actions()).count("version.published") == 2


async def test_the_same_digest_is_the_same_version(world: World) -> None:
    ref = await world.publish()
    run = await world.start(new_publish(again=True))
    again = await _reserve(world, run, labels={"x": "y"})
    assert (again.ref, again.already_published) == (ref, True)
    async with world.database.read() as tx:
        assert (await versions.get_version(tx, "greeter", 1)).labels == {}
    assert (await world.operation(run.operation)).version == 1


async def test_reserving_again_in_the_same_run_gives_the_same_version(world: World) -> None:
    run = await world.start(new_publish())
    answers = await asyncio.gather(*(_reserve(world, run) for _ in range(8)))
    assert len({answer.ref for answer in answers}) == 1
    assert not answers[0].already_published


async def test_reserving_at_once_for_many_adapters_gives_every_one_its_own_int_id(world: World) -> None:
    names = [f"adapter-{number}" for number in range(8)]
    started = [await world.start(new_publish(name)) for name in names]
    answers = await asyncio.gather(
        *(_reserve(world, run, adapter=name) for run, name in zip(started, names, strict=True))
    )
    assert len({answer.ref.int_id for answer in answers}) == 8
    assert {answer.ref.version for answer in answers} == {1}


async def test_digests_reserved_at_once_on_one_adapter_get_numbers_without_gaps(world: World) -> None:
    run = await world.start(new_publish())
    answers = await asyncio.gather(*(_reserve(world, run, seed=str(number)) for number in range(8)))
    assert sorted(answer.ref.version for answer in answers) == list(range(1, 9))


async def test_a_failed_version_is_revived_by_the_same_bytes(world: World) -> None:
    run = await world.start(new_publish())
    first = await _reserve(world, run)
    async with world.database.transaction() as tx:
        await versions.mark_reserved_failed(tx, run, "greeter", FAILURE)
    assert await _state(world) == ("failed", "store_denied")
    await world.finish(run)
    second = await world.start(new_publish())
    again = await _reserve(world, second, labels={"try": "2"})
    assert (again.ref, again.already_published) == (first.ref, False)
    assert await _state(world) == ("publishing", None)
    async with world.database.read() as tx:
        view = await versions.get_version(tx, "greeter", 1)
    assert (view.labels, view.operation) == ({"try": "2"}, second.operation)


async def test_a_failed_number_is_not_given_to_other_bytes(world: World) -> None:
    run = await world.start(new_publish())
    await _reserve(world, run)
    async with world.database.transaction() as tx:
        await versions.mark_reserved_failed(tx, run, "greeter", FAILURE)
    await world.finish(run)
    assert (await world.publish(seed="other")).version == 2


async def test_a_ready_version_never_fails_and_is_published_once(world: World) -> None:
    run = await world.start(new_publish())
    ref = (await _reserve(world, run)).ref
    for _ in range(2):
        async with world.database.transaction() as tx:
            await versions.mark_ready(tx, run, ref, "s3://store/a")
    async with world.database.transaction() as tx:
        await versions.mark_reserved_failed(tx, run, "greeter", FAILURE)
    assert await _state(world) == ("ready", None)
    assert (await world.actions()).count("version.published") == 1


async def test_nothing_becomes_ready_while_the_publish_is_put_back(world: World) -> None:
    run = await world.start(new_publish())
    ref = (await _reserve(world, run)).ref
    async with world.database.transaction() as tx:
        await runs.mark_compensating(tx, run)
    with pytest.raises(LoradockError, match="operation_ended"):
        async with world.database.transaction() as tx:
            await versions.mark_ready(tx, run, ref, "s3://x")
    with pytest.raises(LoradockError, match="operation_ended"):
        await _reserve(world, run)


async def test_after_the_end_nothing_is_reserved(world: World) -> None:
    run = await world.start(new_publish())
    await world.finish(run, OperationState.ABORTED)
    with pytest.raises(LoradockError, match="operation_ended"):
        await _reserve(world, run)


async def test_another_base_model_than_the_adapters_is_refused(world: World) -> None:
    await world.publish()
    run = await world.start(new_publish(seed="two"))
    with pytest.raises(LoradockError, match="base_model_mismatch"):
        await _reserve(world, run, seed="two", base_model="other-base")
    assert (await _reserve(world, run, seed="two", base_model=None)).ref.version == 2


async def test_a_wrong_base_model_does_not_outlive_the_publish_that_failed(world: World) -> None:
    run = await world.start(new_publish())
    await _reserve(world, run, base_model="wrong")
    await world.finish(run)
    await world.publish(seed="two", base_model="right")
    async with world.database.read() as tx:
        assert (await adapters.get_adapter(tx, "greeter")).base_model == "right"


async def test_without_a_word_the_only_base_model_of_the_engines_is_taken(world: World) -> None:
    run = await world.start(new_publish())
    with pytest.raises(LoradockError, match="base_model_unknown"):
        await _reserve(world, run, base_model=None)
    await world.engines("e1", "e2")
    await _reserve(world, run, base_model=None)
    await world.renew(report("e3", base_model="second"), agent="host-2", pool="other")
    other = await world.start(new_publish("other"))
    with pytest.raises(LoradockError, match="base_model_unknown"):
        await _reserve(world, other, adapter="other", base_model=None)


async def test_missing_things_have_their_codes(world: World) -> None:
    await world.publish()
    for adapter, version, code in (("nobody", 1, "adapter_not_found"), ("greeter", 9, "version_not_found")):
        with pytest.raises(LoradockError, match=code):
            async with world.database.read() as tx:
                await versions.get_version(tx, adapter, version)


async def test_versions_are_listed_newest_first_by_pages(world: World) -> None:
    for seed in "abc":
        await world.publish(seed=seed)
    async with world.database.read() as tx:
        first = await versions.list_versions(tx, "greeter", limit=2)
        second = await versions.list_versions(tx, "greeter", limit=2, cursor=first.next)
    assert ([view.version for view in (*first.items, *second.items)], second.next) == ([3, 2, 1], None)


async def test_a_late_call_of_a_superseded_run_is_refused(world: World) -> None:
    made = await world.submit(new_publish())
    run, reset = run_of(made, "run-1"), run_of(made, "run-2")
    await _reserve(world, run)
    await _reserve(world, reset)
    with pytest.raises(LoradockError, match="operation_superseded"):
        await _reserve(world, run)
