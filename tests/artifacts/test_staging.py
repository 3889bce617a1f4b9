"""Staging: a source becomes an inspected copy under its digest, or nothing."""

import hashlib
import json
import multiprocessing
import os
import signal
import struct
from pathlib import Path

import pytest

from loradock.artifacts.protocol import Progress
from loradock.artifacts.sources.file import FileSource
from loradock.artifacts.sources.registry import SourceSet
from loradock.artifacts.staging import Staging
from loradock.testing.source_contract import SourcePlace
from tests.artifacts.helpers import Cancelled, Counting, manifest_of, refused, together
from tests.artifacts.samples import make_adapter


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "staging"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return make_adapter(tmp_path / "sources" / "adapter")


@pytest.fixture
def staging(tmp_path: Path, root: Path) -> Staging:
    return make_staging(tmp_path, root)


def make_staging(tmp_path: Path, root: Path) -> Staging:
    return Staging(root, SourceSet({"file": FileSource([tmp_path / "sources"])}), max_bytes=10_000_000)


def folders(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir() if path.is_dir()) if root.exists() else []


def test_a_staged_source_is_complete_and_inspected(
    source_place: SourcePlace, root: Path, tmp_path: Path
) -> None:
    adapter = make_adapter(tmp_path / "made", rank=4)
    (adapter / "optimizer.pt").write_bytes(b"big")
    for path in adapter.iterdir():
        source_place.write(path.name, path.read_bytes())
    progress = Counting()
    staged = Staging(root, source_place.source, max_bytes=10_000_000).stage(source_place.uri, progress)
    assert staged.manifest == manifest_of(adapter)
    assert staged.manifest.left_out == ("optimizer.pt",)
    assert staged.traits.rank == 4
    assert staged.path.name == staged.manifest.digest.replace(":", "-")
    assert sorted(path.name for path in staged.path.iterdir()) == [
        file.path for file in staged.manifest.files
    ]
    for file in staged.manifest.files:
        data = (staged.path / file.path).read_bytes()
        assert data == (adapter / file.path).read_bytes()
        assert hashlib.sha256(data).hexdigest() == file.sha256
    assert progress.size == staged.manifest.total_size


def test_a_staged_copy_is_found_by_digest(staging: Staging, adapter: Path) -> None:
    staged = staging.stage(adapter.as_uri())
    with staging.hold(staged.manifest.digest) as found:
        assert found == staged


def test_the_same_source_again_is_the_same_copy(staging: Staging, adapter: Path, root: Path) -> None:
    assert staging.stage(adapter.as_uri()) == staging.stage(adapter.as_uri())
    assert len(folders(root)) == 1


def test_a_damaged_copy_is_mended_by_staging_again(staging: Staging, adapter: Path) -> None:
    staged = staging.stage(adapter.as_uri())
    weights = staged.path / "adapter_model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + b"x")
    (staged.path / "README.md").unlink()
    assert staging.stage(adapter.as_uri()) == staged
    assert weights.read_bytes() == good
    assert (staged.path / "README.md").exists()


@pytest.mark.parametrize("keep", [True, False])
def test_a_copy_without_its_manifest_is_lost_and_can_be_staged_again(
    staging: Staging, adapter: Path, root: Path, keep: bool
) -> None:
    staged = staging.stage(adapter.as_uri())
    (root / f"{staged.path.name}.manifest.json").unlink()
    if not keep:
        staging.discard(staged.manifest.digest)
    with refused("staging_lost"), staging.hold(staged.manifest.digest):
        pass
    assert staging.stage(adapter.as_uri()) == staged


def test_a_copy_that_somebody_holds_is_not_discarded(staging: Staging, adapter: Path, root: Path) -> None:
    staged = staging.stage(adapter.as_uri())
    with staging.hold(staged.manifest.digest), staging.hold(staged.manifest.digest):
        assert not staging.discard(staged.manifest.digest)
        assert staged.path.exists()
    assert staging.discard(staged.manifest.digest)
    assert list(root.iterdir()) == []
    assert staging.discard(staged.manifest.digest)


@pytest.mark.parametrize(
    ("config", "code"), [({"use_dora": True}, "adapter_not_supported"), ({"r": 0}, "config_invalid")]
)
def test_a_bad_config_is_refused_before_the_weights_are_read(
    staging: Staging, tmp_path: Path, root: Path, config: dict[str, object], code: str
) -> None:
    folder = make_adapter(tmp_path / "sources" / "bad", config=config)
    progress = Counting()
    with refused(code):
        staging.stage(folder.as_uri(), progress)
    assert progress.size == (folder / "adapter_config.json").stat().st_size
    assert list(root.iterdir()) == []


def test_cut_weights_are_refused_and_leave_nothing(staging: Staging, adapter: Path, root: Path) -> None:
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with refused("weights_corrupt"):
        staging.stage(adapter.as_uri())
    assert list(root.iterdir()) == []


def test_too_many_bytes_are_refused_before_any_is_read(tmp_path: Path, adapter: Path, root: Path) -> None:
    total = manifest_of(adapter).total_size
    source = FileSource([tmp_path])
    progress = Counting()
    with refused("source_too_large"):
        Staging(root, source, max_bytes=total - 1).stage(adapter.as_uri(), progress)
    assert progress.size == 0
    assert Staging(root, source, max_bytes=total).stage(adapter.as_uri())


def test_a_cancelled_staging_leaves_nothing(staging: Staging, adapter: Path, root: Path) -> None:
    def cancel(size: int) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        staging.stage(adapter.as_uri(), Counting(cancel))
    assert list(root.iterdir()) == []


def test_eight_at_once_get_the_same_copy(staging: Staging, adapter: Path, root: Path) -> None:
    results = together(8, lambda index: staging.stage(adapter.as_uri()))
    assert len({str(result) for result in results}) == 1, results
    assert len(folders(root)) == 1


class _Stop:
    def advance(self, size: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def _stage(tmp_path: Path, root: Path, uri: str, progress: Progress | None) -> None:
    make_staging(tmp_path, root).stage(uri, progress)


def test_what_a_killed_process_left_is_swept_and_a_living_one_is_not_touched(
    staging: Staging, tmp_path: Path, adapter: Path, root: Path
) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=_stage, args=(tmp_path, root, adapter.as_uri(), _Stop())
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    left = folders(root)
    assert len(left) == 1

    swept: list[list[str]] = []

    def sweep(size: int) -> None:
        swept.append([path.name for path in staging.sweep(older_than_seconds=3600)])

    staged = staging.stage(adapter.as_uri(), Counting(sweep))
    assert swept[0] == left
    assert not any(swept[1:])
    assert folders(root) == [staged.path.name]


def test_old_copies_are_swept_and_young_ones_kept(staging: Staging, adapter: Path, root: Path) -> None:
    staged = staging.stage(adapter.as_uri())
    assert staging.sweep(older_than_seconds=60) == []
    with staging.hold(staged.manifest.digest):
        assert staging.sweep(older_than_seconds=-1) == []
    assert staging.sweep(older_than_seconds=-1) == [staged.path]
    assert list(root.iterdir()) == []


def test_a_refusal_carries_the_report_of_what_was_found(staging: Staging, adapter: Path) -> None:
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + struct.pack("<f", float("nan")))
    with refused("weights_not_finite") as caught:
        staging.stage(adapter.as_uri())
    report = caught.value.details["inspection"]
    assert report["verdict"] == "not_servable"
    assert report["traits"]["rank"] == 8
    assert report["modules"]


def test_a_refused_config_carries_the_features_that_stand_against_it(staging: Staging, adapter: Path) -> None:
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    with refused("adapter_not_supported") as caught:
        staging.stage(adapter.as_uri())
    findings = caught.value.details["inspection"]["findings"]
    assert [one["feature"] for one in findings if one["verdict"] == "not_servable"] == ["use_dora"]
