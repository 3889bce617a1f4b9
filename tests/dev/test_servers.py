"""The embedded servers do what the rest of the project relies on."""

import base64
import hashlib
from concurrent.futures import ThreadPoolExecutor

import boto3
import psycopg
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client

from loradock.dev.search_attributes import search_attribute_types
from tests.fixtures.infra import ObjectStoreServer


def _client(server: ObjectStoreServer, secret: str | None = None):  # type: ignore[no-untyped-def]
    return boto3.client(
        "s3",
        endpoint_url=server.endpoint,
        region_name=server.region,
        aws_access_key_id=server.access_key_id,
        aws_secret_access_key=secret or server.secret_access_key,
        config=Config(signature_version="s3v4", retries={"total_max_attempts": 1}),
    )


def test_each_test_gets_an_empty_database_of_postgres_18(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        version = connection.execute("show server_version_num").fetchone()
        tables = connection.execute("select count(*) from pg_tables where schemaname = 'public'").fetchone()
    assert version is not None and int(version[0]) // 10_000 == 18
    assert tables == (0,)


def test_postgres_refuses_a_wrong_password(database_url: str, embedded_postgres) -> None:  # type: ignore[no-untyped-def]
    wrong = database_url.replace(embedded_postgres.password, "wrong")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)


async def test_temporal_knows_the_search_attributes(temporal_dev_server: str) -> None:
    client = await Client.connect(temporal_dev_server)
    answer = await client.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace="default")
    )
    assert {name for name, _ in search_attribute_types()} <= set(answer.custom_attributes)


def test_the_store_refuses_a_wrong_checksum(object_store_server: ObjectStoreServer) -> None:
    bucket = object_store_server.bucket()
    wrong = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    with pytest.raises(ClientError) as caught:
        _client(object_store_server).put_object(Bucket=bucket, Key="a", Body=b"bytes", ChecksumSHA256=wrong)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_of_eight_conditional_writes_at_once_exactly_one_wins(object_store_server: ObjectStoreServer) -> None:
    bucket = object_store_server.bucket()
    client = _client(object_store_server)

    def write(number: int) -> int:
        try:
            client.put_object(Bucket=bucket, Key="a", Body=str(number).encode(), IfNoneMatch="*")
        except ClientError as error:
            return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
        return 200

    with ThreadPoolExecutor(8) as threads:
        answers = sorted(threads.map(write, range(8)))
    assert answers[0] == 200
    assert set(answers[1:]) <= {409, 412}


def test_the_store_refuses_wrong_credentials(object_store_server: ObjectStoreServer) -> None:
    with pytest.raises(ClientError) as caught:
        _client(object_store_server, secret="wrong").list_buckets()
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
