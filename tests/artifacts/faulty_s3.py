"""A proxy between a client and a real S3 that does to bodies and answers what networks do. Real HTTP on both sides."""

import contextlib
import http.client
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

PIECE = 64 * 1024


@dataclass
class Fault:
    """What happens to the next answers to a GET of an object whose key ends so.

    Attributes:
        suffix: of the key.
        times: how many answers are spoiled; the later ones pass.
        status: is answered instead.
        cut: the connection ends after so many bytes of the body.
        stall: nothing comes any more after so many bytes, but the connection stays.
        flip: this byte of the body is another one.
        short: the body has so many bytes less, and the length says so too.
    """

    suffix: str = ".safetensors"
    times: int = 1
    status: int | None = None
    cut: int | None = None
    stall: int | None = None
    flip: int | None = None
    short: int | None = None


@dataclass
class FaultyS3:
    """Attributes:
    endpoint: for clients.
    faults: the first one that fits spoils an answer.
    gets: path of every GET of an object, with its range if it had one.
    waiting: how many bodies are stalled now.
    """

    endpoint: str
    faults: list[Fault] = field(default_factory=list)
    gets: list[tuple[str, str | None]] = field(default_factory=list)
    most_at_once: int = 0
    _now: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    ended: threading.Event = field(default_factory=threading.Event)

    def fault_for(self, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if path.endswith(fault.suffix) and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None

    def count(self, suffix: str) -> int:
        return sum(path.endswith(suffix) for path, _ in self.gets)

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        with self._lock:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            yield
        finally:
            with self._lock:
                self._now -= 1


@contextlib.contextmanager
def faulty_s3(behind: str) -> Iterator[FaultyS3]:
    """Pass everything on to the S3 at `behind`."""
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    httpd.daemon_threads = True
    proxy = FaultyS3(f"http://127.0.0.1:{httpd.server_port}")
    httpd.RequestHandlerClass = _handler(proxy, urlsplit(behind).netloc)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.ended.set()
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def _handler(proxy: FaultyS3, behind: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            is_object = self.command == "GET" and "list-type" not in self.path and path.count("/") > 1
            if is_object:
                proxy.gets.append((path, self.headers.get("Range")))
            fault = proxy.fault_for(path) if is_object else None
            if fault is not None and fault.status is not None:
                self._answer(fault.status, {}, b"<Error><Code>Injected</Code></Error>")
                return
            with proxy.serving() if is_object else contextlib.nullcontext():
                self._pass_on(fault)

        do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

        def _pass_on(self, fault: Fault | None) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            connection = http.client.HTTPConnection(behind, timeout=30)
            # The Host stays the client's: it is what was signed.
            connection.request(
                self.command,
                self.path,
                body=self.rfile.read(length) if length else None,
                headers=dict(self.headers),
            )
            answer = connection.getresponse()
            body = answer.read()
            connection.close()
            if fault is not None and fault.flip is not None:
                body = bytes(body[: fault.flip] + bytes([body[fault.flip] ^ 1]) + body[fault.flip + 1 :])
            if fault is not None and fault.short is not None:
                body = body[: -fault.short]
            headers = {
                name: value
                for name, value in answer.getheaders()
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server")
            }
            if self.command == "HEAD":
                headers["Content-Length"] = answer.headers.get("Content-Length", "0")
            self._answer(answer.status, headers, body, fault)

        def _answer(
            self, status: int, headers: dict[str, str], body: bytes, fault: Fault | None = None
        ) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            with contextlib.suppress(OSError):
                if self.command != "HEAD":
                    self._send(body, fault)

        def _send(self, body: bytes, fault: Fault | None) -> None:
            if fault is not None and fault.cut is not None:
                self.wfile.write(body[: fault.cut])
            elif fault is not None and fault.stall is not None:
                self.wfile.write(body[: fault.stall])
                proxy.ended.wait(60)
            else:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
