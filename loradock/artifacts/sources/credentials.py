"""Credentials for sources, by the name of a secret: `env:NAME`, `file:/path` or (for S3) `profile:NAME`.

The settings hold only names. The secret is read at each use, so that a rotated one counts at once; it never becomes
part of an address, an input of a workflow, a row, a log line or an error.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, SecretStr, ValidationError

from loradock.artifacts.sources.address import parse_address
from loradock.core.errors import LoradockError

MAX_SECRET_BYTES: Final = 64 * 1024
KINDS: Final = ("env", "file", "profile")


class AwsKeys(BaseModel):
    """A key pair, as the JSON of an `env:` or `file:` secret for an `s3://` place."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    access_key_id: SecretStr
    secret_access_key: SecretStr
    session_token: SecretStr | None = None


class SourceCredentials:
    """Finds the secret for an address: that of the longest place that it lies in.

    Args:
        names: place (`s3://bucket`, `s3://bucket/prefix`, `https://host`, `hf://org`, `hf://org/name`) to secret name.

    Raises:
        LoradockError: `setting_invalid`.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = {_place(place): _checked(place, name) for place, name in names.items()}

    def name_for(self, uri: str) -> str | None:
        """The secret's name, None when the place needs none of ours."""
        parts = _place(uri)
        fitting = [place for place in self._names if parts[: len(place)] == place]
        return self._names[max(fitting, key=len)] if fitting else None

    def token_for(self, uri: str) -> SecretStr | None:
        """A bearer token.

        Raises:
            LoradockError: `source_denied` when the secret that is named is not there.
        """
        name = self.name_for(uri)
        return None if name is None else SecretStr(_read(name).strip())


def read_aws_keys(name: str) -> AwsKeys:
    """The key pair that an `env:` or `file:` secret holds.

    Raises:
        LoradockError: `source_denied`.
    """
    try:
        return AwsKeys.model_validate_json(_read(name))
    except ValidationError:
        raise LoradockError(
            "source_denied",
            f'the secret {name!r} is not {{"access_key_id": …, "secret_access_key": …}}',
        ) from None


def _read(name: str) -> str:
    kind, _, where = name.partition(":")
    if kind == "env":
        secret = os.environ.get(where, "")
    elif kind == "file":
        try:
            with Path(where).open("rb") as file:
                secret = file.read(MAX_SECRET_BYTES).decode()
        except (OSError, UnicodeDecodeError) as error:
            raise LoradockError(
                "source_denied", f"the secret {name!r} cannot be read: {type(error).__name__}"
            ) from None
    else:
        raise LoradockError("source_denied", f"the secret {name!r} is of a kind that only s3:// knows")
    if not secret.strip() or any(ord(character) < 0x20 for character in secret.strip().replace("\n", "")):
        raise LoradockError("source_denied", f"the secret {name!r} is empty or not text")
    return secret


def _place(uri: str) -> tuple[str, ...]:
    address = parse_address(uri)
    authority = address.authority.lower() if address.scheme == "https" else address.authority
    path = [part for part in address.path.split("/") if part]
    if address.scheme == "hf" and path:
        path[0] = path[0].partition("@")[0]
    return (address.scheme, authority, *path)


def _checked(place: str, name: str) -> str:
    kind, _, where = name.partition(":")
    if kind not in KINDS or not where or (kind == "profile" and not place.startswith("s3://")):
        # The value is not repeated: whoever wrote a secret here by mistake finds it in no log.
        raise LoradockError(
            "setting_invalid",
            f"LORADOCK_SOURCE_CREDENTIALS: {place} needs env:NAME or file:/path (s3:// also profile:NAME)",
        )
    return name
