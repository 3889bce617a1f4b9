"""`s3://bucket/prefix`: a folder in a bucket of any S3-compatible store."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Final

from loradock.artifacts.paths import check_relative_path
from loradock.artifacts.protocol import Progress, Reader, SourceFile
from loradock.artifacts.s3 import CLIENT_ATTEMPTS, BodyReader, s3_errors
from loradock.artifacts.sources.address import BucketFolder, bucket_folder
from loradock.artifacts.sources.places import AllowedPlaces
from loradock.artifacts.sources.steady import Patience, steady_reader
from loradock.core.errors import LoradockError

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

_ERRORS: Final = {
    "denied": "source_denied",
    "missing": "source_not_found",
    "changed": "source_changed",
    "unavailable": "source_unavailable",
}
# What was listed a moment ago and is not there now was changed, not mistyped.
_FETCH_ERRORS: Final = {**_ERRORS, "missing": "source_changed"}


class S3Source:
    """Reads folders in the allowed buckets. An object's identity is its ETag and size.

    Args:
        client: made by `s3_client`.
        buckets: `bucket` or `bucket/prefix` that addresses may name, `*` for any; none denies everything.
        max_files: most objects that one folder may have.
        client_for: another client for some addresses (credentials of their own); None is `client`.
    """

    def __init__(
        self,
        client: "S3Client",
        buckets: Collection[str],
        *,
        max_files: int = 1000,
        client_for: "Callable[[str], S3Client | None]" = lambda _: None,
        patience: Patience | None = None,
    ) -> None:
        self._client = client
        self._client_for = client_for
        self._buckets = AllowedPlaces(buckets)
        self._max_files = max_files
        self._patience = patience or Patience()
        # boto3 tries listings again by itself, each within a stall's time: here only a cancel is heard.
        self._listing = replace(
            self._patience, attempts=1, stall_seconds=self._patience.stall_seconds * (CLIENT_ATTEMPTS + 1)
        )

    def exists(self, uri: str) -> bool:
        """As `Source.exists`: whether any object lies below the address."""
        folder = self._folder(uri)
        try:
            with s3_errors(_name(folder), **_ERRORS):
                answer = self._chosen(uri).list_objects_v2(
                    Bucket=folder.bucket, Prefix=folder.prefix, MaxKeys=1
                )
        except LoradockError as error:
            if error.code == "source_not_found":
                return False
            raise
        return bool(answer.get("Contents"))

    def list(self, uri: str, progress: Progress | None = None) -> list[SourceFile]:
        """As `Source.list`."""
        folder = self._folder(uri)
        files = self._listing.call(lambda: self._list(folder, self._chosen(uri)), _name(folder), progress)
        if not files:
            raise LoradockError("source_not_found", f"{_name(folder)}: there are no objects")
        return [*files]

    def fetch(
        self, uri: str, file: SourceFile, progress: Progress | None = None
    ) -> AbstractContextManager[Reader]:
        """As `Source.fetch`; the store itself refuses when the ETag is another one by now."""
        folder = self._folder(uri)
        key = folder.prefix + _checked(file.path)
        what = f"s3://{folder.bucket}/{key}"

        def open_at(offset: int) -> AbstractContextManager[Reader]:
            return self._opened(self._chosen(uri), folder.bucket, key, file, offset)

        return steady_reader(open_at, file.size, what, self._patience, progress)

    def _list(self, folder: BucketFolder, client: "S3Client") -> "Sequence[SourceFile]":
        with s3_errors(_name(folder), **_ERRORS):
            return sorted(self._listed(folder, client), key=lambda file: file.path)

    @contextmanager
    def _opened(
        self, client: "S3Client", bucket: str, key: str, file: SourceFile, offset: int
    ) -> Iterator[Reader]:
        what = f"s3://{bucket}/{key}"
        wanted = {"Bucket": bucket, "Key": key, "IfMatch": _etag(file.identity)}
        if offset:
            wanted["Range"] = f"bytes={offset}-"
        with s3_errors(what, **_FETCH_ERRORS):
            answer = client.get_object(**wanted)  # type: ignore[arg-type]
        with closing(answer["Body"]) as body:
            if offset and answer["ResponseMetadata"]["HTTPStatusCode"] != 206:
                raise LoradockError(
                    "source_unavailable", f"{what}: it broke off, and the store knows no ranges"
                )
            if _identity(answer["ETag"], answer["ContentLength"] + offset) != file.identity:
                raise LoradockError("source_changed", f"{what}: it is another object than the one listed")
            yield BodyReader(body, file.size - offset, what, _FETCH_ERRORS)

    def _chosen(self, uri: str) -> "S3Client":
        return self._client_for(uri) or self._client

    def _folder(self, uri: str) -> BucketFolder:
        folder = bucket_folder(uri)
        if not self._buckets.allows(f"{folder.bucket}/{folder.prefix}"):
            raise LoradockError(
                "source_not_allowed",
                f"bucket {folder.bucket!r} (or the prefix in it) is not allowed as a source",
            )
        return folder

    def _listed(self, folder: BucketFolder, client: "S3Client") -> Iterator[SourceFile]:
        budget = count(1)
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=folder.bucket, Prefix=folder.prefix)
        for page in pages:
            for item in page.get("Contents", []):
                if next(budget) > self._max_files:
                    raise LoradockError("source_too_large", f"more than {self._max_files} objects")
                if not item["Key"].startswith(folder.prefix):
                    raise LoradockError("source_not_allowed", "the store lists a key of another folder")
                path = item["Key"].removeprefix(folder.prefix)
                if not path or path.endswith("/"):
                    continue  # how some tools mark a folder
                size = item["Size"]
                yield SourceFile(_checked(path), size, _identity(item["ETag"], size))


def _checked(path: str) -> str:
    try:
        return check_relative_path(path)
    except ValueError as error:
        raise LoradockError("source_not_allowed", f"an object's key: {error}") from None


def _identity(etag: str, size: int) -> str:
    return f"{etag} {size}"


def _etag(identity: str) -> str:
    return identity.rpartition(" ")[0]


def _name(folder: BucketFolder) -> str:
    return f"s3://{folder.bucket}/{folder.prefix}"
