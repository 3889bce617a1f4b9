"""`loradock inspect` needs no server, tells everything, and exits 0 or 3; `loradock base` says what it did."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from loradock.artifacts.s3 import s3_client
from loradock.cli.failures import ExitCode
from tests.artifacts.helpers import manifest_of
from tests.artifacts.samples import make_adapter
from tests.artifacts.signers import Issuer, make_key
from tests.cli.conftest import FakeApi, Ran, Reply
from tests.cli.test_reads import version
from tests.fixtures.infra import ObjectStoreServer

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

Cli = Callable[..., Ran]

LLAMA = {
    "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 128, "intermediate_size": 256,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
}  # fmt: skip


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    return folder


def test_a_good_adapter_is_told_with_its_digest(cli: Cli, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "good adapter", rank=4)
    ran = cli("inspect", str(folder), "--json")
    assert ran.code == ExitCode.OK
    assert ran.json["digest"] == manifest_of(folder).digest
    report = ran.json["report"]
    assert (report["verdict"], report["traits"]["rank"], report["failure"]) == ("servable", 4, None)
    assert report["scan"]["numbers"] == report["traits"]["parameters"]
    assert report["base"]["notes"] == ["not checked against a base"]
    for line in ("servable", "max_lora_rank ≥ 4", "model.layers.*.self_attn.q_proj", "all finite"):
        assert line in cli("inspect", folder.as_uri()).out


def test_what_an_engine_needs_is_told(cli: Cli, tmp_path: Path) -> None:
    report = cli("inspect", str(make_adapter(tmp_path / "a", rank=40)), "--json").json["report"]
    assert report["verdict"] == "conditional"
    assert report["findings"][0]["needs"] == {
        "property": "max_lora_rank",
        "at_least": 40,
        "setting": "--max-lora-rank 64",
    }


@pytest.mark.parametrize("as_folder", [True, False])
def test_a_base_is_compared_with(cli: Cli, tmp_path: Path, base: Path, as_folder: bool) -> None:
    given = base if as_folder else base / "config.json"
    good = make_adapter(tmp_path / "good")
    ran = cli("inspect", str(good), "--base", str(given), "--json")
    assert (ran.code, ran.json["report"]["base"]["checked"]) == (ExitCode.OK, True)
    extra = make_adapter(tmp_path / "extra", layers=3)
    ran = cli("inspect", str(extra), "--base", str(given))
    assert ran.code == ExitCode.OPERATION_FAILED
    assert "model.layers.2.self_attn.q_proj is in layer 3, the base has 2" in ran.out


def test_every_reason_is_told_and_the_exit_code_is_3(cli: Cli, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "a", config={"use_dora": True, "modules_to_save": ["lm_head"]})
    ran = cli("inspect", str(folder), "--json")
    assert ran.code == ExitCode.OPERATION_FAILED
    report = ran.json["report"]
    assert report["failure"]["code"] == "adapter_not_supported"
    assert [finding["feature"] for finding in report["findings"]] == ["use_dora", "modules_to_save"]


def test_nan_is_told_with_its_place(cli: Cli, tmp_path: Path) -> None:
    weights = make_adapter(tmp_path / "a") / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + struct.pack("<f", float("nan")))
    ran = cli("inspect", str(tmp_path / "a"), "--json")
    assert ran.code == ExitCode.OPERATION_FAILED
    assert ran.json["report"]["failure"]["details"]["value"] == "NaN"
    assert "weights_not_finite" in cli("inspect", str(tmp_path / "a")).out


def test_a_folder_without_weights_is_no_adapter(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "adapter_model.bin").write_bytes(b"x")
    ran = cli("inspect", str(tmp_path / "a"), "--json")
    assert (ran.code, ran.json["report"]["failure"]["code"]) == (ExitCode.OPERATION_FAILED, "pickle_refused")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"hidden_size": "x"}', "{" * 5000, " " * 2_000_000])
def test_what_is_no_base_config_is_a_usage_error(cli: Cli, tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    ran = cli("inspect", str(make_adapter(tmp_path / "a")), "--base", str(tmp_path))
    assert ran.code == ExitCode.USAGE


def test_a_place_that_cannot_be_read_is_no_verdict(cli: Cli, tmp_path: Path) -> None:
    assert cli("inspect", str(tmp_path / "nothing")).code == ExitCode.USAGE
    assert cli("inspect", (tmp_path / "nothing").as_uri()).code == ExitCode.REFUSED


def test_an_s3_source_is_read_with_the_normal_credentials(
    cli: Cli, tmp_path: Path, object_store_server: ObjectStoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in object_store_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LORADOCK_SOURCE_ENDPOINT", object_store_server.endpoint)
    client: S3Client = s3_client(endpoint=object_store_server.endpoint, region=object_store_server.region)
    bucket = object_store_server.bucket()
    folder = make_adapter(tmp_path / "a")
    for path in folder.iterdir():
        client.put_object(Bucket=bucket, Key=f"team/a/{path.name}", Body=path.read_bytes())
    ran = cli("inspect", f"s3://{bucket}/team/a", "--json")
    assert ran.code == ExitCode.OK, ran.err
    assert ran.json["digest"] == manifest_of(folder).digest


def test_a_base_is_added_as_its_config_stands(cli: Cli, api: FakeApi, base: Path) -> None:
    known = {
        "name": "org/base", "origin": "registered", "fingerprint": "sha256:" + "ab" * 32, "config": LLAMA,
        "measures": {**LLAMA, "fingerprint": "x"}, "created_at": "2026-01-01T00:00:00Z", "created_by": "operator",
        "updated_at": "2026-01-01T00:00:00Z", "updated_by": "operator",
    }  # fmt: skip
    api.on("PUT", "/v1/base-models/org/base", Reply(known))
    api.on("GET", "/v1/base-models", Reply({"items": [known], "next": None}))
    api.on("GET", "/v1/base-models/org/base", Reply(known))
    ran = cli("base", "add", "org/base", str(base))
    assert ran.code == ExitCode.OK, ran.err
    assert api.seen[0].body == LLAMA
    assert "org/base" in ran.out
    assert "num hidden layers" in cli("base", "show", "org/base").out
    assert "llama" in cli("base", "ls").out


def test_a_version_is_shown_with_what_its_inspection_found(cli: Cli, api: FakeApi, tmp_path: Path) -> None:
    report = cli("inspect", str(make_adapter(tmp_path / "a", rank=40)), "--json").json["report"]
    api.on("GET", "/v1/adapters/greeter/versions/1", Reply(version(1, report=report)))
    api.on("GET", "/v1/cards", Reply({"items": [], "next": None}))
    out = cli("show", "greeter@1").out
    assert "max_lora_rank ≥ 40" in out
    assert "not checked against a base" in out
    api.on("GET", "/v1/adapters/greeter/versions/1", Reply(version(1, report=None)))
    assert "published before" in cli("show", "greeter@1").out


def test_signing_and_what_inspect_says_of_it(cli: Cli, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "signed")
    public, other = make_key(tmp_path / "release.key"), make_key(tmp_path / "other.key")
    unsigned = cli("inspect", str(folder), "--key", str(public))
    assert unsigned.code == ExitCode.OPERATION_FAILED
    assert "unsigned" in unsigned.out

    made = cli("sign", str(folder), "--key", str(tmp_path / "release.key"), "--json")
    assert made.code == ExitCode.OK
    assert made.json["files"] == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert "check it with --key" in cli("inspect", str(folder)).out

    good = cli("inspect", str(folder), "--key", str(other), "--key", str(public), "--json")
    assert good.code == ExitCode.OK
    assert (good.json["signed"], good.json["signature"]["status"]) == (True, "verified")
    assert good.json["signature"]["signer"] == made.json["signer"]
    shown = cli("inspect", str(folder), "--key", str(public))
    assert made.json["signer"] in shown.out
    wrong = cli("inspect", str(folder), "--key", str(other))
    assert (wrong.code, "untrusted" in wrong.out) == (ExitCode.OPERATION_FAILED, True)
    make_adapter(folder, seed=5)
    changed = cli("inspect", str(folder), "--key", str(public))
    assert (changed.code, "is not the file that was signed" in changed.out) == (
        ExitCode.OPERATION_FAILED,
        True,
    )


def test_signing_by_certificate_and_with_an_encrypted_key(cli: Cli, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "signed")
    issuer = Issuer(tmp_path)
    key = issuer.issue("ci@acme.example")
    signing = ("sign", str(folder), "--key", str(key.private_key))
    assert cli(*signing, "--certificate", str(key.certificate), "--chain", str(issuer.intermediate)).code == 0
    asked = ("inspect", str(folder), "--root", str(issuer.root))
    assert "ci@acme.example" in cli(*asked, "--identity", "ci@acme.example").out
    assert cli(*asked, "--identity", "intern@acme.example").code == ExitCode.OPERATION_FAILED

    public = make_key(tmp_path / "locked.key", password="open sesame")
    (tmp_path / "password").write_text("open sesame\n")
    (tmp_path / "wrong").write_text("open barley\n")
    locked = ("sign", str(folder), "--key", str(tmp_path / "locked.key"), "--password-file")
    assert cli(*locked, str(tmp_path / "password")).code == ExitCode.OK
    assert cli("inspect", str(folder), "--key", str(public)).code == ExitCode.OK
    refused = cli(*locked, str(tmp_path / "wrong"))
    assert refused.code == ExitCode.USAGE
    assert "barley" not in refused.out + refused.err


def test_options_of_signatures_that_do_not_fit_are_usage_errors(cli: Cli, tmp_path: Path) -> None:
    folder = str(make_adapter(tmp_path / "a"))
    key = str(make_key(tmp_path / "release.key"))
    for arguments in (
        ("inspect", folder, "--root", key),
        ("inspect", folder, "--identity", "x"),
        ("inspect", folder, "--key", str(tmp_path / "none.pub")),
        ("sign", folder, "--key", key),
        ("sign", folder, "--key", key, "--chain", key),
        ("sign", str(tmp_path / "none"), "--key", key),
    ):
        assert cli(*arguments).code == ExitCode.USAGE, arguments


@pytest.mark.parametrize(
    ("signature", "lines"),
    [
        (None, ("not checked",)),
        (
            {"status": "verified", "signer": "sha256:aa", "identity": "ci@acme.example"},
            ("verified", "ci@acme.example, sha256:aa"),
        ),
        (
            {"status": "invalid", "reason": "model.sig: it is not JSON"},
            ("invalid", "model.sig: it is not JSON"),
        ),
    ],
)
def test_show_tells_what_is_known_of_a_version_s_signature(
    cli: Cli, api: FakeApi, signature: object, lines: tuple[str, ...]
) -> None:
    api.on("GET", "/v1/adapters/greeter/versions/1", Reply({**version(1), "signature": signature}))
    api.on("GET", "/v1/cards", Reply({"items": [], "next": None}))
    out = cli("show", "greeter@1").out
    assert all(line in out for line in lines), out
