"""`loradock sign`: sign the adapter in a folder with a key of one's own. Needs no server."""
# ruff: noqa: PLC0415

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from loradock.cli import text
from loradock.cli.failures import usage
from loradock.cli.render import print_facts, stderr_console, stdout_console
from loradock.cli.session import AsJson, print_json

if TYPE_CHECKING:
    from loradock.artifacts.signatures.signing import SigningKey

_MAX_PASSWORD_BYTES = 4096


def sign(
    *,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="A folder that save_pretrained wrote.", file_okay=False)
    ],
    key: Annotated[
        Path, typer.Option("--key", metavar="PEM", help="The private key: P-256, P-384 or P-521.")
    ],
    password_file: Annotated[
        Path | None,
        typer.Option(
            "--password-file", metavar="FILE", help="Its first line is the key's password (else it is asked)."
        ),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option("--certificate", metavar="PEM", help="Sign as the holder of this certificate."),
    ] = None,
    chain: Annotated[
        list[Path] | None,
        typer.Option("--chain", metavar="PEM", help="An intermediate certificate; can be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write FOLDER/model.sig: a signature of the adapter's files (OpenSSF model signing). An earlier one is replaced."""
    if not folder.is_dir():
        raise usage(f"{text.clean(folder)} is no folder here")
    if chain and certificate is None:
        raise usage("--chain belongs to --certificate")
    from loradock.artifacts.signatures.policy import require_package

    require_package("signing")
    from loradock.artifacts.signatures.signing import SigningKey, sign_folder

    given = SigningKey(key, None, certificate, tuple(chain or ()))
    signed = sign_folder(folder, _unlocked(given, password_file))
    if as_json:
        print_json({"path": str(signed.path), "signer": signed.signer, "files": list(signed.files)})
        return
    facts = {"signature": str(signed.path), "signed by": signed.signer, "covers": ", ".join(signed.files)}
    print_facts(stdout_console(), facts)


def _unlocked(key: "SigningKey", password_file: Path | None) -> "SigningKey":
    """The key with its password, if it has one.

    Raises:
        CommandFailure: exit code 2.
        LoradockError: `signing_key_invalid`.
    """
    from dataclasses import replace

    if not key.encrypted:
        return key
    if key.certificate is not None:
        raise usage("with --certificate the key must not be encrypted: model-signing cannot open it then")
    if password_file is None:
        stderr_console().print(Text(f"{text.clean(key.private_key)} is encrypted."))
        return replace(key, password=typer.prompt("Password", hide_input=True, err=True))
    try:
        with password_file.open("rb") as file:
            line = file.read(_MAX_PASSWORD_BYTES).split(b"\n")[0]
        return replace(key, password=line.decode().rstrip("\r"))
    except (OSError, ValueError):
        raise usage(f"{text.clean(password_file)} cannot be read as a password") from None
