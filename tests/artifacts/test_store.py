"""The artifact store's rules, over a folder and over S3."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradock.artifacts.manifest import build_manifest, manifest_bytes
from loradock.artifacts.protocol import ObjectStore
from loradock.artifacts.store import ArtifactStore, _pointer_key
from loradock.core.errors import LoradockError
from loradock.core.models import Manifest
from tests.artifacts.helpers import Counting, manifest_of, read_all, refused, together
from tests.artifacts.samples import make_adapter


@pytest.fixture
def store(objects: ObjectStore) -> ArtifactStore:
    return ArtifactStore(objects)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return make_adapter(tmp_path / "adapter")


@pytest.fixture
def manifest(adapter: Path) -> Manifest:
    return manifest_of(adapter)


def test_an_artifact_comes_back_byte_for_byte(
    store: ArtifactStore, adapter: Path, manifest: Manifest
) -> None:
    assert not store.has(manifest.digest)
    progress = Counting()
    assert store.upload(adapter, manifest, progress) == manifest.total_size == progress.size
    assert store.has(manifest.digest)
    assert store.manifest(manifest.digest) == manifest
    for file in manifest.files:
        assert read_all(store.fetch_file(manifest.digest, file.path)) == (adapter / file.path).read_bytes()


def test_the_layout_is_the_documented_one(
    store: ArtifactStore, objects: ObjectStore, adapter: Path, manifest: Manifest
) -> None:
    store.upload(adapter, manifest)
    store.publish_pointer("greeter", 1, manifest.digest)
    store.publish_pointer("org/greeter", 12, manifest.digest)
    folder = "artifacts/" + manifest.digest.replace(":", "-")
    assert sorted(info.key for info in objects.list("")) == [
        f"{folder}/README.md",
        f"{folder}/adapter_config.json",
        f"{folder}/adapter_model.safetensors",
        f"{folder}/manifest.json",
        "versions/greeter/1.json",
        "versions/org+greeter/12.json",
    ]
    pointer = json.loads(read_all(objects.open("versions/greeter/1.json")))
    assert (pointer["adapter"], pointer["version"], pointer["digest"]) == ("greeter", 1, manifest.digest)


def test_the_same_artifact_again_sends_nothing(
    store: ArtifactStore, adapter: Path, manifest: Manifest
) -> None:
    store.upload(adapter, manifest)
    assert store.upload(adapter, manifest) == 0


def test_other_left_out_files_do_not_make_it_another_artifact(
    store: ArtifactStore, adapter: Path, manifest: Manifest
) -> None:
    store.upload(adapter, manifest)
    assert store.upload(adapter, build_manifest(manifest.files, ["optimizer.pt"])) == 0
    assert store.manifest(manifest.digest).left_out == ()


def test_an_interrupted_upload_is_not_complete_and_goes_on(
    store: ArtifactStore, objects: ObjectStore, adapter: Path, manifest: Manifest
) -> None:
    store.upload(adapter, manifest)
    folder = "artifacts/" + manifest.digest.replace(":", "-")
    objects.delete(f"{folder}/manifest.json")
    objects.delete(f"{folder}/README.md")
    assert not store.has(manifest.digest)
    with refused("artifact_missing"):
        store.manifest(manifest.digest)
    assert store.upload(adapter, manifest) == (adapter / "README.md").stat().st_size
    assert store.has(manifest.digest)


def test_damage_in_the_store_heals_when_the_artifact_is_uploaded_again(
    store: ArtifactStore, objects: ObjectStore, adapter: Path, manifest: Manifest, tmp_path: Path
) -> None:
    store.upload(adapter, manifest)
    key = "artifacts/" + manifest.digest.replace(":", "-") + "/adapter_model.safetensors"
    weights = (adapter / "adapter_model.safetensors").read_bytes()
    objects.delete(key)
    objects.put_if_absent(key, weights[:-1] + bytes([weights[-1] ^ 1]))
    assert store.upload(adapter, manifest) == len(weights)
    assert read_all(store.fetch_file(manifest.digest, "adapter_model.safetensors")) == weights


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\xff", b"[" * 100_000, b'{"format":"loradock.manifest/1"}']
)
def test_a_foreign_manifest_is_a_conflict(
    store: ArtifactStore, objects: ObjectStore, adapter: Path, manifest: Manifest, content: bytes
) -> None:
    key = "artifacts/" + manifest.digest.replace(":", "-") + "/manifest.json"
    objects.put_if_absent(key, content)
    with refused("artifact_conflict"):
        store.upload(adapter, manifest)
    with refused("artifact_corrupt"):
        store.manifest(manifest.digest)
    assert read_all(objects.open(key)) == content


def test_another_artifacts_manifest_under_a_digest_is_refused(
    store: ArtifactStore, objects: ObjectStore, manifest: Manifest, tmp_path: Path
) -> None:
    other = manifest_of(make_adapter(tmp_path / "other", seed=2))
    objects.put_if_absent(
        "artifacts/" + manifest.digest.replace(":", "-") + "/manifest.json", manifest_bytes(other)
    )
    with refused("artifact_corrupt"):
        store.manifest(manifest.digest)


def test_a_local_file_that_is_not_the_manifests_makes_nothing_complete(
    store: ArtifactStore, adapter: Path, manifest: Manifest
) -> None:
    (adapter / "README.md").write_text("other")
    with refused("artifact_corrupt"):
        store.upload(adapter, manifest)
    assert not store.has(manifest.digest)


def test_a_made_up_manifest_is_refused(store: ArtifactStore, adapter: Path, manifest: Manifest) -> None:
    with refused("artifact_corrupt"):
        store.upload(adapter, manifest.model_copy(update={"digest": "sha256:" + "0" * 64}))


def test_eight_uploads_at_once_are_one_artifact(
    store: ArtifactStore, adapter: Path, manifest: Manifest
) -> None:
    results = together(8, lambda index: store.upload(adapter, manifest))
    assert all(isinstance(result, int) for result in results), results
    assert store.manifest(manifest.digest) == manifest
    for file in manifest.files:
        assert read_all(store.fetch_file(manifest.digest, file.path)) == (adapter / file.path).read_bytes()


def test_a_pointer_is_created_once_and_never_moves(store: ArtifactStore) -> None:
    one, two = "sha256:" + "1" * 64, "sha256:" + "2" * 64
    assert store.pointer("a", 1) is None
    assert store.publish_pointer("a", 1, one)
    assert not store.publish_pointer("a", 1, one)
    with refused("artifact_conflict"):
        store.publish_pointer("a", 1, two)
    assert store.pointer("a", 1) == one


def test_of_eight_publishers_of_one_version_one_wins(store: ArtifactStore) -> None:
    digests = ["sha256:" + f"{index}" * 64 for index in range(8)]
    results = together(8, lambda index: store.publish_pointer("a", 1, digests[index]))
    (winner,) = [index for index, result in enumerate(results) if result is True]
    assert store.pointer("a", 1) == digests[winner]
    losers = [result for index, result in enumerate(results) if index != winner]
    assert all(isinstance(loser, LoradockError) and loser.code == "artifact_conflict" for loser in losers), (
        losers
    )


def test_a_foreign_pointer_is_a_conflict(store: ArtifactStore, objects: ObjectStore) -> None:
    digest = "sha256:" + "1" * 64
    for number, content in enumerate(
        (b"", b"[]", b"{}", b'"x"', b"\xff", json.dumps({"digest": digest}).encode()), 1
    ):
        objects.put_if_absent(f"versions/a/{number}.json", content)
        with refused("artifact_conflict"):
            store.publish_pointer("a", number, digest)


@pytest.mark.parametrize(
    ("adapter", "version"), [("../a", 1), ("a/b/c", 1), ("", 1), ("a", 0), ("a", -1), ("a", 10**9)]
)
def test_names_that_break_the_rule_have_no_pointer(store: ArtifactStore, adapter: str, version: int) -> None:
    with refused("invalid_name"):
        store.publish_pointer(adapter, version, "sha256:" + "1" * 64)


NAMES = st.from_regex(r"[A-Za-z0-9.1_-]{1,6}(/[A-Za-z0-9.]{1,6})?", fullmatch=True)


@given(st.lists(st.tuples(NAMES, st.integers(-1, 12)), min_size=2, max_size=2, unique=True))
def test_no_two_versions_share_a_pointer_or_nest(pair: list[tuple[str, int]]) -> None:
    try:
        one, two = (_pointer_key(*version) for version in pair)
    except LoradockError:
        return
    assert one != two
    assert not one.startswith(two + "/")
    assert one.count("/") == 2
