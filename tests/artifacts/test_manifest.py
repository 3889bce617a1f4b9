"""The digest names the content and nothing else; a stored manifest is trusted in nothing."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradock.artifacts.manifest import (
    build_manifest,
    manifest_bytes,
    manifest_digest,
    parse_manifest,
    select_files,
)
from loradock.artifacts.paths import check_relative_path, digest_folder
from loradock.artifacts.protocol import SourceFile
from loradock.core.errors import LoradockError
from loradock.core.models import Manifest, ManifestFile
from tests.artifacts.helpers import refused

HASH = "ab" * 32


def listed(*paths: str, size: int = 1) -> list[SourceFile]:
    return [SourceFile(path, size, "") for path in paths]


def entry(path: str, size: int = 1, sha256: str = HASH) -> ManifestFile:
    return ManifestFile(path=path, size=size, sha256=sha256)


def test_takes_what_an_engine_needs_and_names_the_rest() -> None:
    taken = (
        "adapter_config.json", "README.md", "added_tokens.json", "chat_template.jinja", "merges.txt",
        "special_tokens_map.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json",
        "vocab.txt", "adapter_model.safetensors",
    )  # fmt: skip
    others = (
        "optimizer.pt", "rng_state.pth", "training_args.bin", "checkpoint-1/adapter_model.safetensors", "run.py",
        "xtokenizer.json", "adapter_model.safetensors.index.json", ".git/config",
    )  # fmt: skip
    selection = select_files(listed(*sorted(others + taken)), max_bytes=100)
    assert [file.path for file in selection.taken] == [taken[0], *sorted(taken[1:-1]), taken[-1]]
    assert selection.left_out == tuple(sorted(others))


@pytest.mark.parametrize(
    ("paths", "code"),
    [
        ([], "weights_missing"),
        (["adapter_config.json"], "weights_missing"),
        (["adapter_config.json", "model.safetensors"], "weights_missing"),
        (["adapter_model.safetensors"], "config_missing"),
        (["adapter_config.json", "adapter_model.bin"], "pickle_refused"),
        (["adapter_model.pt"], "pickle_refused"),
        (["adapter_config.json", "sub/adapter_model.safetensors"], "weights_missing"),
    ],
)
def test_a_folder_that_is_no_adapter_is_refused(paths: list[str], code: str) -> None:
    with refused(code):
        select_files(listed(*paths), max_bytes=100)


def test_a_pickle_beside_safetensors_is_left_out() -> None:
    files = listed("adapter_config.json", "adapter_model.bin", "adapter_model.safetensors")
    assert select_files(files, max_bytes=100).left_out == ("adapter_model.bin",)


def test_only_what_is_taken_counts_against_the_limit() -> None:
    files = [
        *listed("adapter_config.json", "adapter_model.safetensors", size=50),
        *listed("optimizer.pt", size=900),
    ]
    assert select_files(files, max_bytes=100)
    with refused("source_too_large"):
        select_files(files, max_bytes=99)


def test_the_digest_is_over_paths_sizes_and_hashes() -> None:
    base = [entry("a"), entry("b")]
    digest = manifest_digest(base)
    assert manifest_digest(reversed(base)) == digest
    assert build_manifest(base, ["left"]).digest == digest
    for other in (
        [entry("a"), entry("c")],
        [entry("a"), entry("b", size=2)],
        [entry("a"), entry("b", sha256="cd" * 32)],
        [entry("a")],
    ):
        assert manifest_digest(other) != digest


def test_the_digest_never_changes_its_meaning() -> None:
    """Digests are kept for ever: a change here makes every stored artifact unreadable."""
    expected = "sha256:147044d44ae9c608d7bd41c5426ade103a43cb60506fecb52482a8da1d13b847"
    assert manifest_digest([entry("a"), entry("ä", size=2)]) == expected


def test_a_manifest_comes_back() -> None:
    manifest = build_manifest([entry("b"), entry("a")], ["x/y"])
    assert parse_manifest(manifest_bytes(manifest), digest=manifest.digest) == manifest


def changed(**changes: Any) -> bytes:
    content = json.loads(manifest_bytes(build_manifest([entry("a"), entry("b")])))
    return json.dumps(content | changes).encode()


def files(*paths: str) -> bytes:
    entries = [entry(path) for path in paths]
    return changed(files=[one.model_dump() for one in entries], digest=manifest_digest(entries))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xff", b"[]", b"{}", b"[" * 100_000, b'{"format":"loradock.manifest/1"}', changed(format="other"),
        changed(format=None), changed(more=1), changed(digest="sha256:" + "0" * 64), changed(digest="md5:1"),
        changed(files=[]), changed(files={}), changed(files=[1]), changed(left_out=[1]), changed(left_out=["../x"]),
        changed(left_out=["x"] * 1001), files("../a"), files("/a"), files("a/../../b"), files("a\\b"), files("a\nb"),
        files("b", "a"), files("a", "a"), files("a", "a/b"), files("manifest.json"), files(""), files("a/"),
        files("x" * 600), b" " * 5_000_000,
        changed(files=[{"path": "a", "size": -1, "sha256": HASH}]),
        changed(files=[{"path": "a", "size": 1, "sha256": "x"}]),
        changed(files=[{"path": "a", "size": 10**400, "sha256": HASH}]),
    ],
)  # fmt: skip
def test_a_hostile_manifest_is_refused(data: bytes) -> None:
    with refused("artifact_corrupt"):
        parse_manifest(data)


def test_a_manifest_of_another_digest_is_refused() -> None:
    data = manifest_bytes(build_manifest([entry("a")]))
    with refused("artifact_corrupt"):
        parse_manifest(data, digest="sha256:" + "0" * 64)


PATHS = st.text(max_size=20) | st.lists(
    st.sampled_from(["..", ".", "", "a", "b.json", "c d"]), max_size=5
).map("/".join)
CONTENT = st.fixed_dictionaries(
    {
        "format": st.just("loradock.manifest/1"),
        "digest": st.just("sha256:" + "0" * 64) | st.text(max_size=5),
        "files": st.lists(
            st.fixed_dictionaries(
                {"path": PATHS, "size": st.integers(), "sha256": st.just(HASH) | st.text(max_size=3)}
            ),
            max_size=3,
        ),
        "left_out": st.lists(PATHS, max_size=2),
    }
)


@given(CONTENT)
def test_any_manifest_is_plain_or_our_error(content: dict[str, Any]) -> None:
    try:
        entries = [ManifestFile.model_validate(one) for one in content["files"]]
        content["digest"] = manifest_digest(entries)
    except ValueError:
        pass
    try:
        manifest: Manifest = parse_manifest(json.dumps(content).encode())
    except LoradockError as error:
        assert error.code == "artifact_corrupt"
    else:
        for file in manifest.files:
            assert check_relative_path(file.path) == file.path


@given(PATHS)
def test_an_accepted_path_stays_below_every_folder(path: str) -> None:
    try:
        check_relative_path(path)
    except ValueError:
        return
    assert not path.startswith("/")
    assert not {"", ".", ".."} & set(path.split("/"))


@pytest.mark.parametrize(
    "digest", ["", "sha256:", "sha256:" + "A" * 64, "sha256:" + "a" * 63, "sha256:" + "a" * 64 + "\n"]
)
def test_what_is_no_digest_makes_no_folder(digest: str) -> None:
    with pytest.raises(ValueError, match="not a digest"):
        digest_folder(digest)
