"""Whatever comes in whatever order: the collector never begins to delete what anything names or counts on."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from sqlalchemy import text

from loradock.core.errors import LoradockError
from loradock.core.models import RunRef, VersionState
from loradock.core.requests import LoadRequest
from loradock.registry import aliases, retirement, tombstones, versions
from loradock.registry.database import Database
from tests.registry.world import World, digest, new_placement

ADAPTERS = st.sampled_from(["greeter", "other"])
SEEDS = st.sampled_from(["one", "two", "three"])
NUMBERS = st.integers(1, 3)
Result = TypeVar("Result")


class CollectionMachine(RuleBasedStateMachine):
    """Two adapters that may have bytes in common. The model: what names which version, in plain sets."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.database = Database(url, pool_size=3)
        self.world = World(self.database)
        self.bytes: dict[tuple[str, int], str] = {}
        self.live: set[tuple[str, int]] = set()
        self.aliased: dict[str, int] = {}
        self.active: dict[tuple[str, int], RunRef] = {}
        self.served: set[tuple[str, int]] = set()
        self.stored: set[str] = set()
        self.do(self.world.engines("e0"))

    def do(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self.runner.run(work)

    def attempt(self, work: Coroutine[Any, Any, Result]) -> Result | str:
        try:
            return self.do(work)
        except LoradockError as error:
            return error.code

    def named(self) -> set[tuple[str, int]]:
        return {*self.aliased.items(), *self.active, *self.served}

    def needed(self) -> set[str]:
        return {self.bytes[version] for version in self.live | self.named()}

    @rule(adapter=ADAPTERS, seed=SEEDS)
    def publish(self, adapter: str, seed: str) -> None:
        ref = self.attempt(self.world.publish(adapter, seed=seed))
        if not isinstance(ref, str):
            self.bytes[adapter, ref.version] = ref.digest
            self.live.add((adapter, ref.version))
            self.stored.add(ref.digest)

    @rule(adapter=ADAPTERS, number=NUMBERS)
    def delete(self, adapter: str, number: int) -> None:
        async def retire() -> None:
            async with self.database.transaction() as tx:
                await retirement.retire(tx, adapter, number, "alice")

        said = self.attempt(retire())
        version = (adapter, number)
        if version not in self.bytes:
            assert said in ("adapter_not_found", "version_not_found")
        elif version in self.named():
            assert said == "version_in_use"
        else:
            assert said is None
            self.live.discard(version)

    @rule(keep=st.integers(1, 2), adapter=ADAPTERS)
    def retention(self, keep: int, adapter: str) -> None:
        async def retire() -> list[int]:
            async with self.database.transaction() as tx:
                return await retirement.retire_expired(tx, adapter, keep)

        gone = self.attempt(retire())
        if isinstance(gone, list):
            assert not self.named() & {(adapter, number) for number in gone}
            self.live -= {(adapter, number) for number in gone}

    @rule(adapter=ADAPTERS, number=NUMBERS)
    def move_alias(self, adapter: str, number: int) -> None:
        async def move() -> None:
            async with self.database.transaction() as tx:
                await aliases.set_alias(tx, adapter=adapter, alias="stable", version=number, actor="alice")

        if self.attempt(move()) is None:
            assert (adapter, number) in self.live
            self.aliased[adapter] = number

    @rule(adapter=ADAPTERS)
    def take_alias(self, adapter: str) -> None:
        async def take() -> None:
            async with self.database.transaction() as tx:
                await aliases.delete_alias(tx, adapter=adapter, alias="stable", actor="alice")

        if self.attempt(take()) is None:
            self.aliased.pop(adapter, None)

    @rule(adapter=ADAPTERS, number=NUMBERS)
    def begin_load(self, adapter: str, number: int) -> None:
        if (adapter, number) in self.live and not any(one[0] == adapter for one in self.active):
            request = LoadRequest(adapter=adapter, version=number, pool="default")
            self.active[adapter, number] = self.do(self.world.start(new_placement(request)))

    @rule()
    def end_operations(self) -> None:
        for run in self.active.values():
            self.do(self.world.finish(run))
        self.active.clear()

    @rule(adapter=ADAPTERS, number=NUMBERS)
    def load(self, adapter: str, number: int) -> None:
        if (adapter, number) in self.live - self.served and not any(one[0] == adapter for one in self.active):
            self.do(self.world.load(self.do(self._ref(adapter, number))))
            self.served.add((adapter, number))

    async def _ref(self, adapter: str, number: int) -> Any:
        async with self.database.read() as tx:
            return versions.version_ref(await versions.require(tx, adapter, number))

    @rule(ends=st.booleans())
    def collect(self, ends: bool) -> None:
        async def mark() -> list[str]:
            async with self.database.transaction() as tx:
                return await tombstones.mark(tx, self.stored, 0)

        async def begin(which: str) -> bool:
            async with self.database.transaction() as tx:
                return await tombstones.begin_delete(tx, which)

        async def end(which: str) -> None:
            async with self.database.transaction() as tx:
                await tombstones.end_delete(tx, which, 1)

        due = set(self.do(mark()))
        assert not due & self.needed()
        for seed in ("one", "two", "three"):  # also what was never due
            which = digest(seed)
            began = self.do(begin(which))
            assert not (began and which in self.needed())
            if began and ends:
                self.do(end(which))
                self.stored.discard(which)

    @rule()
    def what_is_live_has_its_bytes(self) -> None:
        async def ready() -> set[tuple[str, int]]:
            async with self.database.read() as tx:
                rows = [await versions.require(tx, *version) for version in self.bytes]
            return {(row.adapter, row.version) for row in rows if row.state == VersionState.READY}

        assert self.do(ready()) == self.live
        assert {self.bytes[version] for version in self.live} <= self.stored

    def teardown(self) -> None:
        async def clear() -> None:
            async with self.database.transaction() as tx:
                await tx.session.execute(
                    text(
                        "TRUNCATE artifact_tombstones, cards, deployment_versions, deployments, aliases, versions,"
                        " operations, adapters CASCADE"
                    )
                )

        self.do(clear())
        self.do(self.database.dispose())
        self.runner.close()


def test_the_collector_never_takes_what_is_named(registry_url: str) -> None:
    run_state_machine_as_test(
        lambda: CollectionMachine(registry_url),
        settings=settings(
            max_examples=20, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
