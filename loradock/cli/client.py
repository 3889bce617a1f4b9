"""The REST API as the commands use it: every failure becomes a `CommandFailure` that people can read."""

import json
import time
import uuid
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote

import httpx

from loradock import __version__
from loradock.cli.connection import Connection
from loradock.cli.failures import CommandFailure, ExitCode, unavailable, usage

Document = dict[str, Any]

PAGE_SIZE: Final = 200
_TIMEOUT: Final = httpx.Timeout(30.0, connect=5.0)
_STREAM_TIMEOUT: Final = httpx.Timeout(30.0, connect=5.0)
"""The API says something at least every 10 s on an event stream."""
_BODY_TIMEOUT: Final = httpx.Timeout(60.0, connect=5.0)
_ATTEMPTS: Final = 3
_MAX_EVENT_CHARACTERS: Final = 64 * 1024 * 1024


class ApiClient:
    """A session with the API. Use it as a context manager.

    Args:
        connection: address and token.
        transport: for tests.
    """

    def __init__(self, connection: Connection, transport: httpx.BaseTransport | None = None) -> None:
        headers = {"User-Agent": f"loradock-cli/{__version__}", "Accept": "application/json"}
        if connection.token:
            headers["Authorization"] = f"Bearer {connection.token}"
        self.url = connection.url
        try:
            self._http = httpx.Client(
                base_url=connection.url, headers=headers, timeout=_TIMEOUT, transport=transport
            )
        except (httpx.InvalidURL, ValueError):
            raise CommandFailure(ExitCode.USAGE, "the API's address cannot be read") from None

    def __enter__(self) -> "ApiClient":
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, **query: object) -> Document:
        """Read one document; query values that are None are left out.

        Raises:
            CommandFailure: refused (4), not reachable or broken (5).
        """
        return self._send("GET", path, query=query)

    def post(
        self,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Document:
        """Ask for a change. A try that broke off is repeated under the same Idempotency-Key, so it happens once.

        Args:
            key: the Idempotency-Key; a fresh one if None.

        Raises:
            CommandFailure: refused (4), not reachable or broken (5).
        """
        return self._send(
            "POST", path, body=body, headers={**(headers or {}), "Idempotency-Key": key or uuid.uuid4().hex}
        )

    def put(self, path: str, body: Mapping[str, object]) -> Document:
        """Set something.

        Raises:
            CommandFailure: refused (4), not reachable or broken (5).
        """
        return self._send("PUT", path, body=body)

    def put_bytes(self, path: str, content: Iterator[bytes], size: int, **query: object) -> Document:
        """Send a file's bytes, once: whoever calls knows where to go on.

        Args:
            size: bytes that will come.

        Raises:
            CommandFailure: refused (4), not reachable or broken (5).
        """
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        params = {name: _query_value(value) for name, value in query.items()}
        try:
            response = self._http.put(
                path, params=params, content=content, headers=headers, timeout=_BODY_TIMEOUT
            )
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        return _document_of(response)

    def delete(self, path: str) -> Document:
        """Take something away; repeating it does no harm.

        Raises:
            CommandFailure: refused (4), not reachable or broken (5).
        """
        return self._send("DELETE", path)

    def items(self, path: str, **query: object) -> Iterator[Document]:
        """All items of a list, page after page.

        Raises:
            CommandFailure: refused (4), not reachable or broken (5).
        """
        cursor: str | None = None
        while True:
            page = self.get(path, limit=PAGE_SIZE, cursor=cursor, **query)
            yield from page.get("items", [])
            cursor = page.get("next")
            if not cursor:
                return

    def events(self, operation: str) -> Iterator[Document | None]:
        """The operation at each of its changes, until it has ended or the stream ends; None is a sign of life.

        Raises:
            CommandFailure: refused (4) or not reachable (5) at the start.
        """
        path = f"{operation_path(operation)}/events"
        try:
            with self._http.stream(
                "GET", path, headers={"Accept": "text/event-stream"}, timeout=_STREAM_TIMEOUT
            ) as response:
                if response.status_code != httpx.codes.OK:
                    response.read()
                    raise _failure_of(response)
                yield from _parse_events(response.iter_lines())
        except httpx.TransportError as error:
            raise self._unreachable(error) from None

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, object] | None = None,
        body: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Document:
        params = {name: _query_value(value) for name, value in (query or {}).items() if value is not None}
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                response = self._http.request(method, path, params=params, json=body, headers=headers)
                return _document_of(response)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                raise self._unreachable(error) from None
            except httpx.TransportError as error:
                if attempt == _ATTEMPTS:
                    raise self._unreachable(error) from None
                time.sleep(0.2 * attempt)
        raise AssertionError("the loop ends by return or raise")

    def _unreachable(self, error: httpx.TransportError) -> CommandFailure:
        why = "took too long to answer" if isinstance(error, httpx.TimeoutException) else "cannot be reached"
        address = self._http.base_url.copy_with(userinfo=b"", path="/", query=None)
        return unavailable(
            f"the API at {str(address).rstrip('/')} {why}",
            "Check the address (--api-url) and that the API runs.",
        )


def upload_path(upload: str) -> str:
    """The path of an upload session.

    Raises:
        CommandFailure: exit code 2, as of `path_part`.
    """
    return f"/v1/uploads/{path_part(upload)}"


def adapter_path(name: str) -> str:
    """The path of an adapter; the slash of `org/name` stays one.

    Raises:
        CommandFailure: exit code 2, as of `path_part`.
    """
    return f"/v1/adapters/{'/'.join(map(path_part, name.split('/')))}"


def operation_path(operation: str) -> str:
    """The path of an operation.

    Raises:
        CommandFailure: exit code 2, as of `path_part`.
    """
    return f"/v1/operations/{path_part(operation)}"


def path_part(name: str) -> str:
    """A name as one part of a path.

    Raises:
        CommandFailure: exit code 2 for `.` and `..`: HTTP clients fold them away, and the call would be another one.
    """
    if name in (".", ".."):
        raise usage(f"{name!r} is no name")
    return quote(name, safe="")


def _query_value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _document_of(response: httpx.Response) -> Document:
    if not response.is_success:
        raise _failure_of(response)
    if response.status_code == httpx.codes.NO_CONTENT:
        return {}
    try:
        content = response.json()
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise unavailable(
            f"the answer to {response.request.url.path} is not Loradock's", "Check the address (--api-url)."
        )
    return content


def _failure_of(response: httpx.Response) -> CommandFailure:
    """The failure that a response other than 2xx is."""
    refused = 400 <= response.status_code < 500
    exit_code = ExitCode.REFUSED if refused else ExitCode.UNAVAILABLE
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict) or not isinstance(problem.get("code"), str):
        return CommandFailure(
            exit_code,
            f"the service answered with HTTP status {response.status_code} and no reason",
            remedy="Check the address (--api-url): something other than Loradock may answer there.",
        )
    return CommandFailure(
        exit_code,
        str(problem.get("detail") or problem.get("title") or problem["code"]),
        code=problem["code"],
        remedy=str(problem["remedy"]) if problem.get("remedy") else None,
        document=problem,
    )


def _parse_events(lines: Iterator[str]) -> Iterator[Document | None]:
    """The JSON data of server-sent events, None for a comment; what is malformed is passed over."""
    data: list[str] = []
    size = 0
    for line in lines:
        if line.startswith("data:"):
            size += len(line)
            if size > _MAX_EVENT_CHARACTERS:
                return
            data.append(line.removeprefix("data:").removeprefix(" "))
        elif line.startswith(":"):
            yield None
        elif not line and data:
            content = _json_object("\n".join(data))
            data, size = [], 0
            if content is not None:
                yield content


def _json_object(text: str) -> Document | None:
    try:
        content = json.loads(text)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None
