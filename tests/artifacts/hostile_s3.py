"""An S3 that lies: what a real one never says, over real HTTP."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.sax.saxutils import escape


@dataclass
class HostileS3:
    """Says whatever a test wants.

    Attributes:
        keys: what a listing gives, with sizes.
        body: what a GET of an object gives.
        announced: the Content-Length of it, the body's own when None.
        status: the answer to everything, when not 200.
        requests: what was asked.
    """

    endpoint: str = ""
    keys: dict[str, int] = field(default_factory=dict)
    body: bytes = b""
    announced: int | None = None
    status: int = 200
    etag: str = '"e"'
    requests: list[str] = field(default_factory=list)

    def listing(self) -> bytes:
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size><ETag>{escape(self.etag)}</ETag></Contents>"
            for key, size in self.keys.items()
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>".encode()


@contextlib.contextmanager
def hostile_s3() -> Iterator[HostileS3]:
    server = HostileS3()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.requests.append(self.path)
            body = server.listing() if "list-type=2" in self.path else server.body
            length = len(body) if server.announced is None or "list-type=2" in self.path else server.announced
            self.send_response(server.status)
            self.send_header("Content-Length", str(length))
            self.send_header("ETag", server.etag)
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.endpoint = f"http://127.0.0.1:{httpd.server_port}"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()
