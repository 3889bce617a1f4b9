"""What the tests of activities share: an environment to run them in, and slow or lying neighbours."""

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
import pytest
from temporalio.testing import ActivityEnvironment

from activities.metering import Transfer
from loradock.artifacts.protocol import ObjectStore, Reader
from loradock.core.errors import LoradockError
from loradock.core.models import RunRef, StepReport, VersionRef
from loradock.core.requests import EngineTarget

Result = TypeVar("Result")

RUN = RunRef(operation="op-1", run_id="run-1", epoch=5)
CHUNK_SECONDS = 0.05


class Reports:
    """Keeps what activities tell of their progress."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, StepReport]] = []

    def report(self, operation: str, step: StepReport) -> None:
        self.seen.append((operation, step))

    @property
    def steps(self) -> list[tuple[str, str]]:
        return [(step.name, str(step.state)) for _, step in self.seen]


class Meter:
    """Keeps what is told of transfers: kind, outcome, bytes, code."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, int, str | None]] = []
        self.seconds: list[float] = []

    def ended(self, transfer: Transfer, outcome: str, seconds: float, size: int, code: str | None) -> None:
        self.seen.append((transfer.value, outcome, size, code))
        self.seconds.append(seconds)


class Bench(ActivityEnvironment):
    """Runs activities as a worker does: async ones in the loop, the others in a thread; keeps their heartbeats."""

    def __init__(self, attempt: int = 1) -> None:
        super().__init__()
        self.info = dataclasses.replace(self.info, attempt=attempt)
        self.beats: list[tuple[Any, ...]] = []
        self.bytes: list[int] = []
        self.beating = threading.Event()
        self.on_heartbeat = self._beat

    def _beat(self, *details: Any) -> None:
        self.beats.append(details)
        self.bytes = [beat[0]["bytes"] for beat in self.beats if beat]
        self.beating.set()

    def begin(self, activity: Callable[[Any], Result], given: Any) -> "Future[Result]":
        """Run a sync activity in a thread of its own."""
        done: Future[Result] = Future()

        def work() -> None:
            try:
                done.set_result(self.run(activity, given))
            except BaseException as error:
                done.set_exception(error)

        threading.Thread(target=work).start()
        return done


class SlowObjects:
    """An object store behind a slow line: each read brings little and takes its time."""

    def __init__(self, objects: ObjectStore, *, chunk: int = 2_000) -> None:
        self._objects = objects
        self.chunk = chunk
        self.slow = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)

    @contextmanager
    def open(self, key: str, **part: Any) -> Iterator[Reader]:
        with self._objects.open(key, **part) as reader:
            yield _SlowReader(reader, self.chunk) if self.slow else reader


class _SlowReader:
    def __init__(self, reader: Reader, chunk: int) -> None:
        self._reader = reader
        self._chunk = chunk

    def readinto(self, buffer: memoryview, /) -> int:
        time.sleep(CHUNK_SECONDS)
        return self._reader.readinto(buffer[: self._chunk])


@contextmanager
def refused(code: str) -> Iterator[pytest.ExceptionInfo[LoradockError]]:
    """The body fails with this code."""
    with pytest.raises(LoradockError) as caught:
        yield caught
    assert caught.value.code == code, caught.value


def target(engine: str = "e1", incarnation: str = "life-1") -> EngineTarget:
    return EngineTarget(engine=engine, agent="host-1", incarnation=incarnation)


def ref_of(digest: str, version: int = 1, adapter: str = "greeter") -> VersionRef:
    return VersionRef(adapter=adapter, version=version, digest=digest, int_id=version + 100)


def _clocks(row: dict[str, Any]) -> set[str]:
    """Columns that say when something was last tried, which a second try may move."""
    return {"staged": {"since"}, "publishing": {"created_at"}}.get(str(row.get("state")), set())


def rows(url: str) -> dict[str, list[dict[str, Any]]]:
    """Every row of every table."""
    found = {}
    with psycopg.connect(url, row_factory=psycopg.rows.dict_row) as connection:
        tables = connection.execute(
            "SELECT table_name AS name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1"
        ).fetchall()
        for table in tables:
            name = psycopg.sql.Identifier(table["name"])
            content = connection.execute(psycopg.sql.SQL("SELECT * FROM {}").format(name)).fetchall()
            kept = [{key: row[key] for key in row.keys() - _clocks(row)} for row in content]
            found[table["name"]] = sorted(kept, key=lambda row: repr(sorted(row.items())))
    return found
