"""The S3 source's own dangers: permissions, keys that escape, many pages."""

import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from loradock.artifacts.s3 import s3_client
from loradock.artifacts.sources.s3 import S3Source
from tests.artifacts.helpers import read_all, refused
from tests.artifacts.hostile_s3 import HostileS3, hostile_s3
from tests.fixtures.infra import ObjectStoreServer

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client


def test_without_buckets_everything_is_denied(s3: "S3Client") -> None:
    with refused("source_not_allowed"):
        S3Source(s3, []).list("s3://bucket/a")


def test_a_star_allows_any_bucket(s3: "S3Client", object_store_server: ObjectStoreServer) -> None:
    bucket = object_store_server.bucket()
    s3.put_object(Bucket=bucket, Key="a/x", Body=b"1")
    assert S3Source(s3, ["*"]).exists(f"s3://{bucket}/a")


def test_the_whole_bucket_can_be_the_folder(s3: "S3Client", object_store_server: ObjectStoreServer) -> None:
    bucket = object_store_server.bucket()
    s3.put_object(Bucket=bucket, Key="x", Body=b"1")
    assert [file.path for file in S3Source(s3, [bucket]).list(f"s3://{bucket}")] == ["x"]


def test_a_bucket_that_does_not_exist_is_not_found(s3: "S3Client") -> None:
    source = S3Source(s3, ["no-such-bucket-here"])
    with refused("source_not_found"):
        source.list("s3://no-such-bucket-here/a")
    assert not source.exists("s3://no-such-bucket-here/a")


def test_wrong_credentials_are_told_without_repeating_them(
    object_store_server: ObjectStoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = object_store_server.bucket()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", object_store_server.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-wrong-SECRET")
    client = s3_client(endpoint=object_store_server.endpoint, region="us-east-1")
    with refused("source_denied") as caught:
        S3Source(client, [bucket]).list(f"s3://{bucket}/a")
    assert "SECRET" not in str(caught.value)
    assert object_store_server.access_key_id not in str(caught.value)


def test_a_store_that_does_not_answer_can_be_tried_again(s3: "S3Client") -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        client = s3_client(endpoint=f"http://127.0.0.1:{taken.getsockname()[1]}", region="us-east-1")
        with refused("source_unavailable") as caught:
            S3Source(client, ["bucket"]).list("s3://bucket/a")
    assert caught.value.retryable


def test_markers_of_folders_are_no_files(s3: "S3Client", object_store_server: ObjectStoreServer) -> None:
    bucket = object_store_server.bucket()
    s3.put_object(Bucket=bucket, Key="a/", Body=b"")
    s3.put_object(Bucket=bucket, Key="a/x", Body=b"1")
    assert [file.path for file in S3Source(s3, [bucket]).list(f"s3://{bucket}/a")] == ["x"]


@pytest.mark.slow
def test_more_than_one_page_is_listed(s3: "S3Client", object_store_server: ObjectStoreServer) -> None:
    bucket = object_store_server.bucket()
    for index in range(1005):
        s3.put_object(Bucket=bucket, Key=f"a/{index:05}", Body=b"")
    listed = S3Source(s3, [bucket], max_files=2000).list(f"s3://{bucket}/a")
    assert [file.path for file in listed] == [f"{index:05}" for index in range(1005)]


@pytest.fixture
def lying(s3: "S3Client") -> Iterator[tuple[HostileS3, S3Source]]:
    with hostile_s3() as server:
        yield server, S3Source(s3_client(endpoint=server.endpoint, region="us-east-1"), ["bucket"])


@pytest.mark.parametrize(
    "key", ["a/../b", "a//b", "a/./b", "a/x\\y", "b/elsewhere", "a/" + "x" * 300, "a/x\ty"]
)
def test_a_key_that_is_no_plain_path_in_the_folder_is_refused(
    lying: tuple[HostileS3, S3Source], key: str
) -> None:
    server, source = lying
    server.keys = {"a/fine": 1, key: 1}
    with refused("source_not_allowed"):
        source.list("s3://bucket/a")


def test_a_body_shorter_than_announced_can_be_tried_again(lying: tuple[HostileS3, S3Source]) -> None:
    server, source = lying
    server.keys, server.body, server.announced = {"a/x": 9}, b"1234", 9
    (file,) = source.list("s3://bucket/a")
    with refused("source_unavailable"):
        read_all(source.fetch("s3://bucket/a", file))


def test_a_body_of_another_size_than_listed_has_changed(lying: tuple[HostileS3, S3Source]) -> None:
    server, source = lying
    server.keys, server.body = {"a/x": 9}, b"1234"
    (file,) = source.list("s3://bucket/a")
    with refused("source_changed"):
        read_all(source.fetch("s3://bucket/a", file))


@pytest.mark.parametrize(
    ("status", "code", "most"),
    [
        (403, "source_denied", 1),
        (401, "source_denied", 1),
        (404, "source_not_found", 1),
        (503, "source_unavailable", 3),
    ],
)
def test_only_what_can_heal_is_asked_again(
    lying: tuple[HostileS3, S3Source], status: int, code: str, most: int
) -> None:
    server, source = lying
    server.status = status
    with refused(code):
        source.list("s3://bucket/a")
    assert len(server.requests) == most


def test_a_body_is_read_even_when_the_object_is_replaced_or_the_change_is_told(
    s3: "S3Client", object_store_server: ObjectStoreServer
) -> None:
    """Whatever the store does with a reader when the object changes: never a mixture of old and new."""
    bucket = object_store_server.bucket()
    source = S3Source(s3, [bucket])
    old, new = b"o" * 9_000_000, b"n" * 9_000_000
    s3.put_object(Bucket=bucket, Key="a/x", Body=old)
    (file,) = source.list(f"s3://{bucket}/a")
    data = bytearray()
    buffer = memoryview(bytearray(1_000_000))
    with source.fetch(f"s3://{bucket}/a", file) as reader:
        count = reader.readinto(buffer)
        data += buffer[:count]
        s3.put_object(Bucket=bucket, Key="a/x", Body=new)
        while count := reader.readinto(buffer):
            data += buffer[:count]
    assert bytes(data) == old
    with refused("source_changed"):
        read_all(source.fetch(f"s3://{bucket}/a", file))
