"""The cheap check of a source's address: form alone, nothing is opened. Who reads a source checks much more."""

import re
from typing import Final, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from loradock.core.errors import LoradockError

MAX_URI: Final = 2000
"""Characters."""

SCHEMES: Final = ("file", "s3")

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029\ud800-\udfff\\]")


class SourceUri(NamedTuple):
    """An address of a folder of weights, taken apart.

    Attributes:
        scheme: `file` or `s3`.
        bucket: empty for `file`.
        path: absolute and percent-decoded for `file`; the key's prefix, as it stands, for `s3`.
    """

    scheme: str
    bucket: str
    path: str


def parse_source_uri(uri: str) -> SourceUri:
    """Take `file:///folder` or `s3://bucket/prefix` apart.

    No message repeats what may be a secret: credentials and queries are refused without being named.

    Raises:
        LoradockError: `unsupported_scheme`, `invalid_source_uri`.
    """
    if not uri or len(uri) > MAX_URI:
        raise _invalid(f"an address has 1 to {MAX_URI} characters")
    if _UNPRINTABLE.search(uri):
        raise _invalid("spaces, control characters and backslashes must be percent-encoded")
    if not _SCHEME.match(uri):
        raise _invalid("an address begins with its scheme; a folder on disk is file:///folder")
    try:
        parts = urlsplit(uri)
    except ValueError:
        raise _invalid("it cannot be read as an address") from None
    if parts.scheme not in SCHEMES:
        raise LoradockError("unsupported_scheme", f"scheme {parts.scheme[:40]!r} is not supported")
    if "@" in parts.netloc:
        raise _invalid("credentials do not belong into an address")
    if "?" in uri or "#" in uri:
        raise _invalid("an address has no query and no fragment; percent-encode '?' and '#' in a path")
    return _file(parts) if parts.scheme == "file" else _s3(parts)


def check_source_uri(uri: str) -> str:
    """Return `uri` when its form is right.

    Raises:
        LoradockError: `unsupported_scheme`, `invalid_source_uri`.
    """
    parse_source_uri(uri)
    return uri


def _file(parts: SplitResult) -> SourceUri:
    if parts.netloc not in ("", "localhost"):
        raise _invalid("a file address has three slashes: file:///folder")
    path = unquote(parts.path, errors="surrogateescape")
    if not path.startswith("/") or path.strip("/") == "":
        raise _invalid("a file address names an absolute folder")
    if _has_control(path) or ".." in path.split("/"):
        raise _invalid("a path has no '..' and no control characters, encoded ones neither")
    return SourceUri("file", "", path)


def _s3(parts: SplitResult) -> SourceUri:
    if not _BUCKET.fullmatch(parts.netloc):
        raise _invalid("an S3 address names a bucket: s3://bucket/prefix")
    prefix = parts.path.strip("/")
    if not prefix or any(part in ("", ".", "..") for part in prefix.split("/")):
        raise _invalid("an S3 address names a prefix in the bucket, without empty parts, '.' and '..'")
    return SourceUri("s3", parts.netloc, prefix)


def _has_control(text: str) -> bool:
    return any(
        ord(character) < 0x20 or 0x7F <= ord(character) <= 0x9F or _is_surrogate(character)
        for character in text
    )


def _is_surrogate(character: str) -> bool:
    return 0xD800 <= ord(character) <= 0xDFFF


def _invalid(reason: str) -> LoradockError:
    return LoradockError("invalid_source_uri", reason)
