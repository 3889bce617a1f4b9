"""The middleware as a server sees it: messages in, messages out."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from loradock.engines.simulated import Faults, SimulatedEngine
from loradock_vllm.asgi import Message, Receive, Scope, Send, send_json
from loradock_vllm.middleware import LoradockMiddleware
from loradock_vllm.settings import ExtensionSettings
from tests.engines.adapters import write_adapter

TOKEN = "0123456789abcdef"
DIGEST = "sha256:" + "d" * 64
JSON = (b"content-type", b"application/json")


class Server:
    """The application behind: notes what reaches it, and which adapters the request could use."""

    def __init__(self, engine: SimulatedEngine) -> None:
        self.engine = engine
        self.bodies: list[list[bytes]] = []
        self.seen: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        self.seen.append(["a@1"] if "a@1" in self.engine.names else [])
        if scope["type"] == "websocket":
            return
        parts, more = [], True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        self.bodies.append(parts)
        await self.gate.wait()
        await send_json(send, 200, {"ok": True})


class Call:
    """One request, with the answer that came."""

    def __init__(
        self,
        path: str,
        *parts: bytes,
        headers: tuple[tuple[bytes, bytes], ...] = (JSON,),
        method: str = "POST",
    ) -> None:
        self.scope: Scope = {
            "type": "http",
            "method": method,
            "path": path,
            "headers": list(headers),
            "asgi": {"spec_version": "2.3"},
        }
        self.incoming: asyncio.Queue[Message] = asyncio.Queue()
        chunks = parts or (b"",)
        for number, part in enumerate(chunks, 1):
            self.incoming.put_nowait(
                {"type": "http.request", "body": part, "more_body": number < len(chunks)}
            )
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
        else:
            self.body += message.get("body", b"")

    async def to(self, app: LoradockMiddleware) -> "Call":
        await app(self.scope, self.incoming.get, self.send)
        return self

    @property
    def content(self) -> Any:
        return json.loads(self.body)


@pytest.fixture
def engine() -> SimulatedEngine:
    return SimulatedEngine(max_loras=2)


@pytest.fixture
def server(engine: SimulatedEngine) -> Server:
    return Server(engine)


@pytest.fixture
def app(server: Server, engine: SimulatedEngine) -> LoradockMiddleware:
    settings = ExtensionSettings(token=TOKEN, max_body_bytes=2000)
    return LoradockMiddleware(server, settings, bind=lambda _: engine)


async def own(app: LoradockMiddleware, verb: str, **fields: Any) -> Call:
    headers = ((b"authorization", f"Bearer {TOKEN}".encode()),)
    if verb == "state":
        return await Call("/loradock/v1/state", headers=headers, method="GET").to(app)
    state = (await own(app, "state")).content
    common = {
        "served_name": "a@1",
        "incarnation": state["incarnation"],
        "operation": "o",
        "run_id": "r",
        "epoch": 1,
    }
    body = json.dumps({**common, **fields}).encode()
    return await Call(f"/loradock/v1/{verb}", body, headers=headers).to(app)


@pytest.fixture
async def loaded(app: LoradockMiddleware, tmp_path: Path) -> AsyncIterator[LoradockMiddleware]:
    """The middleware with `a@1` loaded."""
    folder = write_adapter(tmp_path / DIGEST.replace(":", "-"))
    assert (await own(app, "load", int_id=1, digest=DIGEST, path=str(folder))).status == 200
    yield app


def ask(model: str | None = "a@1", **more: Any) -> bytes:
    return json.dumps({"model": model, "prompt": "x", **more}).encode()


# Start


async def test_without_a_token_the_server_does_not_start(
    server: Server, engine: SimulatedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LORADOCK_EXTENSION_TOKEN", raising=False)
    monkeypatch.delenv("LORADOCK_EXTENSION_TOKEN_FILE", raising=False)
    app = LoradockMiddleware(server, bind=lambda _: engine)
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "lifespan"}, receive, send)
    assert sent[0]["type"] == "lifespan.startup.failed"
    # A server that goes on all the same serves nothing.
    assert (await Call("/v1/completions", ask(None)).to(app)).status == 503
    assert (await Call("/health", method="GET").to(app)).status == 503
    assert server.seen == []


# What reaches the server


@pytest.mark.parametrize("model", ["a@1", "base", None])
async def test_a_body_reaches_the_server_as_it_came(
    loaded: LoradockMiddleware, server: Server, model: str | None
) -> None:
    body = b' {"model" : ' + json.dumps(model).encode() + b' , "prompt":"\\u00e4 \xc3\xa4" }\n'
    parts = (body[:7], b"", body[7:20], body[20:])
    assert (await Call("/v1/completions", *parts).to(loaded)).status == 200
    assert server.bodies == [list(parts)]


async def test_only_the_counted_adapter_can_be_used(loaded: LoradockMiddleware, server: Server) -> None:
    for body in (ask("a@1"), ask("base"), ask("unknown@1"), b"not json"):
        await Call("/v1/completions", body).to(loaded)
    assert server.seen == [["a@1"], [], [], []]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (((b"content-type", b"multipart/form-data; boundary=b"),), b'--b\r\n"model"\r\n\r\na@1\r\n--b--'),
        (((b"content-type", b"application/x-www-form-urlencoded"),), b"model=a%401"),
        ((JSON, (b"x-amzn-sagemaker-adapter-identifier", b"a@1")), ask("base")),
        ((JSON,), json.dumps({"model": "base", "messages": [{"content": [{"type": "a@1"}]}]}).encode()),
    ],
)
async def test_a_request_that_names_an_adapter_elsewhere_cannot_use_it(
    loaded: LoradockMiddleware, server: Server, headers: tuple[tuple[bytes, bytes], ...], body: bytes
) -> None:
    assert (await Call("/invocations", body, headers=headers).to(loaded)).status == 200
    assert server.seen == [[]]


async def test_a_websocket_cannot_use_an_adapter(loaded: LoradockMiddleware, server: Server) -> None:
    scope: Scope = {"type": "websocket", "path": "/v1/realtime", "headers": []}
    await loaded(scope, asyncio.Queue[Message]().get, Call("").send)
    assert server.seen == [[]]


async def test_what_is_ours_reaches_no_server(loaded: LoradockMiddleware, server: Server) -> None:
    for call in (Call("/loradock/v1/x"), Call("/loradock"), Call("/v1/load_lora_adapter"), Call("/adapters")):
        await call.to(loaded)
        assert call.status in {401, 403}
    prefixed = Call("/root/loradock/v1/state", method="GET")
    prefixed.scope["root_path"] = "/root"
    assert (await prefixed.to(loaded)).status == 401
    assert server.seen == []


async def test_a_websocket_of_ours_is_closed(loaded: LoradockMiddleware) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await loaded(
        {"type": "websocket", "path": "/loradock/v1/state", "headers": []}, asyncio.Queue().get, send
    )
    assert sent == [{"type": "websocket.close", "code": 1008}]


# What is refused


async def test_a_model_named_twice_is_refused(loaded: LoradockMiddleware, server: Server) -> None:
    call = await Call("/v1/completions", b'{"model":"base","model":"a@1"}').to(loaded)
    assert call.status == 400
    assert server.seen == []


async def test_background_work_of_an_adapter_is_refused(loaded: LoradockMiddleware, server: Server) -> None:
    assert (await Call("/v1/responses", ask(background=True)).to(loaded)).status == 400
    assert (await Call("/v1/responses", ask("base", background=True)).to(loaded)).status == 200


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_over_the_limit_is_refused_while_adapters_are_loaded(
    loaded: LoradockMiddleware, server: Server, announced: bool
) -> None:
    body = ask("base", prompt="x" * 3000)
    length = ((b"content-length", str(len(body)).encode()),) if announced else ()
    call = await Call("/v1/completions", body[:1000], body[1000:], headers=(JSON, *length)).to(loaded)
    assert call.status == 413
    assert server.seen == []


async def test_a_body_over_the_limit_is_passed_on_when_no_adapter_is_loaded(
    app: LoradockMiddleware, server: Server
) -> None:
    body = ask("base", prompt="x" * 5000)
    parts = [body[:1000], body[1000:4000], body[4000:]]
    assert (await Call("/v1/completions", *parts).to(app)).status == 200
    assert server.bodies == [parts]


@pytest.mark.parametrize("content_type", [b"application/json", b"multipart/form-data; boundary=b"])
async def test_an_expectation_that_cannot_be_kept_is_not_admitted(
    loaded: LoradockMiddleware, server: Server, content_type: bytes
) -> None:
    headers = ((b"content-type", content_type), (b"x-loradock-expect-digest", DIGEST.encode()))
    call = await Call("/v1/completions", ask("base"), headers=headers).to(loaded)
    assert (call.status, call.headers[b"x-loradock-not-admitted"]) == (503, b"unknown")
    assert server.seen == []


async def test_a_client_that_leaves_before_its_body_is_whole_begins_nothing(
    loaded: LoradockMiddleware, server: Server
) -> None:
    call = Call("/v1/completions", b'{"model"', b"")
    call.incoming.get_nowait()
    call.incoming.get_nowait()
    call.incoming.put_nowait({"type": "http.request", "body": b'{"model"', "more_body": True})
    call.incoming.put_nowait({"type": "http.disconnect"})
    await call.to(loaded)
    assert (call.status, server.seen) == (0, [])


# Counting


async def test_a_request_counts_until_the_server_is_done_with_it(
    loaded: LoradockMiddleware, server: Server
) -> None:
    server.gate.clear()
    calls = [
        asyncio.create_task(Call("/v1/embeddings", ask(model)).to(loaded)) for model in ("a@1", "a@1", "base")
    ]
    while len(server.bodies) < 3:
        await asyncio.sleep(0)
    state = (await own(loaded, "state")).content
    assert (state["adapters"][0]["in_flight"], state["in_flight_base"]) == (2, 1)
    server.gate.set()
    await asyncio.gather(*calls)
    state = (await own(loaded, "state")).content
    assert (state["adapters"][0]["in_flight"], state["in_flight_base"]) == (0, 0)


async def test_a_request_that_fails_in_the_server_is_not_counted_for_ever(
    engine: SimulatedEngine, tmp_path: Path
) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("boom")

    app = LoradockMiddleware(broken, ExtensionSettings(token=TOKEN), bind=lambda _: engine)
    folder = write_adapter(tmp_path / DIGEST.replace(":", "-"))
    await own(app, "load", int_id=1, digest=DIGEST, path=str(folder))
    for model in ("a@1", "base"):
        with pytest.raises(RuntimeError):
            await Call("/v1/completions", ask(model)).to(app)
    state = (await own(app, "state")).content
    assert (state["adapters"][0]["in_flight"], state["in_flight_base"]) == (0, 0)


async def test_a_server_that_does_not_listen_is_cancelled_by_an_abort(
    loaded: LoradockMiddleware, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loradock_vllm.in_flight.GRACE_SECONDS", 0.02)
    server.gate.clear()
    request = asyncio.create_task(Call("/v1/embeddings", ask()).to(loaded))
    while not server.bodies:
        await asyncio.sleep(0)
    unload = await own(loaded, "unload", on_timeout="abort")
    assert unload.content["outcome"] == "unloaded"
    assert (await request).status == 503


# Own calls


async def test_an_error_has_its_status_and_its_side(loaded: LoradockMiddleware) -> None:
    call = await own(loaded, "load", served_name="b@1", int_id=1, digest=DIGEST, path=f"/x/{DIGEST[7:]}")
    assert call.status == 409
    error = call.content["error"]
    assert (error["code"], error["fault"], error["details"]["served_name"]) == (
        "int_id_conflict",
        "busy",
        "a@1",
    )


async def test_a_command_that_is_too_large_is_refused(app: LoradockMiddleware) -> None:
    assert (await own(app, "drain", padding="x" * 70_000)).content["error"]["code"] == "invalid_request"


async def test_an_unknown_call_is_told(app: LoradockMiddleware) -> None:
    call = await own(app, "dance")
    assert (call.status, call.content["error"]["code"]) == (404, "not_found")


async def test_an_engine_s_failure_is_the_engine_s_fault(
    loaded: LoradockMiddleware, engine: SimulatedEngine
) -> None:
    engine.faults = Faults(dead=True)
    call = await own(loaded, "state")
    assert (call.status, call.content["error"]["fault"]) == (500, "engine")
