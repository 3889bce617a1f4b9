"""Reach one particular of the server processes that share an engine's port.

They share it so that each new connection goes to the process with the fewest: which one has taken it, its answers tell.
"""

import json
from collections.abc import AsyncIterator

import httpx

_ATTEMPTS = 100


async def server_processes(url: str, token: str, count: int) -> list[int]:
    """The ids of an engine's server processes, once so many have been met."""
    met: dict[int, httpx.AsyncHTTPTransport] = {}
    spare: list[httpx.AsyncHTTPTransport] = []
    try:
        for _ in range(_ATTEMPTS):
            pid, connection = await _connect(url, token)
            if met.setdefault(pid, connection) is not connection:
                spare.append(connection)
            if len(met) == count:
                return sorted(met)
        raise AssertionError(f"{_ATTEMPTS} connections reached only the processes {sorted(met)}")
    finally:
        for connection in (*met.values(), *spare):
            await connection.aclose()


class OneProcess(httpx.AsyncBaseTransport):
    """A transport whose every request goes to the process `pid`. The server must keep idle connections open."""

    def __init__(self, url: str, token: str, pid: int) -> None:
        self._url, self._token, self._pid = url, token, pid
        self._free: list[httpx.AsyncHTTPTransport] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        connection = self._free.pop() if self._free else await self._new()
        try:
            response = await connection.handle_async_request(request)
        except BaseException:
            await connection.aclose()
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _Lent(response.stream, connection, self._free)
        return response

    async def aclose(self) -> None:
        for connection in self._free:
            await connection.aclose()

    async def _new(self) -> httpx.AsyncHTTPTransport:
        others = []
        try:
            for _ in range(_ATTEMPTS):
                pid, connection = await _connect(self._url, self._token)
                if pid == self._pid:
                    return connection
                others.append(connection)
            raise AssertionError(f"no connection reached the process {self._pid}")
        finally:
            for connection in others:
                await connection.aclose()


class _Lent(httpx.AsyncByteStream):
    """A response's body; when it was read to its end, its connection can be used again."""

    def __init__(
        self,
        stream: httpx.AsyncByteStream,
        connection: httpx.AsyncHTTPTransport,
        free: list[httpx.AsyncHTTPTransport],
    ) -> None:
        self._stream, self._connection, self._free = stream, connection, free
        self._whole = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._stream:
            yield part
        self._whole = True

    async def aclose(self) -> None:
        await self._stream.aclose()
        if self._whole:
            self._free.append(self._connection)
        else:
            await self._connection.aclose()


async def _connect(url: str, token: str) -> tuple[int, httpx.AsyncHTTPTransport]:
    """A new connection, and the process that has taken it."""
    limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=None)
    connection = httpx.AsyncHTTPTransport(limits=limits, verify=False)
    headers = {"authorization": f"Bearer {token}", "host": httpx.URL(url).netloc.decode()}
    request = httpx.Request("GET", f"{url}/loradock/v1/state", headers=headers)
    request.extensions["timeout"] = {"connect": 30, "read": 60, "write": 30, "pool": 30}
    response = await connection.handle_async_request(request)
    content = json.loads(await response.aread())
    await response.aclose()
    return int(content["answered_by"]), connection
