"""The S3 store's own dangers: checksums, parts that stay behind, a bucket that is not there."""

import hashlib
import os
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from botocore.exceptions import ClientError

from loradock.artifacts.protocol import NoProgress
from loradock.artifacts.s3 import s3_client
from loradock.artifacts.stores.s3 import S3Store
from tests.artifacts.helpers import Cancelled, Counting, read_all, refused
from tests.artifacts.hostile_s3 import hostile_s3
from tests.fixtures.infra import ObjectStoreServer

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

MIB = 1024 * 1024


@pytest.fixture
def bucket(object_store_server: ObjectStoreServer) -> str:
    return object_store_server.bucket()


def test_the_server_that_we_test_with_refuses_a_wrong_checksum(s3: "S3Client", bucket: str) -> None:
    wrong = b64encode(hashlib.sha256(b"other").digest()).decode()
    with pytest.raises(ClientError):
        s3.put_object(Bucket=bucket, Key="a", Body=b"data", ChecksumSHA256=wrong)
    upload = s3.create_multipart_upload(Bucket=bucket, Key="b", ChecksumAlgorithm="CRC32")["UploadId"]
    with pytest.raises(ClientError):
        s3.upload_part(
            Bucket=bucket, Key="b", UploadId=upload, PartNumber=1, Body=b"data", ChecksumCRC32="AAAAAA=="
        )
    s3.abort_multipart_upload(Bucket=bucket, Key="b", UploadId=upload)


@pytest.mark.parametrize("wrong", [False, True])
def test_an_upload_that_fails_leaves_no_parts(
    s3: "S3Client", bucket: str, tmp_path: Path, wrong: bool
) -> None:
    store = S3Store(s3, bucket, part_bytes=5 * MIB)
    data = os.urandom(11 * MIB)
    (tmp_path / "f").write_bytes(data)

    def cancel(size: int) -> None:
        if size > 6 * MIB and not wrong:
            raise Cancelled

    sha256 = "0" * 64 if wrong else hashlib.sha256(data).hexdigest()
    with refused("artifact_corrupt") if wrong else pytest.raises(Cancelled):
        store.put_file("a", tmp_path / "f", size=len(data), sha256=sha256, progress=Counting(cancel))
    assert not s3.list_multipart_uploads(Bucket=bucket).get("Uploads")
    assert store.head("a") is None


def test_the_hash_is_noted_with_the_object(s3: "S3Client", bucket: str, tmp_path: Path) -> None:
    store = S3Store(s3, bucket, "p/", part_bytes=5 * MIB)
    for size in (10, 6 * MIB):
        data = os.urandom(size)
        (tmp_path / "f").write_bytes(data)
        sha256 = hashlib.sha256(data).hexdigest()
        store.put_file("a", tmp_path / "f", size=size, sha256=sha256, progress=NoProgress())
        info = store.head("a")
        assert info is not None
        assert info.sha256 == sha256


def test_two_prefixes_are_two_stores(s3: "S3Client", bucket: str) -> None:
    one, two = S3Store(s3, bucket, "one/"), S3Store(s3, bucket, "two/")
    assert one.put_if_absent("a", b"1")
    assert two.put_if_absent("a", b"2")
    assert [info.key for info in one.list("")] == ["a"]
    assert read_all(one.open("a")) == b"1"


def test_a_bucket_that_does_not_exist_is_the_stores_fault(s3: "S3Client", tmp_path: Path) -> None:
    store = S3Store(s3, "no-such-bucket-here")
    (tmp_path / "f").write_bytes(b"")
    with refused("store_unavailable"):
        store.put_if_absent("a", b"1")
    with refused("store_unavailable"):
        read_all(store.open("a"))
    with refused("store_unavailable"):
        list(store.list(""))
    with refused("store_unavailable"):
        store.put_file(
            "a", tmp_path / "f", size=0, sha256=hashlib.sha256().hexdigest(), progress=NoProgress()
        )


def test_wrong_credentials_are_denied(
    object_store_server: ObjectStoreServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", object_store_server.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-SECRET")
    store = S3Store(s3_client(endpoint=object_store_server.endpoint, region="us-east-1"), bucket)
    for call in (
        lambda: store.put_if_absent("a", b"1"),
        lambda: store.head("a"),
        lambda: list(store.list("")),
    ):
        with refused("store_denied") as caught:
            call()
        assert "SECRET" not in str(caught.value)


def test_a_cut_body_can_be_tried_again(s3: "S3Client") -> None:
    with hostile_s3() as server:
        server.body, server.announced = b"1234", 9
        store = S3Store(s3_client(endpoint=server.endpoint, region="us-east-1"), "bucket")
        with refused("store_unavailable") as caught:
            read_all(store.open("a"))
    assert caught.value.retryable
