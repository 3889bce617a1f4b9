"""The driver's view of engines that do not answer, or answer something else. The rest is in the contract."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from loradock.core.errors import CATALOG, LoradockError
from loradock.engines import DrainCommand, VllmEngine
from loradock.engines.http import Patience
from loradock_vllm.errors import CODES
from tests.engines.contract import refused

TOKEN = "0123456789abcdef-secret"
DRAIN = DrainCommand(served_name="a@1", incarnation="i", operation="o", run_id="r", epoch=1)


@contextlib.asynccontextmanager
async def answering(answer: Callable[[httpx.Request], httpx.Response]) -> AsyncIterator[VllmEngine]:
    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        yield VllmEngine("http://engine", SecretStr(TOKEN), api_key=SecretStr("key"), client=client)


def error(status: int, code: str, /, **details: Any) -> httpx.Response:
    body = {"error": {"code": code, "message": "said", "fault": "caller", "details": details}}
    return httpx.Response(status, json=body)


async def test_an_engine_that_is_not_there_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    engine = VllmEngine(f"http://127.0.0.1:{port}", SecretStr(TOKEN))
    try:
        with refused("engine_unreachable") as caught:
            await engine.state()
        assert caught.value.retryable
        assert caught.value.details == {"refused": True}  # nobody listens there: its process is gone
    finally:
        await engine.aclose()


async def test_an_engine_that_hangs_is_unreachable() -> None:
    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    engine = VllmEngine(url, SecretStr(TOKEN), patience=Patience(call_seconds=0.05))
    try:
        with refused("engine_unreachable") as caught:
            await engine.state()
        assert caught.value.details == {}  # it may live and hold what it held
    finally:
        await engine.aclose()
        server.close()


async def test_an_engine_that_dies_in_the_middle_is_unreachable() -> None:
    async def dying(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(dying, "127.0.0.1", 0)
    engine = VllmEngine(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", SecretStr(TOKEN))
    try:
        with refused("engine_unreachable") as caught:
            await engine.state()
        assert caught.value.details == {}  # it may live and hold what it held
    finally:
        await engine.aclose()
        server.close()


@pytest.mark.parametrize("code", sorted(set(CODES) - {"unauthorized", "not_found"}))
async def test_every_code_of_the_extension_is_one_of_ours(code: str) -> None:
    assert code in CATALOG
    async with answering(lambda _: error(CODES[code].status, code, in_flight=3)) as engine:
        with refused(code) as caught:
            await engine.drain(DRAIN)
    assert caught.value.details == {"in_flight": 3}


async def test_a_code_of_a_newer_extension_is_an_engine_error_that_names_it() -> None:
    async with answering(lambda _: error(418, "teapot", code="x", message="y", size=2)) as engine:
        with refused("engine_error") as caught:
            await engine.drain(DRAIN)
    assert caught.value.details == {"extension_code": "teapot", "size": 2}


def gzipped(content: bytes) -> httpx.Response:
    return httpx.Response(200, headers={"content-encoding": "gzip"}, stream=httpx.ByteStream(content))


@pytest.mark.parametrize(
    ("response", "code"),
    [
        (httpx.Response(404, json={"detail": "Not Found"}), "engine_not_supported"),
        (httpx.Response(405, text="no"), "engine_not_supported"),
        (httpx.Response(500, text="boom"), "engine_error"),
        (httpx.Response(302, headers={"location": "http://elsewhere/"}), "engine_error"),
        (httpx.Response(200, text="<html>"), "engine_error"),
        (httpx.Response(200, json={"incarnation": "only"}), "engine_error"),
        (httpx.Response(503, json={"error": "text"}), "engine_error"),
        (httpx.Response(200, content=b"[" * 200_000), "engine_error"),
        (gzipped(b"not gzip"), "engine_error"),
    ],
)
async def test_a_server_without_the_extension_is_told(response: httpx.Response, code: str) -> None:
    async with answering(lambda _: response) as engine:
        with refused(code):
            await engine.state()


async def test_the_token_goes_to_the_extension_and_the_key_to_prompts() -> None:
    shown: list[tuple[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        shown.append((request.url.path, request.headers["authorization"]))
        return error(401, "unauthorized")

    async with answering(answer) as engine:
        for call in (engine.drain(DRAIN), engine.probe("a@1", "x")):
            with refused("engine_unauthorized") as caught:
                await call
            assert TOKEN not in str(caught.value)
    assert shown == [("/loradock/v1/drain", f"Bearer {TOKEN}"), ("/v1/completions", "Bearer key")]


@pytest.mark.parametrize(
    "answer",
    [
        {"model": "base", "choices": [{"text": "x"}]},
        {"model": "a@1", "choices": []},
        {"model": "a@1", "choices": [{"text": None}]},
        {"model": "a@1"},
        ["a@1"],
    ],
)
async def test_a_probe_that_another_model_answered_is_no_proof(answer: Any) -> None:
    async with answering(lambda _: httpx.Response(200, json=answer)) as engine:
        with refused("engine_not_verified"):
            await engine.probe("a@1", "x")


def test_the_token_is_in_no_representation() -> None:
    assert TOKEN not in repr(vars(VllmEngine("http://engine", SecretStr(TOKEN), client=httpx.AsyncClient())))


def test_an_unknown_field_of_a_command_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="wait"):
        DrainCommand(**{**DRAIN.model_dump(), "wait": 3})
    with pytest.raises(ValueError, match="wait_seconds"):
        DrainCommand(**{**DRAIN.model_dump(), "wait_seconds": 31})


async def test_an_error_is_a_loradock_error_whatever_the_transport_says() -> None:
    def broken(_: httpx.Request) -> httpx.Response:
        raise httpx.RemoteProtocolError("nonsense")

    async with answering(broken) as engine:
        with pytest.raises(LoradockError):
            await engine.state()
