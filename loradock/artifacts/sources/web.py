"""HTTP for sources: connects only to addresses that were checked, after DNS and after every redirect.

A name is resolved once, all its addresses are checked, and the connection goes to one of exactly those: a second answer
of the DNS cannot lead anywhere else. Proxies of the environment are not used: they would connect for us, unchecked.
"""

import http.client
import ipaddress
import socket
import ssl
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from pydantic import SecretStr

from loradock.core.errors import LoradockError

MAX_REDIRECTS: Final = 5
MAX_ADDRESSES: Final = 16
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_SAFE_PATH: Final = "/%:@!$&'()*+,;=~-._"
_PORTS: Final = {"https": 443, "http": 80}
_CODES: Final = {401: "source_denied", 403: "source_denied", 404: "source_not_found", 410: "source_not_found"}
_CHANGED: Final = frozenset({412, 416})
_HEALS: Final = frozenset({408, 425, 429})
# IPv6 ranges that carry an IPv4 address in them: what is inside would be reached unchecked.
_EMBEDDING: Final = (
    ipaddress.ip_network("64:ff9b::/96"),
    ipaddress.ip_network("64:ff9b:1::/48"),
    ipaddress.ip_network("2002::/16"),
    ipaddress.ip_network("2001::/32"),
    ipaddress.ip_network("::/96"),
)


class Origin(NamedTuple):
    """Who a request is sent to."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if _PORTS[self.scheme] == self.port else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class WebRules:
    """Who may be reached.

    Attributes:
        allows: whether a URL may be asked for, at first and after a redirect.
        private_hosts: hosts (`host` or `host:port`) that may have private and loopback addresses.
        plain_origins: origins that may be spoken to without TLS.
    """

    allows: Callable[[SplitResult], bool]
    private_hosts: Collection[str] = ()
    plain_origins: Collection[Origin] = ()


class WebClient:
    """GETs with checked addresses. May be used by many threads; holds no connection.

    Args:
        stall_seconds: the longest wait for one answer or one piece of a body.
        connect_seconds: the longest wait for a connection.
        tls: certificates are verified by it.
    """

    def __init__(
        self,
        rules: WebRules,
        *,
        stall_seconds: float = 20.0,
        connect_seconds: float = 5.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._rules = rules
        self._stall, self._connect = stall_seconds, connect_seconds
        self._tls = tls or ssl.create_default_context()

    @contextmanager
    def get(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        token: SecretStr | None = None,
        method: str = "GET",
    ) -> Iterator["WebBody"]:
        """Ask, following redirects.

        Args:
            token: sent as a bearer token, to the first origin only.

        Raises:
            LoradockError: `source_not_allowed`, `source_denied`, `source_not_found`, `source_changed` (a condition
                among the headers does not hold any more), `source_unavailable`.
        """
        parts = urlsplit(url)
        first = origin_of(parts)
        for _ in range(MAX_REDIRECTS + 1):
            sent = {"User-Agent": "loradock", "Accept-Encoding": "identity", **(headers or {})}
            if token is not None and origin_of(parts) == first:
                sent["Authorization"] = f"Bearer {token.get_secret_value()}"
            connection, response = self._ask(parts, method, sent)
            try:
                location = response.headers.get("Location")
                if response.status not in _REDIRECTS or not location:
                    yield WebBody(response, _answered(parts, response))
                    return
            finally:
                _hang_up(connection, response)
            parts = _redirected(parts, location)
        raise LoradockError("source_not_allowed", f"{first}: more than {MAX_REDIRECTS} redirects")

    def _ask(
        self, parts: SplitResult, method: str, headers: Mapping[str, str]
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        origin = self._allowed(parts)
        target = quote(parts.path or "/", safe=_SAFE_PATH) + (f"?{parts.query}" if parts.query else "")
        connection = http.client.HTTPConnection(origin.host, origin.port, blocksize=65536)
        try:
            with _web_errors(origin):
                connection.sock = self._open(origin)
                connection.request(method, target, headers={"Host": str(origin), **headers})
                return connection, connection.getresponse()
        except BaseException:
            connection.close()
            raise

    def _allowed(self, parts: SplitResult) -> Origin:
        origin = origin_of(parts)
        if parts.scheme != "https" and origin not in self._rules.plain_origins:
            raise LoradockError("source_not_allowed", f"{origin} would be asked without TLS")
        if not self._rules.allows(parts):
            raise LoradockError(
                "source_not_allowed", f"host {origin} (or the path there) is not allowed as a source"
            )
        return origin

    def _open(self, origin: Origin) -> socket.socket:
        """A connection to an address that was checked, and to no other."""
        failure: OSError | None = None
        for family, address in self._addresses(origin):
            opened = socket.socket(family, socket.SOCK_STREAM)
            try:
                opened.settimeout(self._connect)
                opened.connect(address)
                if origin.scheme == "https":
                    opened = self._tls.wrap_socket(opened, server_hostname=origin.host)
                opened.settimeout(self._stall)
            except OSError as error:
                opened.close()
                failure = error
                if isinstance(error, ssl.SSLCertVerificationError):
                    break
            else:
                return opened
        raise failure or OSError("no address")

    def _addresses(self, origin: Origin) -> list[tuple[socket.AddressFamily, Any]]:
        found = socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        private = {origin.host, f"{origin.host}:{origin.port}"} & set(self._rules.private_hosts)
        if not private:
            for *_, address in found:
                check_public(origin.host, str(address[0]))
        return [(socket.AddressFamily(family), address) for family, *_, address in found[:MAX_ADDRESSES]]


class WebBody:
    """An answer with its body.

    Attributes:
        status: 200, or 206 for a part.
        headers: names in any case.
        size: the body's announced bytes, None when the server does not tell.
    """

    def __init__(self, response: http.client.HTTPResponse, what: str) -> None:
        self._response = response
        self._what = what
        self.status = response.status
        self.headers = response.headers
        self.size = response.length

    def readinto(self, buffer: memoryview, /) -> int:
        """As `Reader.readinto`; gives what is there instead of waiting for a full buffer."""
        with _web_errors(self._what):
            data = self._response.read1(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def skip(self, size: int) -> None:
        """Read so many bytes for nothing: a server that does not know ranges sends all again."""
        buffer = memoryview(bytearray(min(size, 1024 * 1024)))
        while size and (count := self.readinto(buffer[: min(size, len(buffer))])):
            size -= count

    def read_all(self, limit: int) -> bytes:
        """The whole body.

        Raises:
            LoradockError: `source_too_large`; `source_unavailable` when it is shorter than announced.
        """
        data, buffer = bytearray(), memoryview(bytearray(64 * 1024))
        while count := self.readinto(buffer):
            data += buffer[:count]
            if len(data) > limit:
                raise LoradockError("source_too_large", f"{self._what}: more than {limit} bytes")
        if self.size is not None and len(data) != self.size:
            raise LoradockError("source_unavailable", f"{self._what}: the body broke off")
        return bytes(data)


def check_public(host: str, address: str) -> None:
    """Refuse what is not an address of the public internet.

    Raises:
        LoradockError: `source_not_allowed`.
    """
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip
    embedded = any(ip in network for network in _EMBEDDING if network.version == ip.version)
    special = (
        ip.is_private
        or ip.is_loopback
        or ip.is_link_local
        or ip.is_multicast
        or ip.is_reserved
        or ip.is_unspecified
        or not ip.is_global
    )
    if special or embedded:
        raise LoradockError(
            "source_not_allowed",
            f"{host} has the address {ip}, which is not a public one (allow the host with "
            "LORADOCK_SOURCE_PRIVATE_HOSTS if it is meant)",
        )


def origin_of(parts: SplitResult) -> Origin:
    """Scheme, host and port of a URL.

    Raises:
        LoradockError: `source_not_allowed`.
    """
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if parts.scheme not in _PORTS or not host or parts.username is not None or parts.password is not None:
        raise LoradockError(
            "source_not_allowed", "an address that is neither http nor https, or carries credentials"
        )
    return Origin(parts.scheme, host.rstrip("."), port or _PORTS[parts.scheme])


def _redirected(parts: SplitResult, location: str) -> SplitResult:
    try:
        return urlsplit(urljoin(parts.geturl(), location))
    except ValueError:
        raise LoradockError("source_unavailable", f"{origin_of(parts)}: a redirect to nowhere") from None


def _answered(parts: SplitResult, response: http.client.HTTPResponse) -> str:
    """What was read, for messages (no query: it may be a signature).

    Raises:
        LoradockError: the answer is not one to read.
    """
    what = f"{origin_of(parts)}{parts.path}"
    status = response.status
    if status in (200, 206):
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise LoradockError(
                "source_unavailable", f"{what}: the body is compressed though that was not asked for"
            )
        return what
    if status in _CHANGED:
        raise LoradockError("source_changed", f"{what}: it is not what was listed (HTTP {status})")
    code = "source_unavailable" if status in _HEALS or status >= 500 else _CODES.get(status, "source_denied")
    raise LoradockError(code, f"{what}: HTTP {status}")


@contextmanager
def _web_errors(what: object) -> Iterator[None]:
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise LoradockError(
            "source_denied", f"{what}: its certificate is not valid: {error.verify_message}"
        ) from None
    except socket.gaierror as error:
        code = "source_unavailable" if error.errno == socket.EAI_AGAIN else "source_not_found"
        raise LoradockError(code, f"{what}: the name cannot be resolved") from None
    except (OSError, http.client.HTTPException, UnicodeError, ValueError) as error:
        raise LoradockError("source_unavailable", f"{what}: {type(error).__name__}") from None


def _hang_up(connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
    with suppress(OSError):
        response.close()
    connection.close()
