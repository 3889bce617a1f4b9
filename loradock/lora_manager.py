"""`LoRAManager`: the seed system's three methods over Loradock's sources and staging, for programs written against it.

What differs is what was wrong there: an address's content is told by its identity and its digest, not by its name; one
download per address whoever asks, across threads and processes; a changed source is noticed; every byte is hashed and
a copy is checked before each use. See docs/sources.md.
"""

import asyncio
import contextvars
import hashlib
import logging
import os
import threading
from collections.abc import Coroutine, Mapping
from concurrent.futures import wait
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from pydantic import ValidationError

from loradock.artifacts.disk import disk_errors, file_lock, write_durably
from loradock.artifacts.manifest import select_files
from loradock.artifacts.protocol import Source, SourceFile
from loradock.artifacts.record import Record, read_record, unchanged, write_record
from loradock.artifacts.sources.build import build_sources
from loradock.artifacts.sources.custom import LoRASourceProtocol, as_source
from loradock.artifacts.sources.registry import SourceSet
from loradock.artifacts.sources.spool import Spool
from loradock.artifacts.sources.steady import ASK_SECONDS, Cancellable
from loradock.artifacts.staging import Staging
from loradock.core.errors import LoradockError
from loradock.core.models import Digest, Model
from loradock.core.settings import Settings, load_settings

__all__ = ["LoRAManager", "LoRASourceProtocol", "default_cache_path", "get_lora_manager"]

_FOLDER: Final = "sources/copies"
"""Two folders down: a host agent may keep its cache in the same place, and must not take these for its own."""
_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_logger = logging.getLogger(__name__)
Result = TypeVar("Result")


class _Caller(NamedTuple):
    """Who awaits `download_lora`."""

    loop: asyncio.AbstractEventLoop
    progress: Cancellable


_caller: contextvars.ContextVar[_Caller] = contextvars.ContextVar("loradock_caller")


class _Known(Model):
    """What an address was when it was last fetched.

    Attributes:
        listing: over the paths, sizes and identities of the files that were taken.
    """

    uri: str
    listing: str
    digest: Digest


class _Found(NamedTuple):
    known: _Known
    path: Path


class LoRAManager:
    """Fetches adapters by address and keeps them. Any number of threads and processes may share a folder.

    What may be read is what the settings allow; of what they leave open, a program may read what its user may: any
    folder, any bucket and any hub repository. `https://` hosts are always named (`LORADOCK_SOURCE_HOSTS`).

    Args:
        cache_path: where adapters are kept, `default_cache_path()` when not given.
        settings: read from the environment when not given.

    Raises:
        LoradockError: `setting_invalid`.
    """

    def __init__(self, cache_path: Path | str | None = None, *, settings: Settings | None = None) -> None:
        root = Path(cache_path) if cache_path is not None else default_cache_path()
        self._root = root.absolute() / _FOLDER
        self._settings = _opened(settings or load_settings(), self._root)
        self._sources: SourceSet | None = None
        self._custom: dict[str, Source] = {}
        self._spool = Spool(self._root)
        self._making = threading.Lock()
        with disk_errors("the adapters' folder"):
            self._root.mkdir(parents=True, exist_ok=True)

    def register_custom_source(self, scheme: str, source: "LoRASourceProtocol | Source") -> None:
        """Let a source of your own read the addresses of a scheme (without `://`), in place of ours if there is one.

        Raises:
            LoradockError: `setting_invalid` when it has neither `exists` and `download` nor the methods of `Source`.
        """
        made = as_source(
            source, self._spool, max_files=self._settings.source_max_files, run=_run_in_callers_loop
        )
        self._custom[scheme.lower()] = made
        if self._sources is not None:
            self._sources.add(scheme, made)

    async def download_lora(self, lora_uri: str) -> dict[str, Any]:
        """Have an adapter on disk, complete, as its source has it now.

        A source that does not answer is no change: the copy that is there is given, and a warning is logged.

        Returns:
            `{"status": "success", "local_path": …}`, or `{"status": "error", "message": …, "code": …}` with a code of
            docs/errors.md; nothing is raised but a cancel.
        """
        progress = Cancellable()
        token = _caller.set(_Caller(asyncio.get_running_loop(), progress))
        try:
            path = await asyncio.to_thread(self._have, lora_uri, progress)
        except asyncio.CancelledError:
            progress.cancel()
            raise
        except LoradockError as error:
            return {"status": "error", "message": error.message, "code": error.code}
        except Exception as error:  # the seed's contract: a failure is an answer
            _logger.exception("download_lora failed")
            return {"status": "error", "message": type(error).__name__, "code": "internal_error"}
        finally:
            _caller.reset(token)
        return {"status": "success", "local_path": str(path)}

    def is_cached(self, lora_uri: str) -> bool:
        """Whether the adapter was fetched from this address and is on disk as it was then. Asks no source."""
        return self._find(lora_uri) is not None

    def forget(self, lora_uri: str) -> bool:
        """Remove what was fetched from an address; nothing here is ever removed unasked: an engine may read it.

        Copies with the same content from other addresses go too, and come again when they are asked for.

        Returns:
            Whether there was anything.
        """
        known = self._known(lora_uri)
        with disk_errors("the adapters' folder"), file_lock(self._lock(lora_uri)):
            self._index(lora_uri).unlink(missing_ok=True)
        if known is None:
            return False
        staging = self._staging()
        gone = staging.discard(known.digest)
        self._record(known.digest).unlink(missing_ok=True)
        return gone

    def sweep(self) -> list[Path]:
        """Remove what killed processes left half done.

        Returns:
            What was removed.
        """
        return self._staging().sweep(older_than_seconds=float("inf"))

    def _have(self, uri: str, progress: Cancellable) -> Path:
        """The adapter's folder, fetched if need be."""
        try:
            files = self._source_set().list(uri, progress)
        except LoradockError as error:
            found = self._find(uri) if error.code == "source_unavailable" else None
            if found is None:
                raise
            _logger.warning("a source does not answer, the copy of %s is used", found.known.digest)
            return found.path
        try:
            taken = select_files(files, max_bytes=self._settings.source_max_bytes).taken
            with disk_errors("the adapters' folder"), file_lock(self._lock(uri), progress=progress):
                # Under the lock: whoever waited finds what the other one fetched.
                found = self._find(uri)
                if found is None or found.known.listing != _mark(taken):
                    found = self._fetch(uri, files, _mark(taken), progress)
        finally:
            self._source_set().forget(uri)
        return found.path

    def _fetch(self, uri: str, files: list[SourceFile], listing: str, progress: Cancellable) -> _Found:
        staged = self._staging().stage(uri, progress, listed=files)
        digest = staged.manifest.digest
        record = self._record(digest)
        with file_lock(record.with_suffix(".lock")):  # another address may have the same content
            write_record(record, Record.of(staged.manifest, staged.path))
        known = _Known(uri=uri, listing=listing, digest=digest)
        write_durably(self._index(uri), known.model_dump_json().encode())
        return _Found(known, staged.path)

    def _find(self, uri: str) -> _Found | None:
        known = self._known(uri)
        if known is None:
            return None
        path = self._root / known.digest.replace(":", "-")
        record = read_record(self._record(known.digest), known.digest)
        return _Found(known, path) if record is not None and unchanged(record, path) else None

    def _known(self, uri: str) -> _Known | None:
        try:
            known = _Known.model_validate_json(self._index(uri).read_bytes())
        except (OSError, ValidationError):
            return None
        return known if known.uri == uri else None

    def _index(self, uri: str) -> Path:
        return (
            self._root
            / "addresses"
            / f"{hashlib.sha256(uri.encode(errors='surrogateescape')).hexdigest()}.json"
        )

    def _lock(self, uri: str) -> Path:
        return self._index(uri).with_suffix(".lock")

    def _record(self, digest: str) -> Path:
        return self._root / f"{digest.replace(':', '-')}.record.json"

    def _staging(self) -> Staging:
        return Staging(
            self._root,
            self._source_set(),
            max_bytes=self._settings.source_max_bytes,
            max_seconds=self._settings.source_max_seconds,
        )

    def _source_set(self) -> SourceSet:
        """All sources, made at the first use: a program that only asks `is_cached` needs no S3 client."""
        with self._making:
            if self._sources is None:
                self._sources = build_sources(self._settings)
                for scheme, source in self._custom.items():
                    self._sources.add(scheme, source)
            return self._sources


def default_cache_path(environment: Mapping[str, str] | None = None) -> Path:
    """`LORADOCK_CACHE_DIR`, else `DYN_LORA_PATH`, else `$HOME/.cache/dynamo_loras`, under /tmp without a HOME."""
    given = os.environ if environment is None else environment
    for name in ("LORADOCK_CACHE_DIR", "DYN_LORA_PATH"):
        if given.get(name):
            return Path(given[name])
    home = given.get("HOME")
    return Path(home, ".cache", "dynamo_loras") if home else Path("/tmp/dynamo_loras")  # noqa: S108 - as the seed


class _Managers:
    """The one manager of a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._manager: LoRAManager | None = None

    def get(self) -> LoRAManager | None:
        with self._lock:
            if self._manager is None and _enabled(load_settings()):
                self._manager = LoRAManager()
            return self._manager


_managers = _Managers()


def get_lora_manager() -> LoRAManager | None:
    """The process's manager; None unless `LORADOCK_LORA_ENABLED` (or, without it, `DYN_LORA_ENABLED`) says so.

    Raises:
        LoradockError: `setting_invalid`, `disk_error`.
    """
    return _managers.get()


def _enabled(settings: Settings) -> bool:
    if settings.lora_enabled is not None:
        return settings.lora_enabled
    return os.environ.get("DYN_LORA_ENABLED", "").strip().lower() in _TRUE


def _opened(settings: Settings, root: Path) -> Settings:
    """The settings of a library in a program of one user: what they leave out is open, as in the seed."""
    given = settings.model_fields_set
    # A folder that cannot be read is refused by the system itself.
    opened = {"file_roots": (Path("/"),), "source_buckets": ("*",), "source_repositories": ("*",)}
    changes: dict[str, Any] = {name: value for name, value in opened.items() if name not in given}
    return settings.model_copy(update=changes | {"staging_dir": root})


def _mark(files: tuple[SourceFile, ...]) -> str:
    lines = "\n".join(f"{file.path}\0{file.size}\0{file.identity}" for file in files)
    return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()


def _run_in_callers_loop(work: Coroutine[Any, Any, Result]) -> Result:
    """A custom source's coroutines run where `download_lora` was awaited: its clients may belong to that loop."""
    caller = _caller.get()
    future = asyncio.run_coroutine_threadsafe(work, caller.loop)
    try:
        while not wait([future], timeout=ASK_SECONDS).done:
            caller.progress.advance(0)
    except BaseException:
        future.cancel()
        raise
    return future.result()
