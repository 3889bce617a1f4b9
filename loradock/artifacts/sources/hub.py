"""`hf://org/name[@revision][/folder]`: a model repository of the Hugging Face hub, or of a mirror (`HF_ENDPOINT`).

A listing pins the revision to its commit; every file is then read from that commit, so nothing changes under a reader,
and its hash (LFS) or git id is compared at its end. Offline (`HF_HUB_OFFLINE=1`) the hub client's own cache is read.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoSibling

from loradock.artifacts.disk import open_plain
from loradock.artifacts.hashing import hash_file
from loradock.artifacts.protocol import NoProgress, Progress, Reader, SourceFile
from loradock.artifacts.sources.address import invalid, parse_address
from loradock.artifacts.sources.file import check_source_path
from loradock.artifacts.sources.https import HashedReader, TokenFor, ranged
from loradock.artifacts.sources.places import AllowedPlaces
from loradock.artifacts.sources.spool import SpooledReader
from loradock.artifacts.sources.steady import Patience, steady_reader
from loradock.artifacts.sources.web import Origin, WebClient, WebRules, origin_of
from loradock.core.errors import LoradockError
from loradock.core.uris import parse_source_uri

LIST_SECONDS: Final = 15.0
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubFolder(NamedTuple):
    """A repository at a revision, and a folder in it, empty or ending with a slash."""

    repository: str
    revision: str
    folder: str


class HubSource:
    """Reads model repositories that the list allows: `org`, `org/name` or `*`.

    Args:
        repositories: none denies everything.
        endpoint: the hub's address; it may be a private one and plain http when this setting says so.
        offline: read the hub client's cache only.
        cache: that cache's folder; the client's own default when None.
        web: made for this endpoint by `hub_client`.
    """

    def __init__(
        self,
        repositories: AllowedPlaces,
        web: WebClient,
        *,
        endpoint: str,
        offline: bool = False,
        cache: Path | None = None,
        max_files: int = 1000,
        token_for: TokenFor = lambda _: None,
        patience: Patience | None = None,
    ) -> None:
        self._repositories, self._web = repositories, web
        self._endpoint, self._offline, self._cache = endpoint.rstrip("/"), offline, cache
        self._max_files = max_files
        self._token_for = token_for
        self._patience = patience or Patience()

    def exists(self, uri: str) -> bool:
        """As `Source.exists`."""
        try:
            return bool(self.list(uri))
        except LoradockError as error:
            if error.code == "source_not_found":
                return False
            raise

    def list(self, uri: str, progress: Progress | None = None) -> list[SourceFile]:
        """As `Source.list`; identities carry the commit."""
        place = self._place(uri)
        if self._offline:
            files = [*self._cached(place)]
        else:
            what = f"hf://{place.repository}"
            commit, siblings = self._patience.call(lambda: self._ask(place, uri), what, progress)
            files = [
                _listed(sibling, place.folder, commit)
                for sibling in siblings
                if sibling.rfilename.startswith(place.folder)
            ]
        if len(files) > self._max_files:
            raise LoradockError("source_too_large", f"more than {self._max_files} files")
        if not files:
            raise LoradockError(
                "source_not_found", f"hf://{place.repository}: there are no files below the address"
            )
        return sorted(files, key=lambda file: file.path)

    def fetch(
        self, uri: str, file: SourceFile, progress: Progress | None = None
    ) -> AbstractContextManager[Reader]:
        """As `Source.fetch`: from the commit that was listed, whatever the revision is by now."""
        place = self._place(uri)
        check_source_path(file.path)
        if self._offline:
            return self._from_cache(place, file)
        return self._streamed(place, uri, file, progress)

    def _place(self, uri: str) -> HubFolder:
        place = hub_folder(uri)
        if not self._repositories.allows(place.repository):
            raise LoradockError(
                "source_not_allowed", f"repository {place.repository!r} is not allowed as a source"
            )
        return place

    def _ask(self, place: HubFolder, uri: str) -> tuple[str, Sequence[RepoSibling]]:
        token = self._token_for(uri)
        api = huggingface_hub.HfApi(
            endpoint=self._endpoint,
            token=token.get_secret_value() if token else False,
            library_name="loradock",
        )
        with _hub_errors(f"hf://{place.repository}"):
            info = api.model_info(
                place.repository, revision=place.revision, files_metadata=True, timeout=LIST_SECONDS
            )
        if not info.sha or not _COMMIT.fullmatch(info.sha):
            raise LoradockError("source_unavailable", f"hf://{place.repository}: the hub names no commit")
        return info.sha, info.siblings or []

    @contextmanager
    def _streamed(
        self, place: HubFolder, uri: str, file: SourceFile, progress: Progress | None
    ) -> Iterator[Reader]:
        commit, digest, expected = _parted(file)
        path = place.folder + file.path
        url = huggingface_hub.hf_hub_url(place.repository, path, revision=commit, endpoint=self._endpoint)

        def open_at(offset: int) -> AbstractContextManager[Reader]:
            return ranged(self._web, url, offset, token=self._token_for(uri), size=file.size)

        try:
            what = f"hf://{place.repository}@{commit}/{path}"
            with steady_reader(open_at, file.size, what, self._patience, progress) as reader:
                yield HashedReader(reader, digest, expected, file.path)
        except LoradockError as error:
            if error.code == "source_not_found":
                raise LoradockError("source_changed", error.message) from None
            raise

    def _cached(self, place: HubFolder) -> Sequence[SourceFile]:
        """What the hub client's cache holds of the revision; files that were never fetched are not there."""
        snapshot = self._snapshot(place, place.revision)
        folder, files = snapshot / place.folder, []
        for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
            if not path.is_dir():
                name = check_source_path(path.relative_to(folder).as_posix())
                files.append(_cached_file(snapshot, path, name))
        return files

    @contextmanager
    def _from_cache(self, place: HubFolder, file: SourceFile) -> Iterator[Reader]:
        commit, digest, expected = _parted(file)
        snapshot = self._snapshot(place, commit)
        try:
            opened = open_plain(_blob(snapshot, snapshot / place.folder / file.path))
        except OSError:
            raise LoradockError("source_changed", f"{file.path!r} is not in the cache any more") from None
        with opened:
            yield HashedReader(SpooledReader(opened, file), digest, expected, file.path)

    def _snapshot(self, place: HubFolder, revision: str) -> Path:
        try:
            with _hub_errors(f"hf://{place.repository}"):
                try:
                    path = huggingface_hub.snapshot_download(
                        place.repository, revision=revision, local_files_only=True, cache_dir=self._cache
                    )
                except IncompleteSnapshotError as error:
                    path = error.snapshot_path  # what an adapter needs may be there all the same
            return Path(path).resolve()
        except LoradockError as error:
            if error.code == "source_not_found":
                raise LoradockError(
                    "source_not_found",
                    f"hf://{place.repository}: it is not in the hub's cache, and the hub is offline",
                ) from None
            raise


def hub_folder(uri: str) -> HubFolder:
    """Take an `hf://` address apart; the revision is `main` when none is given.

    Raises:
        LoradockError: `invalid_source_uri`.
    """
    parse_address(uri)
    parsed = parse_source_uri(uri)
    if parsed.scheme != "hf":
        raise invalid("is not hf://")
    name, *folder = parsed.path.split("/")
    name, _, revision = name.partition("@")
    prefix = "".join(f"{unquote(part)}/" for part in folder)
    if prefix:
        check_source_path(prefix.rstrip("/"))
    return HubFolder(f"{parsed.bucket}/{name}", unquote(revision) or "main", prefix)


def hub_client(endpoint: str, **options: Any) -> WebClient:
    """A web client that may reach this hub wherever it is, and the public hosts (over TLS) that it redirects to.

    Raises:
        LoradockError: `setting_invalid`.
    """
    try:
        origin: Origin = origin_of(urlsplit(endpoint))
    except LoradockError:
        raise LoradockError(
            "setting_invalid", "the hub's endpoint is not https://host or http://host"
        ) from None
    allows: Callable[[SplitResult], bool] = lambda _: True  # noqa: E731 - redirects go to public hosts of its choice
    rules = WebRules(allows, private_hosts=(f"{origin.host}:{origin.port}",), plain_origins=(origin,))
    return WebClient(rules, **options)


def hub_endpoint() -> str:
    """Where the hub is: `HF_ENDPOINT`, or the public one."""
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"


def hub_offline() -> bool:
    """Whether `HF_HUB_OFFLINE` says that the hub must not be asked."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def _listed(sibling: RepoSibling, folder: str, commit: str) -> SourceFile:
    path = check_source_path(sibling.rfilename.removeprefix(folder))
    size: int | None
    if sibling.lfs is not None:
        size, identity = sibling.lfs.size, f"sha256:{sibling.lfs.sha256}"
    else:
        size, identity = sibling.size, f"git:{sibling.blob_id}"
    if not isinstance(size, int) or size < 0:
        raise LoradockError("source_unavailable", f"the hub does not tell the size of {path!r}")
    return SourceFile(path, size, f"{commit} {identity}")


def _cached_file(snapshot: Path, path: Path, name: str) -> SourceFile:
    """A file of the cache; its blob is named by its hash or git id, just as the hub lists it."""
    try:
        blob = _blob(snapshot, path)
        size = blob.stat().st_size
        if re.fullmatch(r"[0-9a-f]{64}", blob.name):
            identity = f"sha256:{blob.name}"
        elif re.fullmatch(r"[0-9a-f]{40}", blob.name):
            identity = f"git:{blob.name}"
        else:
            identity = f"sha256:{hash_file(blob, NoProgress(), limit=size).sha256}"
    except OSError as error:
        raise LoradockError("source_unavailable", f"the hub's cache: {type(error).__name__}") from None
    return SourceFile(name, size, f"{snapshot.name} {identity}")


def _blob(snapshot: Path, path: Path) -> Path:
    """The plain file behind a name of a snapshot: a link into the repository's `blobs`, two folders up."""
    blob = path.resolve(strict=True)
    if snapshot.parent.parent not in blob.parents or not blob.is_file():
        raise LoradockError("source_not_allowed", f"{path.name!r} leads out of the hub's cache")
    return blob


def _parted(file: SourceFile) -> tuple[str, Any, str]:
    """Commit, a digest that is ready for the content, and what it must come to."""
    commit, _, identity = file.identity.partition(" ")
    kind, _, expected = identity.partition(":")
    if kind == "sha256":
        return commit, hashlib.sha256(), expected
    digest = hashlib.sha1(usedforsecurity=False)
    digest.update(f"blob {file.size}\0".encode())
    return commit, digest, expected


@contextmanager
def _hub_errors(what: str) -> Iterator[None]:
    try:
        yield
    except GatedRepoError:
        raise LoradockError("source_denied", f"{what}: the repository is gated") from None
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        # The hub says "not found" for what the token may not see.
        raise LoradockError("source_not_found", f"{what}: {_kind(error)}") from None
    except LocalEntryNotFoundError:
        raise LoradockError("source_not_found", f"{what}: it is not in the cache") from None
    except OfflineModeIsEnabled:
        raise LoradockError("source_unavailable", f"{what}: the hub client is offline") from None
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else 0
        code = {401: "source_denied", 403: "source_denied", 404: "source_not_found"}.get(
            status, "source_unavailable"
        )
        raise LoradockError(code, f"{what}: HTTP {status}") from None
    except HFValidationError:
        raise LoradockError("invalid_source_uri", f"{what}: it is no repository's name") from None
    except LoradockError:
        raise
    except (
        Exception
    ) as error:  # the client's HTTP library has a tree of its own, and answers are parsed unchecked
        raise LoradockError("source_unavailable", f"{what}: {type(error).__name__}") from None


def _kind(error: Exception) -> str:
    return (
        "no such revision"
        if isinstance(error, RevisionNotFoundError)
        else "no such repository, or no right to see it"
    )
