"""The cheap check of a source's address: form alone, nothing is opened. Who reads a source checks much more."""

import re
from functools import cache
from importlib.metadata import entry_points
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from loradock.core.errors import LoradockError

MAX_URI: Final = 2000
"""Characters."""

SCHEMES: Final = ("file", "s3", "hf", "https")
"""The schemes that Loradock brings itself."""
SOURCE_ENTRY_POINTS: Final = "loradock.sources"
"""The entry point group whose names are further schemes (docs/sources.md)."""

UPLOAD_SCHEME: Final = "upload"
"""What an upload session brought, for the actor who made the session. Nobody can install a source of this name."""

_UPLOAD = re.compile(r"upload://(?P<session>up-[0-9a-f]{32})(?:/sha256-(?P<stored>[0-9a-f]{64}))?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_CUSTOM_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,30}")
_HUB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9][A-Za-z0-9.-]{0,252})(?::(?P<port>[0-9]{1,5}))?")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class SourceUri(NamedTuple):
    """An address of a folder of weights, taken apart.

    Attributes:
        scheme: `file`, `s3`, `hf`, `https` or that of an installed entry point.
        bucket: for `s3`; the host, with its port if one is given, for `https`; the organisation for `hf`; else what
            stands there.
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
    if not uri.isprintable():
        raise _invalid("an address has printable characters only")
    scheme, colon, rest = uri.partition(":")
    if not colon or not _SCHEME.fullmatch(scheme):
        raise _invalid("an address begins with its scheme; a folder on disk is file:///folder")
    scheme = scheme.lower()
    if scheme not in (*SCHEMES, UPLOAD_SCHEME) and scheme not in installed_schemes():
        raise LoradockError("unsupported_scheme", f"scheme {scheme!r} is not supported")
    if not rest.startswith("//"):
        raise _invalid("two slashes follow the scheme: file:///folder, s3://bucket/prefix")
    place, _, path = rest[2:].partition("/")
    if "@" in place:
        raise _invalid("credentials do not belong into an address")
    if "?" in uri or "#" in uri:
        raise _invalid("an address has no query and no fragment")
    forms = {"file": _file, "s3": _s3, "hf": _hub, "https": _https, UPLOAD_SCHEME: _upload}
    return forms[scheme](place, path) if scheme in forms else _custom(scheme, place, path)


@cache
def installed_schemes() -> frozenset[str]:
    """The schemes that installed packages bring, told by their names alone: nothing of them is imported."""
    names = {point.name for point in entry_points(group=SOURCE_ENTRY_POINTS)}
    return frozenset(name for name in names if is_custom_scheme(name))


def is_custom_scheme(scheme: str) -> bool:
    """Whether a source of one's own may have this scheme: a plain word in lower case, none of `SCHEMES`."""
    return bool(_CUSTOM_SCHEME.fullmatch(scheme)) and scheme not in (*SCHEMES, UPLOAD_SCHEME)


class UploadUri(NamedTuple):
    """An `upload://` address, taken apart.

    Attributes:
        session: the upload session's id.
        stored: digest of a published artifact whose bytes stand for the upload, so that none was sent. Only the API
            writes it, for an adapter that has a version of this digest.
    """

    session: str
    stored: str | None = None

    def __str__(self) -> str:
        return f"upload://{self.session}" + (f"/{self.stored.replace(':', '-')}" if self.stored else "")


def parse_upload_uri(uri: str) -> UploadUri | None:
    """Take an `upload://` address apart; None for any other."""
    match = _UPLOAD.fullmatch(uri)
    if match is None:
        return None
    return UploadUri(match["session"], f"sha256:{match['stored']}" if match["stored"] else None)


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
    path = _decoded(encoded)
    if not path.strip("/"):
        raise _invalid("a file address names a folder")
    if ".." in path.split("/"):
        raise _invalid("a path has no '..'")
    return SourceUri("file", "", f"/{path}")


def _s3(place: str, prefix: str) -> SourceUri:
    if not _BUCKET.fullmatch(place):
        raise _invalid("an S3 address names a bucket: s3://bucket/prefix")
    path = prefix.strip("/")
    if path and any(part in ("", ".", "..") for part in path.split("/")):
        raise _invalid("an S3 prefix has no empty part, no '.' and no '..'")
    return SourceUri("s3", place, path)


def _hub(organisation: str, path: str) -> SourceUri:
    named, *folder = path.strip("/").split("/")
    name, marked, revision = named.partition("@")
    if not _HUB_NAME.fullmatch(organisation) or not _HUB_NAME.fullmatch(name) or (marked and not revision):
        raise _invalid("a hub address names a repository: hf://org/name[@revision][/folder]")
    if any(part in (".", "..") for part in _decoded(revision).split("/")):
        raise _invalid("a revision has no '.' and no '..'; a '/' in it is %2F")
    if any(part in ("", ".", "..") for part in folder):
        raise _invalid("a folder in a repository has no empty part, no '.' and no '..'")
    return SourceUri("hf", organisation, path.strip("/"))


def _https(host: str, path: str) -> SourceUri:
    match = _HOST.fullmatch(host)
    if not match or int(match["port"] or 443) not in range(1, 65536):
        raise _invalid("a web address names a host: https://host/folder/ or https://host/adapter.tar.zst")
    decoded = _decoded(path)
    if not path.isascii() or " " in path:
        raise _invalid("a web address is ASCII without spaces; everything else is percent-encoded")
    if not decoded.strip("/") or any(part in (".", "..") for part in decoded.split("/")):
        raise _invalid("a web address names a path, without '.' and '..'")
    return SourceUri("https", host, f"/{path}")


def _upload(place: str, path: str) -> SourceUri:
    if path or parse_upload_uri(f"upload://{place}") is None:
        raise _invalid("an upload's address is upload:// and the session's id")
    return SourceUri(UPLOAD_SCHEME, place, "")


def _custom(scheme: str, place: str, path: str) -> SourceUri:
    if not f"{place}{path}".strip("/"):
        raise _invalid("the address names nothing")
    if any(part in (".", "..") for part in _decoded(path).split("/")):
        raise _invalid("a path has no '.' and no '..'")
    return SourceUri(scheme, place, path)


def _decoded(encoded: str) -> str:
    if _BAD_ESCAPE.search(encoded):
        raise _invalid("a percent-escape is broken")
    try:
        path = unquote_to_bytes(encoded).decode()
    except UnicodeDecodeError:
        raise _invalid("a path is UTF-8 when it is decoded") from None
    if not path.isprintable():
        raise _invalid("a path has printable characters only, encoded ones too")
    return path


def _invalid(reason: str) -> LoradockError:
    return LoradockError("invalid_source_uri", reason)
