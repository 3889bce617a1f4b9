"""Whatever order runs, resets, ends, rivals and sweepers come in: one holder, one lock, and what is superseded stays so."""

import asyncio
import itertools
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from loradock.core.errors import LoradockError
from loradock.core.models import ACTIVE_STATES, OperationState, RunRef
from loradock.registry import operations, runs, takeover
from loradock.registry.database import Database
from tests.registry.world import World, new_publish, run_of

RUNS = st.sampled_from(["run-1", "run-2", "run-3", "run-4"])
ENDS = st.sampled_from([OperationState.SUCCEEDED, OperationState.FAILED, OperationState.ABORTED])
_NUMBERS = itertools.count(1)
Result = TypeVar("Result")


class ClaimMachine(RuleBasedStateMachine):
    """One operation, and a rival for its lock, beside a model of both."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.database = Database(url, pool_size=2)
        self.world = World(self.database)
        self.adapter = f"greeter-{next(_NUMBERS)}"  # the database outlives an example
        made = self.do(self.world.submit(new_publish(self.adapter)))
        self.operation = made.id
        self.epochs = [made.epoch]
        self.state = OperationState.PENDING
        self.holder: str | None = None
        self.superseded: set[str] = set()
        self.rival: RunRef | None = None

    def do(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self.runner.run(work)

    def expected(self, run: RunRef) -> str:
        """What `claim` should say, after which the model is in the state that it says."""
        if run.epoch != self.epochs[-1] or run.run_id in self.superseded:
            return "operation_superseded"
        if not self.holder and not self.state.active:
            return "operation_ended"
        if self.holder and self.holder != run.run_id:
            if self.state is OperationState.SUCCEEDED:
                return "operation_ended"
            if not self.state.active and self.rival:
                return "adapter_busy"
            self.superseded.add(self.holder)
            if self.state is not OperationState.PENDING:
                self.state = OperationState.RUNNING
        self.holder = run.run_id
        return "claimed"

    async def attempt(self, work: Any) -> str:
        try:
            async with self.database.transaction() as tx:
                await work(tx)
        except LoradockError as error:
            return error.code
        return "claimed"

    def run_ref(self, name: str, epoch: int) -> RunRef:
        return RunRef(operation=self.operation, run_id=name, epoch=self.epochs[-1 - epoch % len(self.epochs)])

    @rule(name=RUNS, epoch=st.integers(0, 3))
    def claim(self, name: str, epoch: int) -> None:
        run = self.run_ref(name, epoch)
        assert self.do(self.attempt(lambda tx: runs.claim(tx, run))) == self.expected(run)

    @rule(name=RUNS)
    def begin(self, name: str) -> None:
        run = self.run_ref(name, 0)
        expected = self.expected(run)
        assert self.do(self.attempt(lambda tx: runs.begin(tx, run, [("step", "")]))) == expected
        if expected == "claimed" and self.state is OperationState.PENDING:
            self.state = OperationState.RUNNING

    @rule(name=RUNS)
    def compensate(self, name: str) -> None:
        run = self.run_ref(name, 0)
        expected = self.expected(run)
        if expected == "claimed" and not self.state.active:
            expected = "operation_ended"
        assert self.do(self.attempt(lambda tx: runs.mark_compensating(tx, run))) == expected
        if expected == "claimed":
            self.state = OperationState.COMPENSATING

    @rule(name=RUNS, end=ENDS)
    def finish(self, name: str, end: OperationState) -> None:
        run = self.run_ref(name, 0)
        expected = self.expected(run)
        assert self.do(self.attempt(lambda tx: runs.finish(tx, run, end))) == expected
        if expected == "claimed" and self.state.active:
            self.state = end

    @rule()
    def take_over(self) -> None:
        async def take() -> RunRef | str:
            try:
                async with self.database.transaction() as tx:
                    return (await takeover.take_over(tx, self.operation)).run
            except LoradockError as error:
                return error.code

        taken = self.do(take())
        if not self.state.active:
            assert taken == "operation_ended"
            return
        assert isinstance(taken, RunRef)
        assert taken.epoch > max(self.epochs)
        self.epochs.append(taken.epoch)
        if self.holder:
            self.superseded.add(self.holder)
        self.holder, self.state = None, OperationState.COMPENSATING

    @precondition(lambda self: self.rival is None)
    @rule()
    def rival_comes(self) -> None:
        new = new_publish(self.adapter, rival=True)
        try:
            self.rival = run_of(self.do(self.world.submit(new)))
        except LoradockError as error:
            assert (error.code, self.state.active) == ("adapter_busy", True)
        else:
            assert not self.state.active

    @precondition(lambda self: self.rival is not None)
    @rule()
    def rival_ends(self) -> None:
        assert self.rival is not None
        self.do(self.world.finish(self.rival))
        self.rival = None

    @invariant()
    def row_and_model_agree(self) -> None:
        async def look() -> tuple[OperationState, str | None, str | None]:
            async with self.database.read() as tx:
                shown = await operations.get_operation(tx, self.operation)
                holder = await operations.lock_holder(tx, operations.publish_lock(self.adapter))
                return shown.state, shown.run_id, holder.id if holder else None

        state, run_id, lock = self.do(look())
        assert state is self.state
        assert self.holder is None or run_id == self.holder
        mine = self.operation if self.state in ACTIVE_STATES else None
        assert lock == (mine or (self.rival.operation if self.rival else None))

    def teardown(self) -> None:
        for run in (self.rival, RunRef(operation=self.operation, run_id="last", epoch=self.epochs[-1])):
            if run is not None and (run is self.rival or self.state.active):
                self.do(self.world.finish(run))
        self.do(self.database.dispose())
        self.runner.close()


@pytest.mark.timeout(300)
def test_claims_follow_their_model(registry_url: str) -> None:
    run_state_machine_as_test(
        lambda: ClaimMachine(registry_url),
        settings=settings(
            max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
