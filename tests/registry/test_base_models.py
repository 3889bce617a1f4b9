"""Base models are known by hand or by the first engine, and what does not fit them is not published."""

import pytest

from loradock.core.base_config import BaseConfig
from loradock.core.errors import LoradockError
from loradock.core.inspection import BaseOrigin, InspectionReport, ModuleGroup, Verdict
from loradock.core.requests import LoadRequest, ReservedVersion
from loradock.registry import base_models, engines, placement, versions
from tests.registry.world import BASE, SOURCE, World, manifest, new_publish, report, traits

CONFIG = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 4}


def inspected(*, layers: int = 2, size_in: int = 128) -> InspectionReport:
    name = "model.layers.{}.self_attn.q_proj"
    group = ModuleGroup(
        pattern=name.format("*"),
        first=name.format(0),
        deepest=name.format(layers - 1),
        modules=layers,
        layers=layers,
        rank_min=8,
        rank_max=8,
        size_in=size_in,
        size_out=128,
    )
    return InspectionReport(verdict=Verdict.SERVABLE, traits=traits(), modules=(group,))


async def put(world: World, name: str = BASE, **changes: object) -> None:
    async with world.database.transaction() as tx:
        await base_models.put(tx, name, {**CONFIG, **changes}, "alice")


async def reserve(world: World, found: InspectionReport | None, seed: str = "one") -> ReservedVersion:
    run = await world.start(new_publish(seed=seed))
    try:
        async with world.database.transaction() as tx:
            reserved = await versions.reserve(
                tx, run, adapter="greeter", manifest=manifest(seed), traits=traits(), source_uri=SOURCE,
                base_model=BASE, labels={}, actor="alice", report=found,
            )  # fmt: skip
        async with world.database.transaction() as tx:
            await versions.mark_ready(tx, run, reserved.ref, "s3://store/one")
        return reserved
    finally:
        await world.finish(run)


async def kept(world: World, version: int = 1) -> InspectionReport | None:
    async with world.database.read() as tx:
        return (await versions.get_version(tx, "greeter", version)).report


async def test_an_adapter_that_fits_keeps_its_report(world: World) -> None:
    await put(world)
    await reserve(world, inspected())
    found = await kept(world)
    assert found is not None
    assert (found.base.checked, found.base.base_model, found.base.origin) == (True, BASE, "registered")
    assert found.modules == inspected().modules


@pytest.mark.parametrize(("change", "named"), [({"layers": 3}, "layers.2"), ({"size_in": 64}, "layers.0")])
async def test_another_base_or_further_layers_are_refused(
    world: World, change: dict[str, int], named: str
) -> None:
    await put(world)
    with pytest.raises(LoradockError) as caught:
        await reserve(world, inspected(**change))
    assert caught.value.code == "base_model_mismatch"
    assert f"model.{named}.self_attn.q_proj" in caught.value.message
    async with world.database.read() as tx:
        assert (await versions.list_versions(tx, "greeter")).items == ()


async def test_without_a_known_base_the_report_says_that_it_was_not_checked(world: World) -> None:
    await reserve(world, inspected(layers=99))
    found = await kept(world)
    assert found is not None
    assert not found.base.checked
    assert found.base.notes[0].startswith("not checked against a base")


async def test_a_version_of_before_gets_its_report_when_it_is_published_again(world: World) -> None:
    await reserve(world, None)
    assert await kept(world) is None
    assert (await reserve(world, inspected())).already_published
    first = await kept(world)
    assert first is not None
    await put(world)
    assert (await reserve(world, inspected())).already_published
    assert await kept(world) == first


async def test_the_first_engine_registers_its_base_and_no_later_one_changes_it(world: World) -> None:
    config = BaseConfig.of(CONFIG)
    other = BaseConfig.of(CONFIG | {"hidden_size": 64})
    await world.renew(report("e0", base_config=config))
    await world.renew(report("e0", base_config=config))
    await world.renew(report("e1", base_config=other), agent="host-2")
    async with world.database.read() as tx:
        found = await base_models.get(tx, BASE)
        seen = [(await engines.get_engine(tx, name)).base_config for name in ("e0", "e1")]
    assert (found.origin, found.measures, found.fingerprint) == (
        BaseOrigin.ENGINE,
        config,
        config.fingerprint,
    )
    assert seen == [config, other]
    actions = await world.actions()
    assert (actions.count("base_model.seen"), actions.count("base_model.differs")) == (1, 1)
    with pytest.raises(LoradockError):
        await reserve(world, inspected(size_in=64))


async def test_a_person_knows_better_than_an_engine(world: World) -> None:
    await world.renew(report("e0", base_config=BaseConfig.of(CONFIG | {"hidden_size": 64})))
    await put(world)
    await world.renew(report("e1", base_config=BaseConfig.of(CONFIG | {"hidden_size": 64})), agent="host-2")
    async with world.database.read() as tx:
        found = await base_models.get(tx, BASE)
    assert (found.origin, found.measures.hidden_size, found.created_by) == (
        BaseOrigin.REGISTERED,
        128,
        "agent:host-1",
    )
    assert found.updated_by == "alice"
    await reserve(world, inspected())


async def test_a_version_published_unchecked_is_not_loaded_where_it_does_not_fit(world: World) -> None:
    await reserve(world, inspected(layers=3))
    await world.renew(report("e0", base_config=BaseConfig.of(CONFIG)))
    load = LoadRequest(adapter="greeter", version=1, pool="default")
    async with world.database.read() as tx:
        with pytest.raises(LoradockError) as caught:
            await placement.check_load(tx, load)
    assert (caught.value.code, caught.value.details["engine"]) == ("base_model_mismatch", "e0")
    assert "model.layers.2.self_attn.q_proj" in caught.value.message


async def test_a_version_that_fits_by_a_persons_word_is_loaded_where_an_engine_tells_otherwise(
    world: World,
) -> None:
    await put(world, num_hidden_layers=3)
    await reserve(world, inspected(layers=3))
    await world.renew(report("e0", base_config=BaseConfig.of(CONFIG)))
    async with world.database.read() as tx:
        plan = await placement.check_load(tx, LoadRequest(adapter="greeter", version=1, pool="default"))
    assert [target.engine for target in plan.targets] == ["e0"]


async def test_an_engine_that_tells_nothing_registers_nothing(world: World) -> None:
    await world.renew(report("e0"), report("e1", base_config=BaseConfig()))
    async with world.database.read() as tx:
        assert await base_models.find(tx, BASE) is None


async def test_a_config_with_nothing_to_compare_is_refused(world: World) -> None:
    with pytest.raises(LoradockError) as caught:
        await put(world, num_hidden_layers=None, hidden_size="128")
    assert caught.value.code == "base_config_invalid"


async def test_base_models_are_listed_by_name_in_pages(world: World) -> None:
    for name in ("c", "org/a", "b"):
        await put(world, name)
    async with world.database.read() as tx:
        first = await base_models.list_base_models(tx, limit=2)
        rest = await base_models.list_base_models(tx, limit=2, cursor=first.next)
    assert [item.name for item in (*first.items, *rest.items)] == ["b", "c", "org/a"]
    assert rest.next is None
