"""Quick checks whether a server answers, for readiness loops: no exceptions, at most a second or two."""

import http.client
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit


def http_answers(url: str, *, headers: Mapping[str, str] | None = None, timeout: float = 2.0) -> bool:
    """Whether a GET is answered with 2xx."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=timeout)
    try:
        connection.request("GET", parts.path or "/", headers=dict(headers or {}))
        return 200 <= connection.getresponse().status < 300
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def tcp_accepts(port: int, *, timeout: float = 1.0) -> bool:
    """Whether something listens on 127.0.0.1 at this port."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout):
            return True
    except OSError:
        return False
