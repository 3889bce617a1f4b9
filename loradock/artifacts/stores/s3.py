"""An object store in a bucket: every PUT checksummed, large files in parts that never stay behind."""

import hashlib
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import ClientError

from loradock.artifacts.bandwidth import Bandwidth
from loradock.artifacts.disk import disk_errors
from loradock.artifacts.hashing import Copied
from loradock.artifacts.paths import check_relative_path
from loradock.artifacts.protocol import UPLOADS, ObjectInfo, Progress, Reader
from loradock.artifacts.s3 import STALL_SECONDS, BodyReader, error_code, s3_errors, status_of
from loradock.artifacts.stores.s3_sending import PART_BYTES, UPLOAD_PARTS, ObjectSender
from loradock.core.errors import LoradockError

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import MultipartUploadTypeDef

CONFLICT_ATTEMPTS: Final = 5

_ERRORS: Final = {
    "denied": "store_denied",
    "missing": "artifact_missing",
    "changed": "store_unavailable",
    "unavailable": "store_unavailable",
}
WRITE_ERRORS: Final = {**_ERRORS, "missing": "store_unavailable"}
_NO_BUCKET: Final = "NoSuchBucket"


class S3Store:
    """Objects below a prefix of one bucket.

    Args:
        client: made by `s3_client`.
        prefix: empty or ending with a slash.
        part_bytes: files up to this size go in one request, larger ones in parts of it; S3 wants at least 5 MiB.
        parts: how many of them are sent at once; each is held in memory.
        stall_seconds: a body that brings nothing for so long has broken off.
        bandwidth: a limit on what is sent.
    """

    def __init__(
        self,
        client: "S3Client",
        bucket: str,
        prefix: str = "",
        *,
        part_bytes: int = PART_BYTES,
        parts: int = UPLOAD_PARTS,
        stall_seconds: float = STALL_SECONDS,
        bandwidth: Bandwidth | None = None,
    ) -> None:
        self._sender = ObjectSender(client, bucket, part_bytes=part_bytes, parts=parts, bandwidth=bandwidth)
        self._stall_seconds = stall_seconds
        self._client = client
        self._bucket = bucket
        self._prefix = prefix

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """As `ObjectStore.put_if_absent`."""
        full = self._key(key)
        checksum = b64encode(hashlib.sha256(data).digest()).decode()
        for _ in range(CONFLICT_ATTEMPTS):
            with self._errors(key, WRITE_ERRORS):
                try:
                    self._client.put_object(
                        Bucket=self._bucket, Key=full, Body=data, ChecksumSHA256=checksum, IfNoneMatch="*"
                    )
                except ClientError as error:
                    if status_of(error) == 412:
                        return False
                    if status_of(error) != 409:  # 409: another conditional write is under way
                        raise
                else:
                    return True
        raise LoradockError("store_unavailable", f"{self._name(key)}: too many writers at once")

    def put_file(self, key: str, path: Path, *, size: int, sha256: str, progress: Progress) -> None:
        """As `ObjectStore.put_file`."""
        with disk_errors("reading a staged file"):
            file = path.open("rb")
        announced = Copied(size, sha256)
        with file:
            self._sender.send(
                self._key(key), file, announced, progress, errors=lambda: self._errors(key, WRITE_ERRORS)
            )
        self._check_size(key, size)

    @contextmanager
    def open(self, key: str, *, start: int = 0, length: int | None = None) -> Iterator[Reader]:
        """As `ObjectStore.open`."""
        wanted: dict[str, str] = {"Bucket": self._bucket, "Key": self._key(key)}
        if start or length is not None:
            wanted["Range"] = f"bytes={start}-{'' if length is None else start + length - 1}"
        with self._errors(key, _ERRORS):
            answer = self._client.get_object(**wanted)  # type: ignore[arg-type]
            if "Range" in wanted and not answer.get("ContentRange", "").startswith(f"bytes {start}-"):
                raise LoradockError("store_unavailable", f"{self._name(key)}: the store gives no ranges")
        with closing(answer["Body"]) as body:
            if answer["ContentLength"]:
                body.set_socket_timeout(self._stall_seconds)
            yield _S3Reader(body, answer["ContentLength"], self._name(key), _ERRORS)

    def head(self, key: str) -> ObjectInfo | None:
        """As `ObjectStore.head`."""
        full = self._key(key)
        with self._errors(key, _ERRORS):
            try:
                answer = self._client.head_object(Bucket=self._bucket, Key=full)
            except ClientError as error:
                if status_of(error) == 404:
                    return None
                raise
        return ObjectInfo(key, answer["ContentLength"], answer["Metadata"].get("sha256"))

    def delete(self, key: str) -> None:
        """As `ObjectStore.delete`."""
        full = self._key(key)
        with self._errors(key, WRITE_ERRORS):
            self._client.delete_object(Bucket=self._bucket, Key=full)

    def sweep(self, older_than_seconds: float) -> "list[str]":
        """As `ObjectStore.sweep`: uploads in parts that were begun so long ago and not ended."""
        limit = datetime.now(UTC) - timedelta(seconds=older_than_seconds)
        swept = []
        with self._errors("", WRITE_ERRORS):
            for upload in self._multipart_uploads(""):
                key = upload["Key"].removeprefix(self._prefix)
                if upload["Initiated"] <= limit and not key.startswith(UPLOADS):
                    self._abort(upload)
                    swept.append(key)
        return swept

    def unfinished(self, prefix: str) -> Iterator[str]:
        """As `ObjectStore.unfinished`."""
        with self._errors(prefix, WRITE_ERRORS):
            for upload in self._multipart_uploads(prefix):
                yield upload["Key"].removeprefix(self._prefix)

    def abandon(self, prefix: str) -> None:
        """As `ObjectStore.abandon`."""
        with self._errors(prefix, WRITE_ERRORS):
            for upload in list(self._multipart_uploads(prefix)):
                self._abort(upload)

    def _multipart_uploads(self, prefix: str) -> "Iterator[MultipartUploadTypeDef]":
        full = self._prefix + prefix
        pages = self._client.get_paginator("list_multipart_uploads").paginate(
            Bucket=self._bucket, Prefix=full
        )
        for page in pages:
            for upload in page.get("Uploads", []):
                if upload["Key"].startswith(full):
                    yield upload

    def _abort(self, upload: "MultipartUploadTypeDef") -> None:
        try:
            self._client.abort_multipart_upload(
                Bucket=self._bucket, Key=upload["Key"], UploadId=upload["UploadId"]
            )
        except ClientError as error:
            if status_of(error) != 404:  # it has ended meanwhile
                raise

    def _check_size(self, key: str, size: int) -> None:
        info = self.head(key)
        if info is None or info.size != size:
            raise LoradockError(
                "store_unavailable", f"{self._name(key)}: the store did not keep what it took"
            )

    @contextmanager
    def _errors(self, key: str, codes: dict[str, str]) -> Iterator[None]:
        with s3_errors(self._name(key), **codes):
            try:
                yield
            except ClientError as error:
                if error_code(error) == _NO_BUCKET:
                    raise LoradockError(
                        "store_unavailable", f"bucket {self._bucket!r} does not exist"
                    ) from None
                raise

    def _key(self, key: str) -> str:
        return self._prefix + _checked(key)

    def _name(self, key: str) -> str:
        return f"s3://{self._bucket}/{self._prefix}{key}"

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """As `ObjectStore.list`."""
        full = self._prefix + (_checked(prefix.rstrip("/")) + "/" if prefix else "")
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=full)
        with self._errors(prefix, WRITE_ERRORS):
            for page in pages:
                for item in page.get("Contents", []):
                    yield ObjectInfo(item["Key"].removeprefix(self._prefix), item["Size"])


class _S3Reader(BodyReader):
    """A body whose read can be broken off by another thread."""

    def cancel(self) -> None:
        """End a read that waits; it raises."""
        raw: Any = self._body
        # Not possible on every kind of connection; there the stall limit ends it.
        with suppress(AttributeError, RuntimeError, ValueError, OSError):
            raw._raw_stream.shutdown()


def _checked(key: str) -> str:
    try:
        return check_relative_path(key)
    except ValueError as error:
        raise LoradockError("artifact_missing", f"no object can have this key: {error}") from None
