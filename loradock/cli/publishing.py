"""`loradock publish NAME FOLDER`: judged and hashed here, sent, published."""
# ruff: noqa: PLC0415 - the rest of the command line stays quick

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from rich.console import Console

from loradock.cli import text
from loradock.cli.client import Document, adapter_path
from loradock.cli.failures import CommandFailure, ExitCode
from loradock.cli.outcome import conclude
from loradock.cli.session import Session
from loradock.cli.transfer_bar import TransferBar, transfer_bar
from loradock.core.errors import CATALOG, LoradockError

if TYPE_CHECKING:
    from loradock.core.models import Manifest, ManifestFile

_SESSION_OVER: Final = frozenset({"upload_ended", "upload_expired", "upload_not_found"})
_TRIES: Final = 3

Result = TypeVar("Result")


def publish_folder(
    session: Session,
    name: str,
    folder: Path,
    body: Document,
    *,
    wait: bool,
    timeout: float | None,
    key: str | None,
) -> None:
    """Publish a folder of this machine.

    Args:
        body: the publish's, its source excepted.
        key: its Idempotency-Key.

    Raises:
        CommandFailure: the adapter cannot be served (3), and as for every publish.
        LoradockError: the folder cannot be read; `digest_mismatch`.
    """
    manifest, files = _examined(session.err, folder)
    expected = body.get("expect_digest")
    if expected not in (None, manifest.digest):
        raise LoradockError("digest_mismatch", f"{expected} was expected, the folder is {manifest.digest}")

    def publish(key: str | None, *, reuse: bool) -> tuple[Document, bool]:
        upload = _send(session, name, folder, files, reuse=reuse)
        asked = {**body, "source": {"uri": upload["uri"]}}
        return session.client.post(f"{adapter_path(name)}/versions", asked, key=key), bool(upload["stored"])

    def send_after_all(ended: Document) -> Document | None:
        if not stored or (ended.get("error") or {}).get("code") != "upload_mismatch":
            return None
        session.hint("The stored copy of this version is damaged: the bytes are sent, to replace it.")
        return publish(None, reuse=False)[0]

    operation, stored = _begun_again(lambda: publish(key, reuse=True))
    conclude(session, operation, wait=wait, timeout=timeout, otherwise=send_after_all)


def _begun_again(publish: Callable[[], Result]) -> Result:
    """Publish, from the beginning when the session ends under way: somebody else published the same with it."""
    for _ in range(_TRIES - 1):
        try:
            return publish()
        except CommandFailure as failure:
            if failure.code not in _SESSION_OVER:
                raise
    return publish()


def _examined(console: Console, folder: Path) -> "tuple[Manifest, list[ManifestFile]]":
    """What the folder's adapter is, and the files to be sent: those, and what signs them."""
    from loradock.artifacts.build import open_sources
    from loradock.artifacts.examining import examine_folder
    from loradock.core.settings import load_settings

    settings = load_settings(file_roots=(Path("/"),), source_schemes=("file",))
    with transfer_bar(console, "reading") as bar:
        examined = examine_folder(
            open_sources(settings), folder, max_bytes=settings.source_max_bytes, progress=bar
        )
    failure = examined.report.failure
    if failure is not None:
        raise CommandFailure(
            ExitCode.OPERATION_FAILED,
            f"{text.clean(folder)} cannot be served: {text.clean(failure.message)}",
            code=failure.code,
            remedy=CATALOG[failure.code].remedy,
            document=failure.model_dump(mode="json"),
        )
    assert examined.manifest is not None  # noqa: S101 - without one there is a failure
    signature = [examined.signature] if examined.signature else []
    return examined.manifest, [*examined.manifest.files, *signature]


def _send(session: Session, name: str, folder: Path, files: "list[ManifestFile]", *, reuse: bool) -> Document:
    from loradock.cli.uploading import send_upload

    asked = {"files": [file.model_dump(mode="json") for file in files], "reuse": reuse}
    upload = session.client.post(f"{adapter_path(name)}/uploads", asked)
    if upload.get("state") != "open":
        return upload
    with _told(session.err, upload) as bar:
        return send_upload(session.client, folder, upload, bar)


@contextmanager
def _told(console: Console, upload: Document) -> Iterator[TransferBar]:
    files = upload["files"]
    if upload["stored"]:  # of what is stored nobody need hear
        files = [file for file in files if not file["complete"]]
    total, there = (sum(file[what] for file in files) for what in ("size", "received"))
    with transfer_bar(console, "uploading") as bar:
        bar.expect(total)
        bar.advance(there)
        yield bar
    known = f", {text.size(there)} of them were there already" if there else ""
    if not console.is_terminal:
        console.print(f"uploaded {text.size(total)}{known}", soft_wrap=True, highlight=False)
