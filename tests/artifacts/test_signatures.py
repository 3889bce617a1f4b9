"""Signatures of adapters, by real keys: what counts, what does not, and that hostile bundles end as a verdict."""

import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from model_signing import hashing, signing
from model_signing._cli import main as model_signing_command

from loradock.artifacts.manifest import SIGNATURE_FILE
from loradock.artifacts.signatures.checking import AuthorityCheck
from loradock.artifacts.signatures.protocol import MAX_BUNDLE_BYTES, SignatureFile
from loradock.artifacts.signatures.signing import SigningKey, sign_folder
from loradock.artifacts.signatures.trust import Authority, read_authority, read_key
from loradock.artifacts.sources.file import FileSource
from loradock.artifacts.staging import Staged, Staging
from loradock.core.signatures import SignaturePolicy, SignatureStatus, SignatureVerdict
from tests.artifacts.helpers import manifest_of, refused
from tests.artifacts.samples import make_adapter
from tests.artifacts.signers import Issuer, change_bundle, make_key, payload_of, sign

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
WHO = "release@acme.example"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = make_adapter(tmp_path / "sources" / "greeter")
    (folder / "optimizer.pt").write_bytes(b"not part of it")
    return folder


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A private key; the public one lies beside it."""
    make_key(tmp_path / "release.key")
    return tmp_path / "release.key"


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return Issuer(tmp_path)


def stage(folder: Path, *trusted: Authority, policy: SignaturePolicy = SignaturePolicy.WARN) -> Staged:
    """Stage a folder as a publish does."""
    staging = Staging(folder.parent.parent / "staging", FileSource([folder.parent]), max_bytes=2**30)
    return staging.stage(folder.as_uri(), check=AuthorityCheck(policy, trusted))


def judge(folder: Path, *trusted: Authority) -> SignatureVerdict:
    verdict = stage(folder, *trusted).signature
    assert verdict is not None
    return verdict


def test_a_key_s_signature_is_verified_and_says_whose_it_is(adapter: Path, key: Path) -> None:
    signed = sign(adapter, key)
    trusted = read_key(key.with_suffix(".pub"))
    verdict = judge(adapter, trusted)
    assert verdict.status is SignatureStatus.VERIFIED, verdict
    assert (verdict.method, verdict.signer) == ("key", signed.signer)
    assert trusted.trusted.anchor == verdict.anchor == signed.signer
    # The fingerprint is the one that sha256sum gives of the public key's file.
    shown = subprocess.run(["sha256sum", key.with_suffix(".pub")], capture_output=True, text=True, check=True)
    assert signed.signer == f"sha256:{shown.stdout.split()[0]}"


def test_a_signature_is_no_part_of_the_digest(adapter: Path, key: Path) -> None:
    trusted = read_key(key.with_suffix(".pub"))
    unsigned = stage(adapter, trusted)
    sign(adapter, key)
    signed = stage(adapter, trusted)
    assert unsigned.manifest.digest == signed.manifest.digest
    assert SIGNATURE_FILE not in {file.path for file in signed.manifest.files} | set(signed.manifest.left_out)
    assert not (signed.path / SIGNATURE_FILE).exists()
    assert unsigned.signature is not None
    assert unsigned.signature.status is SignatureStatus.UNSIGNED


def test_keys_made_by_openssl_work(adapter: Path, tmp_path: Path) -> None:
    private, public = tmp_path / "openssl.key", tmp_path / "openssl.pub"
    make = ["openssl", "ecparam", "-name", "secp384r1", "-genkey", "-noout", "-out", private]
    subprocess.run(make, check=True, capture_output=True)
    subprocess.run(
        ["openssl", "ec", "-in", private, "-pubout", "-out", public], check=True, capture_output=True
    )
    sign(adapter, private)
    assert judge(adapter, read_key(public)).status is SignatureStatus.VERIFIED


def test_the_package_s_own_command_makes_and_accepts_the_same_signatures(adapter: Path, key: Path) -> None:
    def command(*words: str | Path) -> None:
        model_signing_command([str(word) for word in words], standalone_mode=False)

    public, bundle = key.with_suffix(".pub"), adapter / SIGNATURE_FILE
    command("sign", "key", "--private_key", key, "--signature", bundle, adapter)
    # It signed the optimizer's state too, which is never part of the artifact.
    (adapter / "optimizer.pt").unlink()
    assert judge(adapter, read_key(public)).status is SignatureStatus.VERIFIED
    (adapter / "optimizer.pt").write_bytes(b"again")
    sign(adapter, key)
    command("verify", "key", "--public_key", public, "--signature", bundle, adapter)
    (adapter / "README.md").write_text("changed")
    with pytest.raises(SystemExit):
        command("verify", "key", "--public_key", public, "--signature", bundle, adapter)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, "README.md"])
def test_any_changed_file_of_the_artifact_makes_it_invalid(adapter: Path, key: Path, name: str) -> None:
    (adapter / "README.md").write_text("as signed")
    sign(adapter, key)
    data = bytearray((adapter / name).read_bytes())
    data[-2] ^= 1
    (adapter / name).write_bytes(bytes(data))
    verdict = judge_manifest(adapter, read_key(key.with_suffix(".pub")))
    assert (verdict.status, name in verdict.reason) == (SignatureStatus.INVALID, True)


def judge_manifest(folder: Path, *trusted: Authority) -> SignatureVerdict:
    """The verdict without the inspection, which could refuse the bytes first or later."""
    data = (folder / SIGNATURE_FILE).read_bytes()
    found = SignatureFile(len(data), data if len(data) <= MAX_BUNDLE_BYTES else b"")
    return AuthorityCheck(SignaturePolicy.WARN, trusted)(found, manifest_of(folder))


def test_a_file_added_or_taken_away_makes_it_invalid(adapter: Path, key: Path) -> None:
    trusted = read_key(key.with_suffix(".pub"))
    (adapter / "chat_template.jinja").write_text("{{ messages }}")
    sign(adapter, key)
    (adapter / "chat_template.jinja").unlink()
    taken = judge(adapter, trusted)
    assert (taken.status, "chat_template.jinja" in taken.reason) == (SignatureStatus.INVALID, True)
    sign(adapter, key)
    (adapter / "tokenizer_config.json").write_text("{}")
    added = judge(adapter, trusted)
    assert (added.status, added.reason) == (
        SignatureStatus.INVALID,
        "model.sig: it does not cover tokenizer_config.json",
    )


@pytest.mark.parametrize("left_out", [WEIGHTS, CONFIG])
def test_a_true_signature_that_leaves_out_weights_or_config_does_not_count(
    adapter: Path, key: Path, left_out: str
) -> None:
    maker = signing.Config().use_elliptic_key_signer(private_key=key)
    maker.set_hashing_config(hashing.Config().set_ignored_paths(paths=[left_out, SIGNATURE_FILE]))
    maker.sign(adapter, adapter / SIGNATURE_FILE)
    verdict = judge(adapter, read_key(key.with_suffix(".pub")))
    assert (verdict.status, verdict.reason) == (
        SignatureStatus.INVALID,
        f"model.sig: it does not cover {left_out}",
    )


def test_a_signature_of_other_weights_does_not_count(adapter: Path, key: Path, tmp_path: Path) -> None:
    other = make_adapter(tmp_path / "sources" / "other", seed=2)
    sign(other, key)
    (other / SIGNATURE_FILE).rename(adapter / SIGNATURE_FILE)
    verdict = judge(adapter, read_key(key.with_suffix(".pub")))
    assert (verdict.status, "not the file that was signed" in verdict.reason) == (
        SignatureStatus.INVALID,
        True,
    )


def test_blocks_instead_of_whole_files_are_told_as_not_checked_here(adapter: Path, key: Path) -> None:
    maker = signing.Config().use_elliptic_key_signer(private_key=key)
    shards = hashing.Config().use_shard_serialization(hashing_algorithm="sha256", shard_size=1000)
    maker.set_hashing_config(shards)
    maker.sign(adapter, adapter / SIGNATURE_FILE)
    verdict = judge(adapter, read_key(key.with_suffix(".pub")))
    assert (verdict.status, "whole files" in verdict.reason) == (SignatureStatus.INVALID, True)


def test_another_key_is_not_trusted_even_if_it_says_to_be_the_trusted_one(
    adapter: Path, key: Path, tmp_path: Path
) -> None:
    make_key(tmp_path / "mallory.key")
    mallory = sign(adapter, tmp_path / "mallory.key").signer
    trusted = read_key(key.with_suffix(".pub"))
    plain = judge(adapter, trusted)
    assert (plain.status, plain.signer, plain.anchor) == (SignatureStatus.UNTRUSTED, mallory, None)

    def claim(hint: str | None) -> SignatureVerdict:
        change_bundle(adapter, lambda bundle: bundle["verificationMaterial"].update(publicKey={"hint": hint}))
        return judge(adapter, trusted)

    assert claim(trusted.trusted.anchor.removeprefix("sha256:")).status is SignatureStatus.INVALID
    assert claim(None).status is SignatureStatus.UNTRUSTED


def test_of_several_trusted_keys_any_will_do_and_bundles_of_before_1_0_name_none(
    adapter: Path, key: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = read_key(make_key(tmp_path / "other.key", curve=ec.SECP521R1()))
    signed = sign(adapter, key)
    change_bundle(adapter, lambda bundle: bundle["verificationMaterial"].update(publicKey={}))
    verdict = judge(adapter, other, read_key(key.with_suffix(".pub")))
    assert (verdict.status, verdict.signer) == (SignatureStatus.VERIFIED, signed.signer)
    assert capsys.readouterr().out == ""


def test_a_certificate_s_signature_is_verified_by_root_and_name(adapter: Path, issuer: Issuer) -> None:
    signed = sign_folder(adapter, issuer.issue(WHO))
    trusted = read_authority(issuer.root, WHO)
    verdict = judge(adapter, trusted)
    assert verdict.status is SignatureStatus.VERIFIED, verdict
    assert (verdict.method, verdict.identity, verdict.signer) == ("certificate", WHO, signed.signer)
    assert verdict.anchor == trusted.trusted.anchor != verdict.signer


def test_an_expired_certificate_still_proves_what_it_signed_in_its_time(
    adapter: Path, issuer: Issuer
) -> None:
    sign_folder(adapter, issuer.issue(WHO, years_ago=3))
    assert judge(adapter, read_authority(issuer.root, WHO)).status is SignatureStatus.VERIFIED


def test_another_name_another_root_and_another_use_are_not_trusted(
    adapter: Path, issuer: Issuer, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    elsewhere = Issuer(tmp_path / "elsewhere")
    trusted = read_authority(issuer.root, WHO)
    for key in (issuer.issue("intern@acme.example"), elsewhere.issue(WHO), issuer.issue(WHO, signing=False)):
        sign_folder(adapter, key)
        verdict = judge(adapter, trusted)
        assert verdict.status in (SignatureStatus.UNTRUSTED, SignatureStatus.INVALID), verdict
        assert verdict.anchor is None


def test_a_second_spelling_of_a_field_does_not_lend_another_s_name(adapter: Path, issuer: Issuer) -> None:
    """A reader that takes both spellings could check one certificate's signature and another one's name."""
    sign_folder(adapter, issuer.issue(WHO))
    honest = json.loads((adapter / SIGNATURE_FILE).read_text())["verificationMaterial"]
    own = honest["x509CertificateChain"]["certificates"][0]["rawBytes"]
    sign_folder(adapter, issuer.issue("intern@acme.example"))
    mallory = (adapter / SIGNATURE_FILE).read_text()

    def lend(bundle: dict[str, Any]) -> None:
        material = bundle["verificationMaterial"]
        leaf = material["x509CertificateChain"]["certificates"][0]
        leaf |= {"raw_bytes": leaf["rawBytes"], "rawBytes": own}

    def lend_all(bundle: dict[str, Any]) -> None:
        material = bundle["verificationMaterial"]
        bundle["verificationMaterial"] = {
            **honest,
            "x509_certificate_chain": material["x509CertificateChain"],
        }

    def lend_outside(bundle: dict[str, Any]) -> None:
        bundle |= {"verification_material": bundle["verificationMaterial"], "verificationMaterial": honest}

    for change in (lend, lend_all, lend_outside):
        (adapter / SIGNATURE_FILE).write_text(mallory)
        change_bundle(adapter, change)
        assert judge(adapter, read_authority(issuer.root, WHO)).status is SignatureStatus.INVALID


def test_a_certificate_under_another_s_signature_is_invalid(adapter: Path, issuer: Issuer) -> None:
    sign_folder(adapter, issuer.issue(WHO))
    honest = json.loads((adapter / SIGNATURE_FILE).read_text())["verificationMaterial"]
    sign_folder(adapter, issuer.issue("intern@acme.example"))
    change_bundle(adapter, lambda bundle: bundle.update(verificationMaterial=honest))
    assert judge(adapter, read_authority(issuer.root, WHO)).status is SignatureStatus.INVALID


def test_a_keyless_signature_is_told_as_not_supported(adapter: Path, key: Path) -> None:
    sign(adapter, key)
    keyless = {"certificate": {"rawBytes": "AAAA"}, "tlogEntries": []}
    change_bundle(adapter, lambda bundle: bundle.update(verificationMaterial=keyless))
    verdict = judge(adapter, read_key(key.with_suffix(".pub")))
    assert (verdict.status, "not supported" in verdict.reason) == (SignatureStatus.UNTRUSTED, True)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda folder: (folder / SIGNATURE_FILE).unlink(), "signature_missing"),
        (lambda folder: (folder / SIGNATURE_FILE).write_text("{"), "signature_invalid"),
        (lambda folder: sign(folder, folder.parent.parent / "mallory.key"), "signature_untrusted"),
    ],
)
def test_require_refuses_with_a_code_of_its_own_and_keeps_nothing(
    adapter: Path, key: Path, tmp_path: Path, spoil: Callable[[Path], object], code: str
) -> None:
    make_key(tmp_path / "mallory.key")
    trusted = read_key(key.with_suffix(".pub"))
    sign(adapter, key)
    assert stage(adapter, trusted, policy=SignaturePolicy.REQUIRE).signature
    spoil(adapter)
    make_adapter(adapter, seed=9)  # other weights: the copy of before is of another digest
    if code == "signature_untrusted":
        spoil(adapter)
    with refused(code) as caught:
        stage(adapter, trusted, policy=SignaturePolicy.REQUIRE)
    assert caught.value.details["signature"]["reason"] == caught.value.message
    assert len([path for path in (tmp_path / "staging").glob("sha256-*") if path.is_dir()]) == 1


def _nested(depth: int) -> str:
    return '{"verificationMaterial":' * depth + "{}" + "}" * depth


HOSTILE = {
    "empty": "",
    "no JSON": "\x00\xff\x00",
    "a list": "[]",
    "a number of many digits": "1" * 100_000,
    "nested deeply": _nested(50_000),
    "NaN": '{"verificationMaterial": NaN}',
    "said twice": '{"verificationMaterial": {}, "verificationMaterial": {}}',
    "nothing inside": '{"verificationMaterial": {}, "dsseEnvelope": {}}',
    "a key of another type": '{"verificationMaterial": {"publicKey": {"hint": 7}}, "dsseEnvelope": {}}',
    "no envelope": '{"verificationMaterial": {"publicKey": {}}, "dsseEnvelope": []}',
    "an empty envelope": '{"verificationMaterial": {"publicKey": {}}, "dsseEnvelope": {}}',
    "no certificates": '{"verificationMaterial": {"x509CertificateChain": {"certificates": []}}, "dsseEnvelope": {}}',
    "bad certificates": json.dumps(
        {"verificationMaterial": {"x509CertificateChain": {"certificates": [7] * 9}}, "dsseEnvelope": {}}
    ),
    "many certificates": json.dumps(
        {"verificationMaterial": {"x509CertificateChain": {"certificates": [{}] * 99}}, "dsseEnvelope": {}}
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_bundle_is_invalid(adapter: Path, key: Path, issuer: Issuer, name: str) -> None:
    (adapter / SIGNATURE_FILE).write_bytes(HOSTILE[name].encode("latin-1"))
    verdict = judge(adapter, read_key(key.with_suffix(".pub")), read_authority(issuer.root, WHO))
    assert verdict.status is SignatureStatus.INVALID, verdict
    assert len(verdict.reason) < 300


def test_a_huge_bundle_is_not_even_read(adapter: Path, key: Path) -> None:
    with (adapter / SIGNATURE_FILE).open("wb") as file:
        file.truncate(2**40)  # a hole: reading it would take hours
    verdict = judge(adapter, read_key(key.with_suffix(".pub")))
    assert (verdict.status, verdict.bundle) == (SignatureStatus.INVALID, None)
    assert str(MAX_BUNDLE_BYTES) in verdict.reason


def test_damaged_bundles_end_as_a_verdict_and_none_as_verified(
    adapter: Path, key: Path, issuer: Issuer
) -> None:
    """Fields of true bundles are replaced, removed and cut at random."""
    trusted = (read_key(key.with_suffix(".pub")), read_authority(issuer.root, WHO))
    sign(adapter, key)
    by_key = json.loads((adapter / SIGNATURE_FILE).read_text())
    sign_folder(adapter, issuer.issue(WHO))
    by_certificate = json.loads((adapter / SIGNATURE_FILE).read_text())
    chance = random.Random(7)
    seen = set()
    for round_ in range(300):
        original = (by_key, by_certificate)[round_ % 2]
        damaged = _damage(json.loads(json.dumps(original)), chance)
        (adapter / SIGNATURE_FILE).write_text(json.dumps(damaged))
        verdict = judge_manifest(adapter, *trusted)
        seen.add(verdict.status)
        if verdict.status is SignatureStatus.VERIFIED:
            # Base64 may hold what its readers pass over: what was signed is what counts.
            assert payload_of(damaged) == payload_of(original)
    assert {SignatureStatus.INVALID, SignatureStatus.UNTRUSTED} <= seen


def _damage(node: Any, chance: random.Random) -> Any:
    """The same document with one place in it spoilt."""
    if isinstance(node, dict) and node and chance.random() < 0.85:
        name = chance.choice(sorted(node))
        if chance.random() < 0.1:
            del node[name]
        else:
            node[name] = _damage(node[name], chance)
        return node
    if isinstance(node, list) and node and chance.random() < 0.85:
        place = chance.randrange(len(node))
        node[place] = _damage(node[place], chance)
        return node
    if isinstance(node, str) and node and chance.random() < 0.7:
        place = chance.randrange(len(node))
        return node[:place] + chance.choice("A/é\x00") + node[place + chance.randrange(2) :]
    return chance.choice([None, True, -1, 2**70, 1.5, "", "A" * 5000, [], {}, [[]], {"a": {}}])


def test_signing_refuses_what_is_no_adapter_or_no_key(adapter: Path, key: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with refused("weights_missing"):
        sign(empty, key)
    with refused("signing_key_invalid"):
        sign(adapter, tmp_path / "none.key")
    with refused("signing_key_invalid"):
        sign(adapter, key.with_suffix(".pub"))
    for wrong in ("rsa", "secp256k1"):
        path = tmp_path / f"{wrong}.key"
        kind = (
            ["-algorithm", "RSA"]
            if wrong == "rsa"
            else ["-algorithm", "EC", "-pkeyopt", f"ec_paramgen_curve:{wrong}"]
        )
        subprocess.run(["openssl", "genpkey", *kind, "-out", path], check=True, capture_output=True)
        with refused("signing_key_invalid") as caught:
            sign(adapter, path)
        assert "PRIVATE" not in str(caught.value)
    link = tmp_path / "linked"
    link.mkdir()
    for name in (CONFIG, WEIGHTS):
        (link / name).symlink_to(adapter / name)
    with refused("source_not_allowed"):
        sign(link, key)
    assert not (adapter / SIGNATURE_FILE).exists()


def test_an_encrypted_key_needs_its_password_and_never_shows_it(adapter: Path, tmp_path: Path) -> None:
    public = make_key(tmp_path / "locked.key", password="open sesame")
    locked = SigningKey(tmp_path / "locked.key", password="open sesame")
    assert locked.encrypted
    assert "sesame" not in repr(locked)
    sign_folder(adapter, locked)
    assert judge(adapter, read_key(public)).status is SignatureStatus.VERIFIED
    for password in ("open barley", None):
        with refused("signing_key_invalid") as caught:
            sign_folder(adapter, SigningKey(tmp_path / "locked.key", password=password))
        assert "barley" not in str(caught.value)


def test_trusted_files_that_are_none_are_refused(key: Path, issuer: Issuer, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(issuer.root.read_bytes() + issuer.intermediate.read_bytes())
    for path in (key, issuer.root, tmp_path / "none.pem", tmp_path):
        with refused("signing_key_invalid") as caught:
            read_key(path)
        assert "PRIVATE" not in str(caught.value)
    for path in (key, both, tmp_path / "none.pem"):
        with refused("signing_key_invalid"):
            read_authority(path, WHO)
