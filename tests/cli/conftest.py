"""A small real HTTP server that stands for the API, and the command run in this process."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from loradock.cli.main import run as run_command

TOKEN = "a-token-for-tests"


@dataclass
class Seen:
    """A request as the server saw it."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclass
class Reply:
    """What the server answers. `chunks` are sent one by one, as they are."""

    document: Any = None
    status: int = 200
    chunks: tuple[str, ...] = ()
    content_type: str = "application/json"
    raw: bytes | None = None
    hold: threading.Event | None = None
    """Kept open until this is set."""


Route = Reply | list[Reply] | Callable[[Seen], Reply]


@dataclass
class FakeApi:
    """Answers by method and path: a reply, replies one after the other (the last stays), or a function."""

    url: str
    routes: dict[tuple[str, str], Route] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    arrived: threading.Event = field(default_factory=threading.Event)

    def on(self, method: str, path: str, route: Route) -> None:
        self.routes[method, path] = route

    def answer(self, seen: Seen) -> Reply:
        self.seen.append(seen)
        if seen.path.endswith("/events"):
            self.arrived.set()
        route = self.routes.get((seen.method, seen.path))
        if route is None:
            return Reply(problem("not_found", 404, f"nothing is at {seen.path!r}"), 404)
        if isinstance(route, list):
            return route.pop(0) if len(route) > 1 else route[0]
        return route(seen) if callable(route) else route

    def paths(self) -> list[str]:
        return [f"{seen.method} {seen.path}" for seen in self.seen]


@dataclass
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def problem(code: str, status: int, detail: str, **further: Any) -> dict[str, Any]:
    return {
        "type": f"urn:loradock:error:{code}",
        "title": "What the code means.",
        "status": status,
        "detail": detail,
        "code": code,
        "remedy": "What to do about it.",
        "instance": "/v1/x",
        "request_id": "req-1",
        **further,
    }


def operation(state: str = "running", **further: Any) -> dict[str, Any]:
    return {
        "id": "op-1",
        "kind": "load",
        "adapter": "greeter",
        "version": 1,
        "pool": "default",
        "state": state,
        "steps": [],
        "result": None,
        "error": None,
        "repairs_pending": False,
        "created_at": "2026-01-01T00:00:00Z",
        "ended_at": None,
        "requested_by": "operator",
        "temporal_url": "http://temporal.test/op-1",
        **further,
    }


def step(name: str, state: str, engine: str = "engine-1", **further: Any) -> dict[str, Any]:
    return {
        "name": name,
        "engine": engine,
        "state": state,
        "attempt": 1,
        "detail": {},
        "error": None,
        **further,
    }


def event(document: dict[str, Any], name: str = "operation") -> str:
    return f"id: 1\nevent: {name}\ndata: {json.dumps(document)}\n\n"


def stream(*chunks: str, hold: threading.Event | None = None) -> Reply:
    return Reply(chunks=chunks, content_type="text/event-stream", hold=hold)


def _handler(api: FakeApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("content-length") or 0)
            raw = self.rfile.read(length) if length else b""
            is_json = self.headers.get("content-type") == "application/json"
            body = json.loads(raw) if raw and is_json else raw or None
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            headers = {name.lower(): value for name, value in self.headers.items()}
            self._send(api.answer(Seen(self.command, unquote(parts.path), query, headers, body)))

        def _send(self, reply: Reply) -> None:
            body = reply.raw if reply.raw is not None else json.dumps(reply.document).encode()
            self.send_response(reply.status)
            self.send_header("content-type", reply.content_type)
            if not reply.chunks:
                self.send_header("content-length", str(len(body)))
            self.end_headers()
            for chunk in reply.chunks:
                self.wfile.write(chunk.encode())
                self.wfile.flush()
            if reply.hold is not None:
                reply.hold.wait(30)
            if not reply.chunks:
                self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = _serve

        def log_message(self, *args: object) -> None:
            return

    return Handler


@pytest.fixture
def api() -> Iterator[FakeApi]:
    """An API on 127.0.0.1 that answers what the test tells it to."""
    served = FakeApi("")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(served))
    served.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield served
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and no setting of ours in the environment."""
    for name in ("LORADOCK_API_URL", "LORADOCK_API_TOKEN", "LORADOCK_LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cli(
    api: FakeApi, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ran]:
    """Runs `loradock …` against the API."""
    monkeypatch.setenv("LORADOCK_API_URL", api.url)
    monkeypatch.setenv("LORADOCK_API_TOKEN", TOKEN)

    def run(*arguments: str) -> Ran:
        code = run_command(arguments)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        assert TOKEN not in captured.out + captured.err
        return Ran(int(code), captured.out, captured.err)

    return run
