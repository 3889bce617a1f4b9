"""The cheap check of a source's address: form alone, nothing is opened. Who reads a source checks much more."""

import re
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from loradock.core.errors import LoradockError

MAX_URI: Final = 2000
"""Characters."""

SCHEMES: Final = ("file", "s3")

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


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
    if not uri.isprintable():
        raise _invalid("an address has printable characters only")
    scheme, colon, rest = uri.partition(":")
    if not colon or not _SCHEME.fullmatch(scheme):
        raise _invalid("an address begins with its scheme; a folder on disk is file:///folder")
    if scheme.lower() not in SCHEMES:
        raise LoradockError("unsupported_scheme", f"scheme {scheme!r} is not supported")
    if not rest.startswith("//"):
        raise _invalid("two slashes follow the scheme: file:///folder, s3://bucket/prefix")
    place, _, path = rest[2:].partition("/")
    if "@" in place:
        raise _invalid("credentials do not belong into an address")
    if "?" in uri or "#" in uri:
        raise _invalid("an address has no query and no fragment")
    return _file(place, path) if scheme.lower() == "file" else _s3(place, path)


def check_source_uri(uri: str) -> str:
    """Return `uri` when its form is right.

    Raises:
        LoradockError: `unsupported_scheme`, `invalid_source_uri`.
    """
    parse_source_uri(uri)
    return uri


def _file(place: str, encoded: str) -> SourceUri:
    if place:
        raise _invalid("a file address has three slashes: file:///folder")
    if _BAD_ESCAPE.search(encoded):
        raise _invalid("a percent-escape is broken")
    try:
        path = unquote_to_bytes(encoded).decode()
    except UnicodeDecodeError:
        raise _invalid("a path is UTF-8 when it is decoded") from None
    if not path.strip("/"):
        raise _invalid("a file address names a folder")
    if not path.isprintable() or ".." in path.split("/"):
        raise _invalid("a path has no '..' and printable characters only, encoded ones too")
    return SourceUri("file", "", f"/{path}")


def _s3(place: str, prefix: str) -> SourceUri:
    if not _BUCKET.fullmatch(place):
        raise _invalid("an S3 address names a bucket: s3://bucket/prefix")
    path = prefix.strip("/")
    if path and any(part in ("", ".", "..") for part in path.split("/")):
        raise _invalid("an S3 prefix has no empty part, no '.' and no '..'")
    return SourceUri("s3", place, path)


def _invalid(reason: str) -> LoradockError:
    return LoradockError("invalid_source_uri", reason)
