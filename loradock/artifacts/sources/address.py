"""Taking a source's address apart. Messages never repeat an address that may carry a secret."""

import re
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from loradock.core.errors import LoradockError

MAX_ADDRESS: Final = 2048
_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,30})://(?P<authority>[^/]*)(?P<path>/.*|)")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class Address(NamedTuple):
    """An address's parts as they stand, nothing decoded."""

    scheme: str
    authority: str
    path: str


def invalid(reason: str) -> LoradockError:
    """The error for an address, without the address."""
    return LoradockError("invalid_source_uri", f"the address {reason}")


def parse_address(uri: str) -> Address:
    """Split `scheme://authority/path`, the scheme in lower case.

    Raises:
        LoradockError: `invalid_source_uri`.
    """
    if len(uri) > MAX_ADDRESS:
        raise invalid(f"is longer than {MAX_ADDRESS} characters")
    if not uri.isprintable():
        raise invalid("has characters that cannot be printed")
    match = _ADDRESS.fullmatch(uri)
    if not match:
        raise invalid("has not the form scheme://place/path")
    if "@" in match["authority"]:
        raise invalid("carries credentials: give them to the service, never to an address")
    if "?" in uri or "#" in uri:
        raise invalid("has a query or a fragment")
    return Address(match["scheme"].lower(), match["authority"], match["path"])


def file_path(uri: str) -> str:
    """The absolute path that a `file:///` address names.

    Raises:
        LoradockError: `invalid_source_uri`.
    """
    address = parse_address(uri)
    if address.scheme != "file" or address.authority:
        raise invalid("is not file:// followed by an absolute path (no host)")
    if _BAD_ESCAPE.search(address.path):
        raise invalid("has a broken percent-escape")
    try:
        path = unquote_to_bytes(address.path).decode()
    except UnicodeDecodeError:
        raise invalid("is not UTF-8 when decoded") from None
    if not path.startswith("/") or not path.isprintable():
        raise invalid("names no absolute path of printable characters")
    if ".." in path.split("/"):
        raise invalid("has '..' in its path")
    return path


class BucketFolder(NamedTuple):
    """A bucket and a prefix in it, empty or ending with a slash."""

    bucket: str
    prefix: str


def bucket_folder(uri: str) -> BucketFolder:
    """The bucket and prefix that an `s3://` address names; keys stand in it as they are, without escapes.

    Raises:
        LoradockError: `invalid_source_uri`.
    """
    address = parse_address(uri)
    if address.scheme != "s3" or not _BUCKET.fullmatch(address.authority):
        raise invalid("is not s3:// followed by a bucket's name")
    path = address.path.strip("/")
    if any(part in ("", ".", "..") for part in path.split("/")) and path:
        raise invalid("has an empty part, '.' or '..' in its prefix")
    return BucketFolder(address.authority, f"{path}/" if path else "")
