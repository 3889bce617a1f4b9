"""Sending a file to a bucket: checksummed, in parts when it is large, stopped at once, and never left behind half sent."""

import hashlib
import os
import threading
import zlib
from base64 import b64encode
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from loradock.artifacts.bandwidth import Bandwidth
from loradock.artifacts.disk import disk_errors
from loradock.artifacts.hashing import Copied
from loradock.artifacts.protocol import Progress
from loradock.artifacts.transfer import TICK_SECONDS
from loradock.core.errors import LoradockError

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_s3.type_defs import CompletedPartTypeDef

PART_BYTES: Final = 16 * 1024 * 1024
"""S3 takes 10,000 parts of one object: 160 GB."""
UPLOAD_PARTS: Final = 3
_PIECE: Final = 256 * 1024
_READING: Final = "reading a staged file"

Errors = Callable[[], AbstractContextManager[None]]
"""Turns what the client raises into our errors."""
Result = TypeVar("Result")


class ObjectSender:
    """Sends files to one bucket.

    Args:
        part_bytes: files up to this size go in one request, larger ones in parts of it; S3 wants at least 5 MiB.
        parts: how many of them are sent at once; each is held in memory.
        bandwidth: a limit on what is sent.
    """

    def __init__(
        self, client: "S3Client", bucket: str, *, part_bytes: int, parts: int, bandwidth: Bandwidth | None
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._part_bytes = part_bytes
        self._parts = parts
        self._bandwidth = bandwidth

    def send(
        self, key: str, file: BinaryIO, announced: Copied, progress: Progress, *, errors: Errors
    ) -> None:
        """Put a file under a key; the object comes to be only when the file had the announced size and hash.

        Raises:
            LoradockError: `artifact_corrupt` when it had not; what `errors` makes; `disk_error`.
        """
        with ThreadPoolExecutor(self._parts, thread_name_prefix="send") as pool:
            sending = _Sending(self._client, self._bucket, key, errors, pool, self._bandwidth)
            try:
                if announced.size <= self._part_bytes:
                    sending.whole(file, announced, progress)
                else:
                    sending.in_parts(
                        file, announced, progress, part_bytes=self._part_bytes, at_once=self._parts
                    )
            except BaseException:
                sending.stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise


@dataclass(slots=True)
class _Sending:
    """One file on its way. The caller's thread reads, hashes and waits in slices; the pool's threads send."""

    client: "S3Client"
    bucket: str
    key: str
    errors: Errors
    pool: ThreadPoolExecutor
    bandwidth: Bandwidth | None
    stopped: threading.Event = field(default_factory=threading.Event)

    def whole(self, file: BinaryIO, announced: Copied, progress: Progress) -> None:
        """Send all in one request."""
        with disk_errors(_READING):
            data = file.read(announced.size + 1)
        self._check(Copied(len(data), hashlib.sha256(data).hexdigest()), announced)
        _result(self.pool.submit(self._put, data, announced.sha256), progress)
        progress.advance(len(data))

    def in_parts(
        self, file: BinaryIO, announced: Copied, progress: Progress, *, part_bytes: int, at_once: int
    ) -> None:
        """Send part by part; only when the whole had the announced hash does the object come to be."""
        with self.errors():
            upload = self.client.create_multipart_upload(
                Bucket=self.bucket,
                Key=self.key,
                ChecksumAlgorithm="CRC32",
                Metadata={"sha256": announced.sha256},
            )["UploadId"]
        try:
            parts = self._parts(upload, file, announced, progress, part_bytes=part_bytes, at_once=at_once)
            with self.errors():
                self.client.complete_multipart_upload(
                    Bucket=self.bucket, Key=self.key, UploadId=upload, MultipartUpload={"Parts": parts}
                )
        except BaseException:
            self.stopped.set()
            with suppress(ClientError, BotoCoreError):
                self.client.abort_multipart_upload(Bucket=self.bucket, Key=self.key, UploadId=upload)
            raise

    def _parts(
        self,
        upload: str,
        file: BinaryIO,
        announced: Copied,
        progress: Progress,
        *,
        part_bytes: int,
        at_once: int,
    ) -> "list[CompletedPartTypeDef]":
        """Several parts are on their way while the next one is read and the whole is hashed."""
        digest, sent = hashlib.sha256(), 0
        parts: list[CompletedPartTypeDef] = []
        waiting: deque[tuple[Future[CompletedPartTypeDef], int]] = deque()

        def take_first() -> None:
            future, size = waiting.popleft()
            parts.append(_result(future, progress))
            progress.advance(size)

        while sent <= announced.size:
            with disk_errors(_READING):
                data = file.read(part_bytes)
            if not data:
                break
            number = len(parts) + len(waiting) + 1
            waiting.append((self.pool.submit(self._put_part, upload, number, data), len(data)))
            digest.update(data)
            sent += len(data)
            while len(waiting) >= at_once:
                take_first()
        while waiting:
            take_first()
        self._check(Copied(sent, digest.hexdigest()), announced)
        return parts

    def _put(self, data: bytes, sha256: str) -> None:
        checksum = b64encode(bytes.fromhex(sha256)).decode()
        with self.errors():
            self.client.put_object(
                Bucket=self.bucket,
                Key=self.key,
                Body=self._body(data),
                ChecksumSHA256=checksum,
                Metadata={"sha256": sha256},
            )

    def _put_part(self, upload: str, number: int, data: bytes) -> "CompletedPartTypeDef":
        checksum = b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
        with self.errors():
            answer = self.client.upload_part(
                Bucket=self.bucket,
                Key=self.key,
                UploadId=upload,
                PartNumber=number,
                Body=self._body(data),
                ChecksumCRC32=checksum,
            )
        return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumCRC32": checksum}

    def _body(self, data: bytes) -> Any:
        if self.bandwidth is not None:
            self.bandwidth.pass_through(len(data), self.stopped)
        return _Body(data, self.stopped)

    def _check(self, found: Copied, announced: Copied) -> None:
        if found != announced:
            raise LoradockError(
                "artifact_corrupt", f"the local file for {self.key} is not what was announced"
            )


def _result(future: "Future[Result]", progress: Progress) -> Result:
    while not wait([future], TICK_SECONDS).done:
        progress.advance(0)
    return future.result()


class _Stopped(BaseException):
    """Ends a send from within; no Exception, which botocore would take for the network's and try again."""


class _Body:
    """What is sent, as the HTTP client reads it, in larger pieces than it asks for, until somebody stops it."""

    def __init__(self, data: bytes, stopped: threading.Event) -> None:
        self._data = memoryview(data)
        self._at = 0
        self._stopped = stopped

    def __len__(self) -> int:
        return len(self._data)

    def read(self, size: int = -1) -> bytes:
        if self._stopped.is_set():
            raise _Stopped
        piece = self._data[self._at :] if size < 0 else self._data[self._at : self._at + max(size, _PIECE)]
        self._at += len(piece)
        return bytes(piece)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: len(self._data)}[whence]
        self._at = max(0, min(len(self._data), base + offset))
        return self._at

    def tell(self) -> int:
        return self._at
