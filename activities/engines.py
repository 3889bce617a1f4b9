"""A host's engines: load and verify, drain and remove. Runs in the agent beside them."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from temporalio import activity

from activities.heartbeats import heartbeats
from activities.interface.hosts import (
    LOAD_ADAPTER,
    RESUME_ADAPTER,
    UNLOAD_ADAPTER,
    HostDone,
    HostInput,
    LoadAdapterInput,
    LoadedAdapter,
    UnloadAdapterInput,
    UnloadedAdapter,
)
from activities.interface.reconcile import OBSERVE_ENGINE, ObserveInput
from activities.progress import ProgressReporter, StepClock
from loradock.core.errors import LoradockError
from loradock.core.models import StepReport
from loradock.core.names import parse_served_name
from loradock.core.promises import EnginePromise
from loradock.core.reconcile import EngineObservation, HeldAdapter
from loradock.engines.protocol import (
    AdapterReport,
    AdapterState,
    Command,
    DrainCommand,
    DrainResult,
    Engine,
    LoadCommand,
    LoadResult,
    ResumeCommand,
    UnloadCommand,
    UnloadResult,
)

DRAIN_SLICE_SECONDS: Final = 2.0
"""A long drain is waited for in slices, so that a cancel is heard between two of them."""

LOAD_RETRY_SECONDS: Final = 5.0
"""Until the next try of a load that came too soon for an engine which does not say when."""

WARM_UP_PROMPT: Final = "Hello"


class EngineActivities:
    """Activities on the engines of one host.

    Args:
        engines: by engine id.
        reporter: told of each step as it begins.
        check_lease: called with an engine's id before anything is done to it; raises when it is another agent's now.
    """

    def __init__(
        self,
        engines: Mapping[str, Engine],
        reporter: ProgressReporter,
        check_lease: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._engines = engines
        self._reporter = reporter
        self._check_lease = check_lease

    @activity.defn(name=LOAD_ADAPTER.name)
    async def load(self, given: LoadAdapterInput) -> LoadedAdapter:
        """add_lora, then prove that the engine answers under the name.

        Repeatable: the engine takes the same name and digest as loaded already.
        """
        engine = self._engine(given.target.engine)
        clock = StepClock("load", given.target.engine)
        self._reporter.report(given.run.operation, clock.running())
        command = LoadCommand.of(
            given.ref, given.run, incarnation=given.target.incarnation, path=given.path, undo=given.undo
        )
        async with heartbeats():
            loaded = await _load_in_turn(engine, command)
            if loaded.adapter.state is AdapterState.DRAINING:
                # An unload that was cut off left it so. Nobody else works on this adapter here: we hold its lock.
                await engine.resume(ResumeCommand(**_words(given), undo=given.undo))
            step = clock.succeeded(
                outcome=loaded.outcome, engine_seconds=loaded.seconds, **_unkept(loaded.unkept)
            )
            self._reporter.report(given.run.operation, step)
            verified = await self._verify(engine, given, loaded)
        return LoadedAdapter(outcome=loaded.outcome, steps=(step, verified))

    @activity.defn(name=UNLOAD_ADAPTER.name)
    async def unload(self, given: UnloadAdapterInput) -> UnloadedAdapter:
        """Refuse new requests, wait for the running ones, remove_lora, and see that it is gone.

        An engine that has another incarnation, or on whose port nobody listens, holds nothing of ours any more.
        """
        engine = self._engine(given.target.engine)
        try:
            async with heartbeats():
                return await self._drain_and_remove(engine, given)
        except LoradockError as error:
            outcome = _nothing_to_remove(error, given)
            if outcome is None:
                raise
            step = StepClock("remove", given.target.engine).succeeded(outcome=outcome)
            return UnloadedAdapter(outcome=outcome, steps=(step,))

    @activity.defn(name=RESUME_ADAPTER.name)
    async def resume(self, given: HostInput) -> HostDone:
        """Let requests in again: the undo of a drain. An adapter that is not there needs none."""
        engine = self._engine(given.target.engine)
        clock = StepClock("resume", given.target.engine)
        try:
            async with heartbeats():
                await engine.resume(ResumeCommand(**_words(given), undo=True))
        except LoradockError as error:
            gone = error.code in {"adapter_not_loaded", "incarnation_mismatch"}
            if not gone and not error.details.get("refused"):
                raise
        return HostDone(step=clock.succeeded())

    @activity.defn(name=OBSERVE_ENGINE.name)
    async def observe(self, given: ObserveInput) -> EngineObservation:
        """Ask an engine what it holds."""
        state = await self._engine(given.target.engine).state()
        return EngineObservation(
            incarnation=state.incarnation,
            held=tuple(_held(report) for report in state.adapters),
            unknown_ids=state.foreign_int_ids,
        )

    async def _verify(self, engine: Engine, given: LoadAdapterInput, loaded: LoadResult) -> StepReport:
        clock = StepClock("verify", given.target.engine)
        self._reporter.report(given.run.operation, clock.running())
        if not loaded.adapter.resident or loaded.adapter.digest != given.ref.digest:
            raise LoradockError(
                "engine_not_verified",
                f"{given.target.engine} does not list {given.ref.served_name} as resident with its digest",
            )
        probe = await engine.probe(given.ref.served_name, WARM_UP_PROMPT)
        return clock.succeeded(first_token_seconds=round(probe.seconds, 4))

    async def _drain_and_remove(self, engine: Engine, given: UnloadAdapterInput) -> UnloadedAdapter:
        drain = StepClock("drain", given.target.engine)
        steps: list[StepReport] = []
        if not given.own_only:
            self._reporter.report(given.run.operation, drain.running())
            drained = await self._drain(engine, given)
            steps.append(drain.succeeded(**_unkept(drained.unkept if drained else ())))
        remove = StepClock("remove", given.target.engine)
        if not given.own_only:
            self._reporter.report(given.run.operation, remove.running())
        removed = await self._remove(engine, given)
        step = remove.succeeded(outcome=removed.outcome, **_unkept(removed.unkept))
        return UnloadedAdapter(outcome=removed.outcome, steps=(*steps, step))

    async def _drain(self, engine: Engine, given: UnloadAdapterInput) -> DrainResult | None:
        """Drain; how far that came, None when there is nothing to drain."""
        clock = asyncio.get_running_loop()
        deadline = clock.time() + given.drain_seconds
        with suppress_codes("adapter_not_loaded"):
            while True:
                left = max(0.0, deadline - clock.time())
                command = DrainCommand(**_words(given), wait_seconds=min(left, DRAIN_SLICE_SECONDS))
                drained = await engine.drain(command)
                if drained.outcome == "drained" or left <= 0:
                    return drained
        return None

    async def _remove(self, engine: Engine, given: UnloadAdapterInput) -> UnloadResult:
        command = UnloadCommand(
            **_words(given),
            undo=given.own_only,
            only_operation=given.run.operation if given.own_only else None,
            drain_seconds=0,
            on_timeout="abort" if given.cut_requests else "keep_draining",
        )
        return await engine.unload(command)

    def _engine(self, name: str) -> Engine:
        if name not in self._engines:
            raise LoradockError("engine_not_found", f"this agent has no engine {name}")
        self._check_lease(name)
        return self._engines[name]


def _held(report: AdapterReport) -> HeldAdapter:
    adapter, version = parse_served_name(report.served_name)
    return HeldAdapter(
        adapter=adapter,
        version=version,
        digest=report.digest,
        int_id=report.int_id,
        serving=report.resident and report.state is AdapterState.SERVING,
        operation=report.operation,
    )


async def _load_in_turn(engine: Engine, command: LoadCommand) -> LoadResult:
    """Load, when the engine's operator limits how fast loads may follow each other: later, not never."""
    while True:
        try:
            return await engine.load(command)
        except LoradockError as error:
            if error.code != "load_rate_limited":
                raise
            wait = float(error.details.get("retry_after", LOAD_RETRY_SECONDS))
        await asyncio.sleep(wait)


def _unkept(promises: Sequence[EnginePromise]) -> dict[str, list[str]]:
    """For a step's details: what the engine could not promise of it; nothing where it kept all."""
    return {"unkept": sorted(promises)} if promises else {}


def _nothing_to_remove(error: LoradockError, given: UnloadAdapterInput) -> str | None:
    """What an error says of an adapter that is not there for us to remove, None when it says nothing of the kind."""
    if error.code == "incarnation_mismatch" or error.details.get("refused"):
        return "engine_gone"
    if error.code == "stale_epoch" and given.own_only:
        return "not_owned"  # a later operation has the name: what lies there is its own
    return None


def _words(given: HostInput | LoadAdapterInput | UnloadAdapterInput) -> dict[str, str | int]:
    """What every command carries; whether it is an undo, the caller says."""
    command = Command(
        served_name=given.ref.served_name, incarnation=given.target.incarnation, **given.run.model_dump()
    )
    return command.model_dump(exclude={"undo"})


@contextmanager
def suppress_codes(*codes: str) -> Iterator[None]:
    """Like `contextlib.suppress`, for our error codes."""
    try:
        yield
    except LoradockError as error:
        if error.code not in codes:
            raise
