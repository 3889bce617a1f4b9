"""A small real web server over TLS, with a certificate of its own authority, that can misbehave."""

import contextlib
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import trustme


@dataclass
class Reply:
    """What a server says instead of what it has."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass
class WebServer:
    """Files by path, with ranges and ETags.

    Attributes:
        files: path to content.
        special: answers first, when it gives a reply for a request's path and headers.
        cut: ends the connection after so many bytes of a body, once per entry.
        stall: stops in the middle of a body after so many bytes until the server ends, once per entry.
        ranges: whether ranges are known.
        requests: method, path and headers of what was asked.
    """

    origin: str = ""
    port: int = 0
    files: dict[str, bytes] = field(default_factory=dict)
    special: Callable[[str, dict[str, str]], Reply | None] = lambda _path, _headers: None
    cut: list[int] = field(default_factory=list)
    stall: list[int] = field(default_factory=list)
    ranges: bool = True
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Authority:
    """Certificates for the tests: `file` is what clients trust."""

    ca: trustme.CA
    file: Path

    def client(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.file)


def make_authority(folder: Path) -> Authority:
    authority = Authority(trustme.CA(), folder / "ca.pem")
    authority.ca.cert_pem.write_to_path(str(authority.file))
    return authority


@contextlib.contextmanager
def web_server(authority: Authority | None, host: str = "localhost") -> Iterator[WebServer]:
    """Serve on 127.0.0.1; plain http without an authority."""
    server = WebServer()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    httpd.daemon_threads = True
    if authority is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.ca.issue_cert(host).configure_cert(context)
        httpd.socket = context.wrap_socket(httpd.socket, server_side=True, do_handshake_on_connect=False)
    server.port = httpd.server_port
    server.origin = f"{'http' if authority is None else 'https'}://{host}:{server.port}"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def _handler(server: WebServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            server.requests.append((self.command, self.path, dict(self.headers)))
            reply = server.special(self.path, dict(self.headers)) or self._file(path)
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if "Content-Length" not in reply.headers:
                self.send_header("Content-Length", str(len(reply.body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            if self.command == "HEAD":
                return
            with contextlib.suppress(OSError):
                self._send(reply.body)

        do_HEAD = do_GET

        def _send(self, body: bytes) -> None:
            if server.cut and len(body) > server.cut[0]:
                self.wfile.write(body[: server.cut.pop(0)])
            elif server.stall and len(body) > server.stall[0]:
                self.wfile.write(body[: server.stall.pop(0)])
                server.ended.wait(60)
            else:
                self.wfile.write(body)

        def _file(self, path: str) -> Reply:
            if path not in server.files:
                return Reply(404)
            body = server.files[path]
            headers = {"ETag": f'"{hash(body):x}"'}
            if self.headers.get("If-Match", headers["ETag"]) != headers["ETag"]:
                return Reply(412)
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if wanted and server.ranges:
                start = int(wanted[1])
                headers["Content-Range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
                return Reply(206, headers, body[start:])
            return Reply(200, headers, body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
