"""The orchestrator's copies of sources, on their way to the object store; found again by digest."""

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from loradock.artifacts.deadline import Deadline
from loradock.artifacts.disk import (
    disk_errors,
    file_lock,
    remove_written,
    sweep_temporary,
    sync_folder,
    sync_tree,
    temporary_folder,
    try_file_lock,
    write_durably,
)
from loradock.artifacts.hashing import hash_file
from loradock.artifacts.inspection import examine, inspect_folder, inspect_weights, read_config
from loradock.artifacts.manifest import (
    CONFIG_FILE,
    Selection,
    build_manifest,
    manifest_bytes,
    parse_manifest,
    select_files,
)
from loradock.artifacts.paths import digest_folder
from loradock.artifacts.protocol import (
    KeepsCopies,
    NoProgress,
    Progress,
    Source,
    SourceFile,
    expect_total,
)
from loradock.artifacts.signatures.protocol import SignatureCheck, fetch_signature
from loradock.artifacts.together import run_together
from loradock.artifacts.transfer import download
from loradock.core.errors import Fault, LoradockError
from loradock.core.inspection import InspectionReport
from loradock.core.models import AdapterTraits, Manifest, ManifestFile
from loradock.core.signatures import SignatureVerdict

_MANIFEST: Final = ".manifest.json"
_LOCK: Final = ".lock"
_AT_ONCE: Final = 4
"""Files of one source that are fetched beside each other."""
_MAX_REPORT: Final = 64 * 1024
"""Characters: a refusal travels through a workflow's history."""


@dataclass(frozen=True, slots=True)
class Staged:
    """A complete, inspected copy of a source.

    Attributes:
        path: the folder with the manifest's files and nothing else.
        report: what the full inspection found; None for a copy that was found again, which was inspected when it was made.
        signature: what the check of its signature found; None when nobody asked for one.
    """

    path: Path
    manifest: Manifest
    traits: AdapterTraits
    report: InspectionReport | None = field(default=None, compare=False, repr=False)
    signature: SignatureVerdict | None = field(default=None, compare=False, repr=False)


class Staging:
    """A folder with one copy per digest. Many processes may share it.

    Args:
        root: made when missing.
        source: where addresses are read from, e.g. a `SourceSet`.
        max_bytes: most bytes of one artifact.
        max_seconds: the longest that one source may take.
    """

    def __init__(self, root: Path, source: Source, *, max_bytes: int, max_seconds: float = 3600.0) -> None:
        self._root = root
        self._source = source
        self._max_bytes = max_bytes
        self._max_seconds = max_seconds

    def stage(
        self,
        uri: str,
        progress: Progress | None = None,
        *,
        listed: Sequence[SourceFile] | None = None,
        check: SignatureCheck | None = None,
    ) -> Staged:
        """Copy a source, hash and inspect it. The config is judged before the weights are read, and the weights are
        scanned in our own copy, which nobody changes meanwhile. A signature is compared with the hashes of that copy, before
        the weights are looked into.

        Args:
            listed: the source's files, when the caller has just listed them.
            check: judges the signature; without it a signature is not even read.

        Raises:
            LoradockError: what the source and `check` raise; `config_missing`, `weights_missing`, `pickle_refused`,
                `config_invalid`, `weights_corrupt`, `weights_not_finite`, `adapter_not_supported`,
                `source_too_large`, `source_timeout`, `disk_full`, `disk_error`.
        """
        told = progress or NoProgress()
        limited = Deadline(told, self._max_seconds)
        with disk_errors("staging"), temporary_folder(self._root) as temporary:
            try:
                files = self._source.list(uri, limited) if listed is None else listed
                selection = select_files(files, max_bytes=self._max_bytes)
                expect_total(told, sum(file.size for file in selection.taken))
                manifest = self._fetch_all(uri, selection, temporary, limited)
                found = None if check is None else fetch_signature(self._source, uri, selection, limited)
            finally:
                if isinstance(self._source, KeepsCopies):
                    self._source.forget(uri)
            verdict = None if check is None else check(found, manifest)
            with _reported(temporary, told):
                inspected = inspect_weights(temporary, told)
            path = self._keep(temporary, manifest, told)
            return Staged(path, manifest, inspected.traits, inspected.report, verdict)

    @contextmanager
    def hold(self, digest: str) -> Iterator[Staged]:
        """Use a staged copy; while it is held nobody discards it.

        Raises:
            LoradockError: `staging_lost` when there is none (any more): stage the source again.
        """
        path = self._folder(digest)
        with disk_errors("staging"), file_lock(_beside(path, _LOCK), shared=True):
            try:
                manifest = parse_manifest(_beside(path, _MANIFEST).read_bytes(), digest=digest)
                staged = Staged(path, manifest, inspect_folder(path).traits)
            except (OSError, LoradockError):
                raise LoradockError("staging_lost", f"there is no staged copy of {digest}") from None
            yield staged

    def discard(self, digest: str) -> bool:
        """Remove a staged copy unless somebody holds it; fine when there is none.

        Returns:
            Whether it is gone.
        """
        path = self._folder(digest)
        with disk_errors("staging"), try_file_lock(_beside(path, _LOCK)) as held:
            if held:
                # The manifest first: without it the folder counts as unfinished, not as found.
                remove_written(_beside(path, _MANIFEST))
                shutil.rmtree(path, ignore_errors=True)
                _beside(path, _LOCK).unlink(missing_ok=True)
            return held

    def sweep(self, *, older_than_seconds: float) -> list[Path]:
        """Remove what dead processes left, and copies that nobody fetched for so long.

        Returns:
            What was removed.
        """
        swept = sweep_temporary(self._root)
        limit = time.time() - older_than_seconds
        for path in sorted(self._root.glob("sha256-*")):
            with suppress(OSError, ValueError):
                old = path.is_dir() and path.stat().st_mtime < limit
                if old and self.discard(path.name.replace("-", ":", 1)):
                    swept.append(path)
        return swept

    def _fetch_all(self, uri: str, selection: Selection, folder: Path, progress: Progress) -> Manifest:
        config, *others = selection.taken
        files = [self._fetch(uri, config, folder, progress)]
        with _reported(folder, progress):
            read_config(folder / CONFIG_FILE)
        # The largest first: the rest comes beside it.
        others.sort(key=lambda file: -file.size)
        works = [lambda told, file=file: self._fetch(uri, file, folder, told) for file in others]
        files += run_together(works, progress, at_once=_AT_ONCE)
        return build_manifest(files, selection.left_out)

    def _fetch(self, uri: str, file: SourceFile, folder: Path, progress: Progress) -> ManifestFile:
        with self._source.fetch(uri, file, progress) as reader:
            copied = download(reader, folder / file.path, progress, limit=file.size)
        if copied.size != file.size:
            raise LoradockError("source_changed", f"{file.path!r} has another size than a moment ago")
        return ManifestFile(path=file.path, size=copied.size, sha256=copied.sha256)

    def _keep(self, temporary: Path, manifest: Manifest, progress: Progress) -> Path:
        path = self._folder(manifest.digest)
        with file_lock(_beside(path, _LOCK), progress=progress):
            if path.is_dir():
                self._renew(path, temporary, manifest, progress)
            else:
                sync_tree(temporary)
                temporary.rename(path)
            write_durably(_beside(path, _MANIFEST), manifest_bytes(manifest))
            sync_folder(self._root)
        return path

    def _renew(self, path: Path, fresh: Path, manifest: Manifest, progress: Progress) -> None:
        """Replace the files of an earlier copy that are not what they were."""
        for file in manifest.files:
            try:
                found = hash_file(path / file.path, progress, limit=file.size)
                intact = (found.size, found.sha256) == (file.size, file.sha256)
            except OSError:
                intact = False
            if not intact:
                (path / file.path).parent.mkdir(parents=True, exist_ok=True)
                (fresh / file.path).replace(path / file.path)
        path.touch()
        sync_tree(path)

    def _folder(self, digest: str) -> Path:
        return self._root / digest_folder(digest)


@contextmanager
def _reported(folder: Path, progress: Progress) -> Iterator[None]:
    """A refusal carries the report of what was found, for the operation's row and for people."""
    try:
        yield
    except LoradockError as error:
        if error.spec.fault is Fault.CALLER:
            report = examine(folder, progress).model_dump_json(exclude={"failure"})
            if len(report) <= _MAX_REPORT:
                error.details["inspection"] = json.loads(report)
        raise


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)
