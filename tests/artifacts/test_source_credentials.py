"""Credentials by name: found by place, read at use, and never told."""

import json
from pathlib import Path

import pytest
from pydantic import SecretStr

from loradock.artifacts.build import open_sources
from loradock.artifacts.s3 import S3Keys, s3_client
from loradock.artifacts.sources.credentials import SourceCredentials, read_aws_keys
from loradock.artifacts.sources.places import AllowedPlaces
from loradock.core.settings import Settings
from tests.artifacts.helpers import read_all, refused
from tests.fixtures.infra import ObjectStoreServer

AWS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE")
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AWS_ALLOW_HTTP")
REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*AWS, *ENDPOINTS, *REGIONS):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


def test_the_longest_place_decides() -> None:
    credentials = SourceCredentials(
        {
            "s3://bucket": "env:A",
            "s3://bucket/team": "env:B",
            "hf://acme": "env:C",
            "hf://acme/greeter": "env:D",
            "https://models.example": "file:/e",
        }
    )
    found = {
        "s3://bucket/x": "env:A",
        "s3://bucket/team/x": "env:B",
        "s3://bucket/teams/x": "env:A",
        "s3://other/x": None,
        "hf://acme/other@v1": "env:C",
        "hf://acme/greeter@v1/folder": "env:D",
        "https://MODELS.example/a/": "file:/e",
        "https://models.example:8443/a/": None,
    }
    assert {uri: credentials.name_for(uri) for uri in found} == found


@pytest.mark.parametrize("name", ["hunter2", "env:", "vault:x", "profile:x"])
def test_a_name_that_is_none_is_a_wrong_setting_and_not_repeated(name: str) -> None:
    with refused("setting_invalid") as caught:
        SourceCredentials({"hf://acme": name})
    assert "hunter2" not in str(caught.value)


def test_a_secret_is_read_at_each_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "token"
    credentials = SourceCredentials({"hf://acme": f"file:{file}", "https://host": "env:HOST_TOKEN"})
    for secret in ("one", "two"):
        file.write_text(f"{secret}\n")
        monkeypatch.setenv("HOST_TOKEN", secret)
        for uri in ("hf://acme/greeter", "https://host/a/"):
            token = credentials.token_for(uri)
            assert token is not None
            assert token.get_secret_value() == secret
            assert secret not in repr(token)
    assert credentials.token_for("hf://other/greeter") is None


@pytest.mark.parametrize("content", [None, "", "  \n", "two\nlines\x00"])
def test_a_secret_that_is_not_there_is_told_by_its_name(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    with refused("source_denied") as caught:
        SourceCredentials({"hf://acme": f"file:{file}"}).token_for("hf://acme/greeter")
    assert str(file) in str(caught.value)


def test_aws_keys_that_are_none_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    for content in ("hunter2", '{"access_key_id": "hunter2"}', '["hunter2"]'):
        monkeypatch.setenv("KEYS", content)
        with refused("source_denied") as caught:
            read_aws_keys("env:KEYS")
        assert "hunter2" not in str(caught.value)
        assert caught.value.__cause__ is None


@pytest.mark.parametrize("kind", ["env", "file", "profile"])
def test_a_bucket_is_read_with_the_keys_of_its_name(
    object_store_server: ObjectStoreServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    bucket = object_store_server.bucket()
    keys = (object_store_server.access_key_id, object_store_server.secret_access_key)
    text = json.dumps({"access_key_id": keys[0], "secret_access_key": keys[1]})
    (tmp_path / "keys").write_text(text)
    (tmp_path / "aws").write_text(f"[team]\naws_access_key_id={keys[0]}\naws_secret_access_key={keys[1]}\n")
    monkeypatch.setenv("KEYS", text)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "aws"))
    name = {"env": "env:KEYS", "file": f"file:{tmp_path / 'keys'}", "profile": "profile:team"}[kind]
    settings = Settings(
        _env_file=None,  # type: ignore[call-arg]
        source_endpoint=object_store_server.endpoint,
        source_buckets=(bucket,),
        source_credentials={f"s3://{bucket}/team": name},
        staging_dir=tmp_path / "staging",
    )
    sources = open_sources(settings)
    client = s3_client(
        endpoint=object_store_server.endpoint, keys=S3Keys(SecretStr(keys[0]), SecretStr(keys[1]))
    )
    client.put_object(Bucket=bucket, Key="team/a/x", Body=b"1")
    (file,) = sources.list(f"s3://{bucket}/team/a")
    assert read_all(sources.fetch(f"s3://{bucket}/team/a", file)) == b"1"
    with refused("source_denied"):  # the normal chain has none here
        sources.list(f"s3://{bucket}/other")
    assert keys[1] not in repr(settings)


@pytest.mark.parametrize(
    ("environment", "endpoint"),
    [
        ({}, "https://s3.amazonaws.com"),
        ({"AWS_ENDPOINT": "http://127.0.0.1:3"}, "http://127.0.0.1:3"),
        (
            {"AWS_ENDPOINT": "http://127.0.0.1:3", "AWS_ENDPOINT_URL": "http://127.0.0.1:2"},
            "http://127.0.0.1:2",
        ),
        (
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:2", "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"},
            "http://127.0.0.1:1",
        ),
        ({"AWS_REGION": "eu-west-1"}, "https://s3.eu-west-1.amazonaws.com"),
    ],
)
def test_the_seeds_variables_name_the_endpoint(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], endpoint: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert s3_client().meta.endpoint_url == endpoint
    assert s3_client().meta.region_name == environment.get("AWS_REGION", "us-east-1")
    assert s3_client(endpoint="http://localhost:9").meta.endpoint_url == "http://localhost:9"


@pytest.mark.parametrize(
    ("endpoint", "allowed"),
    [
        ("http://127.0.0.1:1", True),
        ("http://[::1]:1", True),
        ("http://localhost:1", True),
        ("https://store.example", True),
        ("http://store.example", False),
        ("HTTP://10.0.0.1", False),
        ("http://127.0.0.1.example", False),
    ],
)
def test_plain_http_is_for_this_machine_unless_somebody_says_so(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, allowed: bool
) -> None:
    if allowed:
        s3_client(endpoint=endpoint)
    else:
        with refused("setting_invalid"):
            s3_client(endpoint=endpoint)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    s3_client(endpoint=endpoint)
    if not allowed:
        with refused("setting_invalid"):
            s3_client(endpoint=endpoint, allow_http=False)


@pytest.mark.parametrize(
    ("entries", "path", "allowed"),
    [
        ([], "bucket/a", False),
        (["bucket"], "bucket/a/b", True),
        (["bucket"], "bucket", True),
        (["bucket"], "bucket2/a", False),
        (["bucket/team"], "bucket/team/a", True),
        (["bucket/team"], "bucket/team", True),
        (["bucket/team/"], "bucket/teams", False),
        (["bucket/team"], "bucket", False),
        (["*"], "anything/at/all", True),
        (["Bucket"], "bucket", False),
    ],
)
def test_a_place_is_allowed_by_whole_parts(entries: list[str], path: str, allowed: bool) -> None:
    assert AllowedPlaces(entries).allows(path) == allowed
