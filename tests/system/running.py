"""A running stack as its users and its operators see it: REST, the engines' HTTP, Temporal, Postgres, S3 and processes."""

import asyncio
import contextlib
import functools
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import boto3
import httpx
import psycopg
from botocore.config import Config
from temporalio.client import Client, WorkflowHandle
from temporalio.contrib.pydantic import pydantic_data_converter

from loradock.dev.options import EngineKind, StackOptions
from loradock.dev.stack import Stack
from loradock.dev.supervisor import PartEvent
from tests.dev.processes import PROJECT, alive

T = TypeVar("T")
Document = dict[str, Any]

IMPORTS = os.pathsep.join((str(PROJECT), str(PROJECT / "vllm_extension")))
"""What PYTHONPATH needs to run our programs from a checkout, in whatever folder."""

WAIT_SECONDS = 90.0
"""Longer than any of the service's own timeouts after a crash; a wait ends when its condition holds."""


@dataclass(frozen=True)
class Snapshot:
    """All places where an operation could leave something."""

    engines: dict[str, frozenset[tuple[str, str]]]
    cards: frozenset[tuple[Any, ...]]
    versions: frozenset[tuple[Any, ...]]
    objects: frozenset[str]
    cached: frozenset[str]
    staged: frozenset[str]


class RunningStack:
    """One stack, started by `start` and used by plain synchronous tests.

    The stack's own supervision runs on an event loop that stands still between two calls.
    """

    def __init__(self, options: StackOptions) -> None:
        self.events: list[PartEvent] = []
        self.answers: list[str] = []
        """Every answer of the API, for the search for secrets."""
        self.poison: set[str] = set()
        """Secrets that a caller put where they do not belong: they must not be found anywhere either."""
        self.chain_end = (0, "0" * 64)
        """Up to which event the audit was checked, and that one's hash."""
        self.stack = Stack(options, self.events.append)
        self._loop = asyncio.new_event_loop()
        self._temporal: Client | None = None
        # No connection is kept: one that the server closes just when it is used again says nothing of the service.
        self._http = httpx.Client(
            timeout=WAIT_SECONDS, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0)
        )

    def start(self) -> None:
        self._do(self.stack.start())

    def stop(self) -> None:
        self._http.close()
        self._do(self.stack.stop())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    # ---- the control API

    @property
    def state(self) -> Path:
        return self.stack.options.state

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    def secret(self, name: str) -> str:
        return (self.state / "secrets" / name).read_text().strip()

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        authorization: str | None = "",
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Call the API; `authorization` None sends no such header, empty the operator's token."""
        sent = dict(headers or {})
        if authorization is not None:
            sent["Authorization"] = authorization or f"Bearer {self.stack.info.token}"
        url = f"{self.stack.info.api}{path}"
        content = None if body is None else json.dumps(body)
        if content is not None:
            sent["Content-Type"] = "application/json"
        answer = self._http.request(method, url, content=content, headers=sent)
        self.answers.append(f"{answer.headers}\n{answer.text}")
        return answer

    def get(self, path: str) -> Document:
        answer = self.request("GET", path)
        assert answer.status_code == 200, answer.text
        found: Document = answer.json()
        return found

    def items(self, path: str) -> list[Document]:
        """All items of a list, page by page."""
        return self.newest(path, until=lambda item: False)

    def newest(self, path: str, *, until: Callable[[Document], bool]) -> list[Document]:
        """The items of a list up to the first one that is wanted last."""
        found: list[Document] = []
        cursor = ""
        while True:
            page = self.get(f"{path}{'&' if '?' in path else '?'}limit=200{cursor}")
            for item in page["items"]:
                found.append(item)
                if until(item):
                    return found
            if not page.get("next"):
                return found
            cursor = f"&cursor={page['next']}"

    def begin(self, path: str, body: object, **headers: str) -> Document:
        """Ask for a change; the operation as it is at once."""
        answer = self.request("POST", path, body, headers=headers)
        assert answer.status_code == 202, answer.text
        assert answer.headers["location"] == f"/v1/operations/{answer.json()['id']}"
        operation: Document = answer.json()
        return operation

    def ended(self, operation: str) -> Document:
        """The operation when it has ended."""

        def found() -> Document | None:
            now = self.get(f"/v1/operations/{operation}?wait=3")
            return now if now["ended_at"] else None

        return eventually(found, f"operation {operation} has not ended", self.describe)

    def run(self, path: str, body: object) -> Document:
        """Ask for a change and wait for its end, whatever it is."""
        return self.ended(self.begin(path, body)["id"])

    def succeed(self, path: str, body: object) -> Document:
        done = self.run(path, body)
        assert done["state"] == "succeeded", done
        return done

    def refuse(self, method: str, path: str, body: object = None, **more: Any) -> Document:
        """A call that must be refused; the problem."""
        answer = self.request(method, path, body, **more)
        problem: Document = answer.json()
        assert answer.headers["content-type"] == "application/problem+json", answer.text
        assert problem["status"] == answer.status_code >= 400
        assert problem["type"] == f"urn:loradock:error:{problem['code']}"
        assert problem["title"]
        assert problem["detail"]
        assert problem["remedy"]
        return problem

    def publish(self, adapter: str, folder: Path, **more: object) -> Document:
        return self.succeed(f"/v1/adapters/{adapter}/versions", {"source": source(folder), **more})

    def load(self, adapter: str, version: int = 1, **more: object) -> Document:
        return self.succeed(f"/v1/adapters/{adapter}/load", {"version": version, **more})

    def unload(self, adapter: str, **more: object) -> Document:
        return self.succeed(f"/v1/adapters/{adapter}/unload", {"force": True, "drain": 0, **more})

    def step_runs(self, operation: str, step: str, engine: str) -> bool:
        """Whether the operation is in the middle of this step on this engine."""
        found = self.get(f"/v1/operations/{operation}")
        return any(
            (one["name"], one["engine"], one["state"]) == (step, engine, "running") for one in found["steps"]
        )

    def describe(self) -> str:
        """The operations that are under way, for a failed wait."""
        with contextlib.suppress(httpx.HTTPError, AssertionError):
            return json.dumps([one for one in self.items("/v1/operations") if not one["ended_at"]], indent=1)
        return "(the API does not answer)"

    # ---- the engines

    @property
    def engines(self) -> list[str]:
        return [engine.id for engine in self.stack.info.engines]

    def engine_url(self, engine: str) -> str:
        return next(one.url for one in self.stack.info.engines if one.id == engine)

    def engine_state(self, engine: str) -> Document:
        """What the engine itself says it holds."""
        answer = self._http.get(
            f"{self.engine_url(engine)}/loradock/v1/state", headers=self._engine_headers()
        )
        assert answer.status_code == 200, answer.text
        state: Document = answer.json()
        return state

    def held(self, engine: str) -> set[str]:
        """The served names that are resident in the engine."""
        return {one["served_name"] for one in self.engine_state(engine)["adapters"] if one["resident"]}

    def faults(self, *engines: str, **faults: object) -> None:
        """Have simulated engines (all if none is named) fail or dawdle in this way alone."""
        for engine in engines or self.engines:
            url = f"{self.engine_url(engine)}/simulated/faults"
            answer = self._http.put(url, json=faults, headers=self._engine_headers())
            assert answer.status_code == 200, answer.text

    def answer(self, engine: str, model: str, prompt: str, **more: object) -> str:
        """An answer of the engine itself."""
        reply = self.complete(engine, model, prompt, **more)
        assert reply.status_code == 200, reply.text
        text: str = reply.json()["choices"][0]["text"]
        return text

    def complete(self, engine: str, model: str, prompt: str, **more: object) -> httpx.Response:
        body = {"model": model, "prompt": prompt, "max_tokens": 12, "temperature": 0, **more}
        return self._http.post(f"{self.engine_url(engine)}/v1/completions", json=body)

    @contextlib.contextmanager
    def streaming(self, engine: str, model: str, tokens: int) -> Iterator["Stream"]:
        """A request that keeps its adapter busy until it has all its tokens."""
        stream = Stream(self.engine_url(engine), model, tokens)
        stream.begin()
        try:
            yield stream
        finally:
            stream.close()

    def _engine_headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.secret('engine-token')}"}

    # ---- Postgres, S3, Temporal

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.stack.info.database_url, connect_timeout=5) as connection:
            return connection.execute(query, values).fetchall()

    def tables(self) -> list[str]:
        query = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        return sorted(name for (name,) in self.rows(query))

    @functools.cached_property
    def s3(self) -> Any:
        store = self.stack.info.object_store
        return boto3.client(
            "s3",
            endpoint_url=store.endpoint,
            region_name=store.region,
            aws_access_key_id=store.access_key_id,
            aws_secret_access_key=store.secret_access_key,
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
        )

    def objects(self) -> frozenset[str]:
        """Every key in the bucket."""
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.stack.info.object_store.bucket)
        return frozenset(item["Key"] for page in pages for item in page.get("Contents", ()))

    def workflow(self, operation: str) -> WorkflowHandle[Any, Any]:
        return self.temporal.get_workflow_handle(f"op/{operation}")

    def workflows(self, query: str) -> list[str]:
        """Ids of the workflows that a search in Temporal finds."""
        client = self.temporal

        async def found() -> list[str]:
            return [one.id async for one in client.list_workflows(query)]

        return self._do(found())

    @property
    def temporal(self) -> Client:
        if self._temporal is None:
            address = self.stack.info.temporal_address
            self._temporal = self._do(Client.connect(address, data_converter=pydantic_data_converter))
        return self._temporal

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a call of Temporal's client."""
        return self._do(work)

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(work)

    # ---- processes

    def pid(self, part: str) -> int:
        return self.stack.supervisor.pid(part)

    def pids(self) -> dict[str, int]:
        return {name: self.pid(name) for name in self.stack.supervisor.names}

    def signal(self, part: str, number: signal.Signals) -> None:
        self.stack.supervisor.kill(part, number)

    def kill(self, part: str) -> None:
        """kill -9, and see that it is gone."""
        pid = self.pid(part)
        self.signal(part, signal.SIGKILL)
        eventually(lambda: not alive(pid), f"{part} does not die")

    def restart(self, part: str) -> None:
        self._do(self.stack.supervisor.restart(part))

    @contextlib.contextmanager
    def frozen(self, part: str) -> Iterator[None]:
        """The part stands still meanwhile."""
        self.signal(part, signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(part, signal.SIGCONT)

    def repair(self) -> None:
        """Bring every part back: for after a test, whatever it did."""
        for name in self.stack.supervisor.names:
            child = self.stack.supervisor.child(name)
            if child.running:
                child.kill(signal.SIGCONT)
            else:
                self.restart(name)
        self.faults()
        self.wait_alive(*self.engines)

    def wait_alive(self, *engines: str) -> None:
        """Until the API sees these engines alive, in the life that they have now."""

        def seen() -> bool:
            found = {one["id"]: one for one in self.items("/v1/engines")}
            return all(
                found[engine]["status"] == "alive"
                and found[engine]["incarnation"] == self.engine_state(engine)["incarnation"]
                for engine in engines
            )

        eventually(seen, f"{engines} are not seen alive", self.describe)

    # ---- all together

    def snapshot(self) -> Snapshot:
        return Snapshot(
            engines={
                engine: frozenset((one["served_name"], one["state"]) for one in self.engine_adapters(engine))
                for engine in self.engines
            },
            cards=frozenset(self.rows("SELECT engine, incarnation, served_name, state FROM cards")),
            versions=frozenset(self.rows("SELECT adapter, version, digest, state FROM versions")),
            objects=self.objects(),
            cached=_files(self.state / "agents"),
            staged=self.staged(),
        )

    def staged(self) -> frozenset[str]:
        """What the orchestrator keeps of sources on its own disk."""
        return _files(self.state / "staging")

    def engine_adapters(self, engine: str) -> list[Document]:
        found: list[Document] = self.engine_state(engine)["adapters"]
        return found

    def audited(self, operation: str) -> list[tuple[str, str]]:
        """Action and outcome of an operation's audit events, oldest first."""
        events = self.items(f"/v1/audit?operation={operation}")
        return [(one["action"], one["outcome"]) for one in reversed(events)]


class Stream:
    """A streamed completion that a thread reads."""

    def __init__(self, url: str, model: str, tokens: int) -> None:
        self._url = url
        self._body = {
            "model": model,
            "prompt": "go on",
            "max_tokens": tokens,
            "ignore_eos": True,
            "stream": True,
        }
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._stop = False
        self.lines: list[str] = []
        self.error: Exception | None = None

    @property
    def complete(self) -> bool:
        """Whether the answer came to its own end."""
        return "data: [DONE]" in self.lines

    def begin(self) -> None:
        """Start, and wait for the first token."""
        self._thread.start()
        eventually(lambda: bool(self.lines) or self.error is not None, "no token comes")
        assert self.error is None

    def close(self) -> None:
        self._stop = True
        self._thread.join(WAIT_SECONDS)
        assert not self._thread.is_alive()

    def wait(self) -> None:
        """Until the answer has ended in one way or the other."""
        self._thread.join(WAIT_SECONDS)

    def _read(self) -> None:
        try:
            with (
                httpx.Client(timeout=WAIT_SECONDS, trust_env=False) as http,
                http.stream("POST", f"{self._url}/v1/completions", json=self._body) as reply,
            ):
                if reply.status_code != 200:
                    raise AssertionError(f"status {reply.status_code}")
                for line in reply.iter_lines():
                    if line:
                        self.lines.append(line)
                    if self._stop:
                        return
        except Exception as error:
            self.error = error


def source(folder: Path) -> Document:
    return {"uri": folder.as_uri()}


def eventually(
    condition: Callable[[], T | None],
    otherwise: str,
    more: Callable[[], str] = lambda: "",
    *,
    seconds: float = WAIT_SECONDS,
) -> T:
    """Wait until the condition gives something true; the API may be away meanwhile."""
    ends = time.monotonic() + seconds
    while True:
        with contextlib.suppress(httpx.TransportError):
            if found := condition():
                return found
        assert time.monotonic() < ends, f"after {seconds:.0f} s: {otherwise}\n{more()}"
        time.sleep(0.08)


def options(project: Path, **more: Any) -> StackOptions:
    """A stack with simulated engines in a folder of its own."""
    return StackOptions(**{"name": "system", "engine_kind": EngineKind.SIMULATED, "project": project, **more})


def _files(folder: Path) -> frozenset[str]:
    """All files below a folder, those that are only there to be locked left out."""
    return frozenset(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    )
