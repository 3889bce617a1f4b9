"""What an agent tells of its host's cache is shown with each of its engines."""

from loradock.core.requests import CacheReport
from loradock.registry import agents, engines
from tests.registry.world import World, renewal, report

FIGURES = CacheReport(bytes=10, adapters=2, leased=1, hits=5, evicted=3, free_bytes=100)


async def test_the_caches_figures_are_shown_with_every_engine_and_kept(world: World) -> None:
    await world.engines("e0", "e1")
    async with world.database.read() as tx:
        assert (await engines.get_engine(tx, "e0")).cache is None
    told = renewal(report("e0"), report("e1")).model_copy(update={"cache": FIGURES})
    async with world.database.transaction() as tx:
        await agents.renew_lease(tx, told, 60)
    await world.engines("e0", "e1")  # one that has not counted yet takes nothing back
    async with world.database.read() as tx:
        assert (await engines.get_engine(tx, "e0")).cache == FIGURES
        assert [engine.cache for engine in (await engines.list_engines(tx)).items] == [FIGURES, FIGURES]
        assert await agents.alive_agents(tx) == ["host-1"]
