"""Settings become parts."""

from pathlib import Path

import pytest

from loradock.artifacts.build import open_cache, open_objects, open_sources, open_staging, open_store
from loradock.artifacts.stores.folder import FolderStore
from loradock.artifacts.stores.s3 import S3Store
from loradock.core.models import VersionRef
from loradock.core.settings import Settings
from tests.artifacts.helpers import refused
from tests.artifacts.samples import make_adapter
from tests.fixtures.infra import ObjectStoreServer


def make(**values: object) -> Settings:
    return Settings(_env_file=None, **values)  # type: ignore[arg-type]


def test_an_adapter_goes_from_a_folder_through_s3_into_the_cache(
    object_store_server: ObjectStoreServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in object_store_server.environment.items():
        monkeypatch.setenv(name, value)
    settings = make(
        object_store=f"s3://{object_store_server.bucket()}/some/prefix",
        object_store_endpoint=object_store_server.endpoint,
        file_roots=(tmp_path / "sources",),
        staging_dir=tmp_path / "staging",
        cache_dir=tmp_path / "cache",
    )
    adapter = make_adapter(tmp_path / "sources" / "greeter")
    staged = open_staging(settings).stage(adapter.as_uri())
    open_store(settings).upload(staged.path, staged.manifest)
    ref = VersionRef(adapter="greeter", version=1, digest=staged.manifest.digest, int_id=1)
    cached = open_cache(settings).ensure(ref)
    for file in staged.manifest.files:
        assert (cached.path / file.path).read_bytes() == (adapter / file.path).read_bytes()


def test_the_address_chooses_the_store(tmp_path: Path) -> None:
    assert isinstance(open_objects(make(object_store=f"file://{tmp_path}")), FolderStore)
    assert isinstance(open_objects(make(object_store="s3://bucket/prefix")), S3Store)


@pytest.mark.parametrize(
    "address", [None, "", "bucket", "ftp://x/y", "file://host/x", "s3://", "s3://k:SECRET@bucket"]
)
def test_an_address_that_is_none_is_a_wrong_setting(address: str | None) -> None:
    with refused("setting_invalid") as caught:
        open_objects(make(object_store=address))
    assert "SECRET" not in str(caught.value)


def test_nothing_is_allowed_by_default(tmp_path: Path) -> None:
    sources = open_sources(make())
    assert sources.schemes == {"file", "s3", "hf", "https"}
    for address in (
        tmp_path.as_uri(),
        "s3://bucket/a",
        "hf://acme/greeter",
        "https://models.example/greeter/",
    ):
        with refused("source_not_allowed"):
            sources.list(address)
