"""Uploads to a bucket: the caller sends parts straight there, by addresses signed for one part of one size each."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Final

from botocore.exceptions import ClientError

from loradock.artifacts.s3 import error_code, s3_errors, status_of
from loradock.artifacts.stores.s3 import WRITE_ERRORS
from loradock.artifacts.uploads.area import check_declared, file_key
from loradock.core.errors import LoradockError
from loradock.core.models import ManifestFile
from loradock.core.uploads import (
    DeclaredUpload,
    FileParts,
    PartAddress,
    ReceivedFile,
    UploadTransfer,
    UploadWriter,
)

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import CompletedPartTypeDef, PartTypeDef

PART_BYTES: Final = 8 * 1024 * 1024
MOST_PARTS: Final = 10_000
"""S3 takes no more of one object."""
SIGNED_SECONDS: Final = 15 * 60
"""How long an address is good."""


class S3Uploads:
    """As `UploadPlace`: every file is a multipart upload, so that an address is worth nothing once the session ended.

    Args:
        client: made by `s3_client`.
        public: signs the addresses that callers use, where they reach the store elsewhere.
        prefix: the store's own, empty or ending with a slash.
        max_bytes: of one session.
    """

    transfer = UploadTransfer.PARTS

    def __init__(
        self,
        client: "S3Client",
        bucket: str,
        prefix: str = "",
        *,
        max_bytes: int,
        public: "S3Client | None" = None,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self._client = client
        self._public = public or client
        self._bucket = bucket
        self._prefix = prefix
        self._max_bytes = max_bytes
        self._part_bytes = part_bytes

    def check(self, files: Sequence[ManifestFile]) -> DeclaredUpload:
        """As `UploadPlace.check`."""
        return check_declared(files, max_bytes=self._max_bytes)

    def begin(self, session: str, files: Sequence[ManifestFile]) -> dict[str, str]:
        """As `UploadPlace.begin`: the number that the store gives each multipart upload."""
        begun = {}
        for file in files:
            if file.size:
                key = self._key(session, file)
                with self._errors(key):
                    answer = self._client.create_multipart_upload(Bucket=self._bucket, Key=key)
                begun[file.path] = answer["UploadId"]
        return begun

    def forget(self, session: str, begun: Mapping[str, str]) -> None:
        """As `UploadPlace.forget`."""
        for path, upload in begun.items():
            key = self._prefix + file_key(session, path)
            with self._errors(key):
                self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload)

    def received(
        self, session: str, files: Sequence[ManifestFile], begun: Mapping[str, str]
    ) -> list[ReceivedFile]:
        """As `UploadPlace.received`."""
        return [self._received(session, file, begun) for file in files]

    def part_addresses(
        self, session: str, file: ManifestFile, begun: Mapping[str, str], numbers: Sequence[int]
    ) -> list[PartAddress]:
        """As `UploadPlace.part_addresses`; the length is signed too."""
        parts = self._parts(file)
        if not all(1 <= number <= parts.count for number in numbers):
            raise LoradockError("invalid_request", f"{file.path} has the parts 1 to {parts.count}")
        key = self._key(session, file)
        addresses = []
        for number in numbers:
            with self._errors(key):
                url = self._public.generate_presigned_url(
                    "upload_part",
                    Params={
                        "Bucket": self._bucket,
                        "Key": key,
                        "UploadId": begun[file.path],
                        "PartNumber": number,
                        "ContentLength": parts.size_of(number),
                    },
                    ExpiresIn=SIGNED_SECONDS,
                )
            addresses.append(PartAddress(number=number, url=url, size=parts.size_of(number)))
        return addresses

    def writer(self, session: str, file: ManifestFile, offset: int) -> AbstractContextManager[UploadWriter]:
        """As `UploadPlace.writer`: never."""
        raise LoradockError(
            "invalid_request", "bytes go straight to the object store here: ask for addresses"
        )

    def complete(self, session: str, files: Sequence[ManifestFile], begun: Mapping[str, str]) -> None:
        """As `UploadPlace.complete`."""
        for file in files:
            if not self._is_whole(session, file):
                self._complete(session, file, begun)

    def _complete(self, session: str, file: ManifestFile, begun: Mapping[str, str]) -> None:
        key = self._key(session, file)
        if not file.size:
            with self._errors(key):
                self._client.put_object(Bucket=self._bucket, Key=key, Body=b"")
            return
        found = self._sent(session, file, begun)
        missing = self._parts(file).count - len(found)
        if missing:
            raise LoradockError(
                "upload_incomplete", f"{missing} parts of {file.path} are missing", path=file.path
            )
        parts: list[CompletedPartTypeDef] = [
            {"PartNumber": number, "ETag": found[number]["ETag"]} for number in sorted(found)
        ]
        with self._errors(key):
            try:
                self._client.complete_multipart_upload(
                    Bucket=self._bucket, Key=key, UploadId=begun[file.path], MultipartUpload={"Parts": parts}
                )
            except ClientError as error:
                # Another call for the same came before us.
                if error_code(error) != "NoSuchUpload" or not self._is_whole(session, file):
                    raise
        if not self._is_whole(session, file):
            raise LoradockError("store_unavailable", f"{file.path}: the store did not keep what it took")

    def _received(self, session: str, file: ManifestFile, begun: Mapping[str, str]) -> ReceivedFile:
        parts = self._parts(file)
        if self._is_whole(session, file):
            numbers = tuple(range(1, parts.count + 1))
            return ReceivedFile(received=file.size, complete=True, part_bytes=parts.part_bytes, parts=numbers)
        numbers = tuple(sorted(self._sent(session, file, begun)))
        received = sum(parts.size_of(number) for number in numbers)
        return ReceivedFile(received=received, complete=False, part_bytes=parts.part_bytes, parts=numbers)

    def _sent(self, session: str, file: ManifestFile, begun: Mapping[str, str]) -> "dict[int, PartTypeDef]":
        """The parts of the right size that are there; others count as missing, and are sent again."""
        upload = begun.get(file.path)
        if upload is None:
            return {}
        key, parts = self._key(session, file), self._parts(file)
        pages = self._client.get_paginator("list_parts").paginate(
            Bucket=self._bucket, Key=key, UploadId=upload
        )
        with self._errors(key):
            try:
                listed = [part for page in pages for part in page.get("Parts", [])]
            except ClientError as error:
                if status_of(error) == 404:
                    return {}
                raise
        return {
            part["PartNumber"]: part
            for part in listed
            if 1 <= part["PartNumber"] <= parts.count and part["Size"] == parts.size_of(part["PartNumber"])
        }

    def _is_whole(self, session: str, file: ManifestFile) -> bool:
        key = self._key(session, file)
        with self._errors(key):
            try:
                answer = self._client.head_object(Bucket=self._bucket, Key=key)
            except ClientError as error:
                if status_of(error) == 404:
                    return False
                raise
        return answer["ContentLength"] == file.size

    def _parts(self, file: ManifestFile) -> FileParts:
        return FileParts(size=file.size, part_bytes=max(self._part_bytes, -(-file.size // MOST_PARTS)))

    def _key(self, session: str, file: ManifestFile) -> str:
        return self._prefix + file_key(session, file.path)

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        with s3_errors(f"s3://{self._bucket}/{key}", **WRITE_ERRORS):
            yield
