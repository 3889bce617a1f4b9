"""What the S3 source and the S3 store share: the client, the errors, the stream."""

import ipaddress
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError
from botocore.response import StreamingBody
from pydantic import SecretStr
from urllib3.exceptions import HTTPError

from loradock.core.errors import LoradockError

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

DEFAULT_REGION: Final = "us-east-1"
TRUE_WORDS: Final = frozenset({"1", "true", "yes", "on"})
CLIENT_ATTEMPTS: Final = 3
CONNECT_SECONDS: Final = 5
CONNECTIONS: Final = 64
"""That are kept open: a few transfers at once, each of several files in several ranges."""
STALL_SECONDS: Final = 20
"""A body that brings nothing for so long has broken off."""

_CREDENTIALS_MISSING = (NoCredentialsError, PartialCredentialsError)
_DENIED = frozenset(
    {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken"}
)


@dataclass(frozen=True, slots=True)
class S3Keys:
    """Credentials given by name instead of by the normal chain: a key pair, or a profile of AWS's own files."""

    access_key_id: SecretStr | None = None
    secret_access_key: SecretStr | None = None
    session_token: SecretStr | None = None
    profile: str | None = None


def s3_client(
    *,
    endpoint: str | None = None,
    region: str | None = None,
    path_style: bool | None = None,
    allow_http: bool | None = None,
    stall_seconds: float = STALL_SECONDS,
    keys: S3Keys | None = None,
) -> "S3Client":
    """A client with credentials from the normal AWS chain; may be used by many threads.

    Args:
        endpoint: address of an S3-compatible store; without it `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`,
            `AWS_ENDPOINT` or AWS.
        region: without it `AWS_REGION`, `AWS_DEFAULT_REGION` or us-east-1.
        path_style: buckets in the path instead of the host; without it whenever there is an endpoint.
        allow_http: plain http beyond this machine; without it `AWS_ALLOW_HTTP`, which is false when not set.
        stall_seconds: the longest wait for the next bytes of an answer.
        keys: in place of the normal chain.

    Raises:
        LoradockError: `setting_invalid`.
    """
    endpoint = endpoint or _first_set("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    region = region or _first_set("AWS_REGION", "AWS_DEFAULT_REGION") or DEFAULT_REGION
    _check_encrypted(endpoint, allow_http)
    path_style = endpoint is not None if path_style is None else path_style
    config = Config(
        signature_version="s3v4",
        connect_timeout=CONNECT_SECONDS,
        read_timeout=stall_seconds,
        retries={"mode": "standard", "total_max_attempts": CLIENT_ATTEMPTS},
        # What we read has a hash of ours to meet; what we write is checksummed explicitly, by a header that is signed:
        # a hash of every body beside that would be one pass more.
        s3={"addressing_style": "path" if path_style else "auto", "payload_signing_enabled": False},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        tcp_keepalive=True,
        max_pool_connections=CONNECTIONS,
    )
    given = keys or S3Keys()
    try:
        session = boto3.session.Session(
            profile_name=given.profile,
            aws_access_key_id=_plain(given.access_key_id),
            aws_secret_access_key=_plain(given.secret_access_key),
            aws_session_token=_plain(given.session_token),
        )
        client: S3Client = session.client("s3", endpoint_url=endpoint, region_name=region, config=config)
    except (BotoCoreError, ValueError) as error:
        raise LoradockError("setting_invalid", f"no S3 client can be made: {type(error).__name__}") from None
    return client


def _first_set(*names: str) -> str | None:
    return next((value for name in names if (value := os.environ.get(name))), None)


def _plain(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _check_encrypted(endpoint: str | None, allow_http: bool | None) -> None:
    """Refuse to send weights and signatures in the clear over a network, unless somebody said so.

    Raises:
        LoradockError: `setting_invalid`.
    """
    if endpoint is None or not endpoint.lower().startswith("http://"):
        return
    if allow_http is None:
        allow_http = os.environ.get("AWS_ALLOW_HTTP", "").strip().lower() in TRUE_WORDS
    host = urlsplit(endpoint).hostname or ""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost" or host.endswith(".localhost")
    if not allow_http and not local:
        raise LoradockError(
            "setting_invalid",
            "the S3 endpoint is plain http on another machine: use https, or set LORADOCK_S3_ALLOW_HTTP=true "
            "(AWS_ALLOW_HTTP counts too)",
        )


def error_code(error: ClientError) -> str:
    """What the store called its error, e.g. `NoSuchKey`."""
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: ClientError) -> int:
    """The HTTP status of an error, 0 when there is none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


@contextmanager
def s3_errors(what: str, *, denied: str, missing: str, changed: str, unavailable: str) -> Iterator[None]:
    """Turn what boto3 raises into our errors; only codes and statuses are repeated, never a text of the store's.

    Args:
        what: bucket and key, for the message.
        denied: the code for 401 and 403 and for missing credentials.
        missing: for 404.
        changed: for 412.
        unavailable: for all else.
    """
    by_status: Mapping[int, str] = {401: denied, 403: denied, 404: missing, 412: changed}
    try:
        yield
    except ClientError as error:
        name, status = error_code(error), status_of(error)
        code = denied if name in _DENIED else by_status.get(status, unavailable)
        raise LoradockError(code, f"{what}: {name or 'error'} (HTTP {status})") from None
    except _CREDENTIALS_MISSING:
        raise LoradockError(denied, f"{what}: the service has no S3 credentials") from None
    except (BotoCoreError, Boto3Error, HTTPError, HTTPException, OSError) as error:
        raise LoradockError(unavailable, f"{what}: {type(error).__name__}") from None


class BodyReader:
    """An object's body that must have exactly the announced size.

    Args:
        errors: keyword arguments of `s3_errors`.
    """

    def __init__(self, body: StreamingBody, size: int, what: str, errors: Mapping[str, str]) -> None:
        self._body = body
        self._stream: Any = _plain_response(body) or body
        self._left = size
        self._what = what
        self._errors = errors

    def readinto(self, buffer: memoryview, /) -> int:
        """As `Reader.readinto`."""
        with s3_errors(self._what, **self._errors):
            count = int(self._stream.readinto(buffer))
        self._left -= count
        if self._left < 0 or (count == 0 and self._left):
            raise LoradockError(self._errors["unavailable"], f"{self._what}: the body has another length")
        if self._left == 0 and self._stream is not self._body:
            self._body._raw_stream.release_conn()  # type: ignore[attr-defined]
        return count


def _plain_response(body: StreamingBody) -> HTTPResponse | None:
    """The standard library's response below botocore's and urllib3's, which make a new object of every read and copy it.

    None where there is no such thing or the bytes need decoding: then the layers above are read.
    """
    raw = getattr(body, "_raw_stream", None)
    response = getattr(raw, "_fp", None)
    if not isinstance(response, HTTPResponse) or response.chunked or response.headers.get("Content-Encoding"):
        return None
    return response
