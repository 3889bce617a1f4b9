"""Inspecting a source without any service: fetch it to a private folder, read it whole, and throw it away."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from loradock.artifacts.disk import disk_errors
from loradock.artifacts.hashing import hash_stream
from loradock.artifacts.inspection import examine
from loradock.artifacts.manifest import build_manifest, select_files
from loradock.artifacts.protocol import NoProgress, Progress, Source, SourceFile, expect_total
from loradock.artifacts.signatures.protocol import SignatureCheck, fetch_signature
from loradock.artifacts.transfer import download
from loradock.core.base_config import BaseConfig
from loradock.core.errors import LoradockError
from loradock.core.inspection import InspectionReport, Verdict
from loradock.core.models import Failure, Manifest, ManifestFile
from loradock.core.signatures import SignatureVerdict


@dataclass(frozen=True, slots=True)
class Examined:
    """What a source holds.

    Attributes:
        manifest: None when the source holds no adapter at all.
        signed: whether a signature lies beside it.
        signature: what its check found; None when nobody asked for one.
    """

    report: InspectionReport
    manifest: Manifest | None
    signed: bool = False
    signature: SignatureVerdict | None = None


def examine_source(
    source: Source,
    uri: str,
    *,
    max_bytes: int,
    progress: Progress | None = None,
    base: BaseConfig | None = None,
    base_model: str | None = None,
    check: SignatureCheck | None = None,
) -> Examined:
    """Judge what lies at an address; what stands against serving it is told in the report, not raised.

    Args:
        max_bytes: most bytes of all its files together.
        base: the base model's config to compare with, its name being `base_model`.
        check: judges the signature.

    Raises:
        LoradockError: the source cannot be read; `disk_full`, `disk_error`.
    """
    told = progress or NoProgress()
    listed = source.list(uri)
    try:
        selection = select_files(listed, max_bytes=max_bytes)
    except LoradockError as error:
        report = InspectionReport(verdict=Verdict.NOT_SERVABLE, failure=Failure.of(error))
        return Examined(report, None)
    with disk_errors("inspecting a source"), TemporaryDirectory(prefix="loradock-inspect-") as name:
        folder = Path(name)
        files = []
        for file in selection.taken:
            with source.fetch(uri, file) as reader:
                copied = download(reader, folder / file.path, told, limit=file.size)
            files.append(ManifestFile(path=file.path, size=copied.size, sha256=copied.sha256))
        manifest = build_manifest(files, selection.left_out)
        found = None if check is None else fetch_signature(source, uri, selection, told)
        verdict = None if check is None else check(found, manifest)
        report = examine(folder, told, base=base, base_model=base_model)
        return Examined(report, manifest, selection.signature is not None, verdict)


@dataclass(frozen=True, slots=True)
class ExaminedFolder:
    """What a folder of one's own holds.

    Attributes:
        manifest: None when it cannot be served.
        signature: the file that signs it, if there is one: no part of the manifest.
    """

    report: InspectionReport
    manifest: Manifest | None = None
    signature: ManifestFile | None = None


def examine_folder(
    source: Source, folder: Path, *, max_bytes: int, progress: Progress | None = None
) -> ExaminedFolder:
    """Judge and hash a local folder where it lies, without a copy: for one's own, that nobody writes to meanwhile.

    Args:
        source: reads the folder by its rules.
        max_bytes: most bytes of all its files together.

    Raises:
        LoradockError: the folder cannot be read.
    """
    told = progress or NoProgress()
    uri = folder.as_uri()
    listed = source.list(uri)
    try:
        selection = select_files(listed, max_bytes=max_bytes)
    except LoradockError as error:
        return ExaminedFolder(InspectionReport(verdict=Verdict.NOT_SERVABLE, failure=Failure.of(error)))

    def hashed(file: SourceFile) -> ManifestFile:
        with source.fetch(uri, file) as reader:
            found = hash_stream(reader, told, limit=file.size)
        return ManifestFile(path=file.path, size=found.size, sha256=found.sha256)

    with disk_errors("inspecting a folder"):
        report = examine(folder, told)
        if report.failure is not None:
            return ExaminedFolder(report)
        expect_total(told, sum(file.size for file in selection.taken))
        manifest = build_manifest([hashed(file) for file in selection.taken], selection.left_out)
        signature = None if selection.signature is None else hashed(selection.signature)
    return ExaminedFolder(report, manifest, signature)
