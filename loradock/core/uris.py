"""The cheap check of a source's address: form alone, nothing is opened. Who reads a source checks much more."""

import re
from functools import cache
from importlib.metadata import entry_points
from typing import Final, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

from loradock.core.errors import LoradockError

MAX_URI: Final = 2000
"""Characters."""

SCHEMES: Final = ("file", "s3", "hf", "https")
"""The schemes that Loradock brings itself."""
SOURCE_ENTRY_POINTS: Final = "loradock.sources"
"""The entry point group whose names are further schemes (docs/sources.md)."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_HOST = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}))(?::(?P<port>[0-9]{1,5}))?"
)
_CUSTOM_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,30}")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNPRINTABLE = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029\ud800-\udfff\\]")


class SourceUri(NamedTuple):
    """An address of a folder of weights, taken apart.

    Attributes:
        scheme: `file`, `s3`, `hf`, `https` or one of an installed entry point.
        bucket: for `s3`; the host, with its port if one is given, for `https`; the organisation for `hf`; else empty.
        path: absolute and percent-decoded for `file`; the key's prefix, as it stands, for `s3`;
            `name[@revision][/folder]` for `hf`; as it stands for the others.
    """

    scheme: str
    bucket: str
    path: str


def parse_source_uri(uri: str) -> SourceUri:
    """Take an address apart: `file:///folder`, `s3://bucket/prefix`, `hf://org/name[@revision][/folder]`,
    `https://host/folder/` or an archive there, or one of a scheme that an installed package brings.

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
    if parts.scheme not in SCHEMES and parts.scheme not in installed_schemes():
        raise LoradockError("unsupported_scheme", f"scheme {parts.scheme[:40]!r} is not supported")
    if "@" in parts.netloc:
        raise _invalid("credentials do not belong into an address")
    if "?" in uri or "#" in uri:
        raise _invalid("an address has no query and no fragment; percent-encode '?' and '#' in a path")
    forms = {"file": _file, "s3": _s3, "hf": _hub, "https": _https}
    return forms.get(parts.scheme, _custom)(parts)


@cache
def installed_schemes() -> frozenset[str]:
    """The schemes that installed packages bring, told by their names alone: nothing of them is imported."""
    names = {point.name for point in entry_points(group=SOURCE_ENTRY_POINTS)}
    return frozenset(name for name in names if is_custom_scheme(name))


def is_custom_scheme(scheme: str) -> bool:
    """Whether a source of one's own may have this scheme: a plain word in lower case, none of `SCHEMES`."""
    return bool(_CUSTOM_SCHEME.fullmatch(scheme)) and scheme not in SCHEMES


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


def _hub(parts: SplitResult) -> SourceUri:
    name, *folder = parts.path.strip("/").split("/")
    name, marked, revision = name.partition("@")
    if not _HUB_NAME.fullmatch(parts.netloc) or not _HUB_NAME.fullmatch(name) or (marked and not revision):
        raise _invalid("a hub address names a repository: hf://org/name[@revision][/folder]")
    if _BAD_ESCAPE.search(revision) or ".." in unquote(revision) or _has_control(unquote(revision)):
        raise _invalid(
            "a revision has no '..', no control characters and no broken escapes; '/' in it is %2F"
        )
    if any(part in ("", ".", "..") for part in folder):
        raise _invalid("a folder in a repository has no empty parts, '.' and '..'")
    return SourceUri("hf", parts.netloc, parts.path.strip("/"))


def _https(parts: SplitResult) -> SourceUri:
    match = _HOST.fullmatch(parts.netloc)
    if not match or int(match["port"] or 443) not in range(1, 65536):
        raise _invalid("a web address names a host: https://host/folder/ or https://host/adapter.tar.zst")
    path = unquote(parts.path, errors="surrogateescape")
    if _BAD_ESCAPE.search(parts.path) or not parts.path.isascii():
        raise _invalid("a web address is ASCII; everything else is percent-encoded")
    if not path.strip("/") or _has_control(path) or any(part in (".", "..") for part in path.split("/")):
        raise _invalid("a web address names a path, without '.', '..' and control characters")
    return SourceUri("https", parts.netloc, parts.path)


def _custom(parts: SplitResult) -> SourceUri:
    if not (parts.netloc + parts.path).strip("/"):
        raise _invalid("the address names nothing")
    if any(part in (".", "..") for part in unquote(parts.path).split("/")):
        raise _invalid("a path has no '.' and no '..'")
    return SourceUri(parts.scheme, parts.netloc, parts.path)


def _has_control(text: str) -> bool:
    return any(
        ord(character) < 0x20 or 0x7F <= ord(character) <= 0x9F or _is_surrogate(character)
        for character in text
    )


def _is_surrogate(character: str) -> bool:
    return 0xD800 <= ord(character) <= 0xDFFF


def _invalid(reason: str) -> LoradockError:
    return LoradockError("invalid_source_uri", reason)
