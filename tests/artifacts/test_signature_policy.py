"""The policy file: what is read, what is refused at the start, and that nothing heavy is imported without need."""

import subprocess
import sys
from pathlib import Path

import pytest

from loradock.artifacts.signatures import policy
from loradock.artifacts.signatures.policy import open_signature_checks
from loradock.core.settings import load_settings
from loradock.core.signatures import SignaturePolicy, SignatureRules
from tests.artifacts.helpers import refused
from tests.artifacts.signers import Issuer, make_key
from tests.dev.processes import environment
from worker import orchestrator

GOOD = """
[[rules]]
adapters = "acme/*"
policy = "require"
keys = ["keys/release.pub", "keys/other.pub"]

[[rules]]
adapters = "lab-*"
policy = "warn"
certificates = [{ roots = ["keys/root.pem"], identity = "ci@acme.example" }]

[[rules]]
adapters = "*"
policy = "off"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "keys").mkdir()
    make_key(tmp_path / "keys" / "release.key")
    make_key(tmp_path / "keys" / "other.key")
    Issuer(tmp_path / "keys")
    return tmp_path / "signatures.toml"


def opened(file: Path, text: str) -> policy.SignatureChecks:
    file.write_text(text)
    return open_signature_checks(load_settings(signature_policy=file))


def test_rules_are_read_in_their_order_with_paths_beside_the_file(file: Path) -> None:
    checks = opened(file, GOOD)
    first, second, third = checks.rules.rules
    assert [rule.policy for rule in checks.rules.rules] == [
        SignaturePolicy.REQUIRE,
        SignaturePolicy.WARN,
        SignaturePolicy.OFF,
    ]
    assert len({one.anchor for one in first.trusted}) == 2
    assert [one.identity for one in second.trusted] == ["ci@acme.example"]
    assert third.trusted == ()
    assert checks.check_for("acme/x") is not None
    assert checks.check_for("lab-x") is not None
    assert checks.check_for("x") is None


def test_without_a_file_nothing_is_asked(file: Path) -> None:
    checks = open_signature_checks(load_settings())
    assert checks.rules == SignatureRules()
    assert checks.check_for("acme/x") is None


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("rules = 7", "rules"),
        ("", "rules"),
        ("not toml", "TOML"),
        ('[[rules]]\nadapters = "*"\npolicy = "requires"\nkeys = ["keys/release.pub"]', "policy"),
        ('[[rules]]\nadapters = "*"\npolicy = "require"', "trusts nobody"),
        ('[[rules]]\nadapters = "*"\npolicy = "warn"\nkeys = []', "trusts nobody"),
        ('[[rules]]\nadapters = "a[bc]"\npolicy = "off"', "adapters"),
        ('[[rules]]\nadapters = "*"\npolicy = "off"\nkey = "x"', "key"),
        (
            '[[rules]]\nadapters = "*"\npolicy = "warn"\ncertificates = [{ roots = ["keys/root.pem"] }]',
            "identity",
        ),
        (
            '[[rules]]\nadapters = "*"\npolicy = "warn"\ncertificates = [{ roots = [], identity = "x" }]',
            "roots",
        ),
        ("a = " + "[" * 5000, "TOML"),
    ],
)
def test_a_policy_that_is_none_is_refused_and_says_where(file: Path, text: str, names: str) -> None:
    with refused("setting_invalid") as caught:
        opened(file, text)
    assert names in caught.value.message
    assert "LORADOCK_SIGNATURE_POLICY" in caught.value.message


def test_a_policy_or_key_that_is_not_there_is_refused_at_the_start(file: Path) -> None:
    with refused("setting_invalid"):
        open_signature_checks(load_settings(signature_policy=file))
    with refused("signing_key_invalid") as caught:
        opened(file, '[[rules]]\nadapters = "*"\npolicy = "warn"\nkeys = ["keys/gone.pub"]')
    assert "gone.pub" in caught.value.message


async def test_without_the_packages_an_orchestrator_with_such_a_policy_does_not_start(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "_PACKAGES", ("no_such_package",))
    file.write_text(GOOD)
    settings = load_settings(signature_policy=file, database_url="postgresql://nobody@127.0.0.1:1/none")
    with refused("signatures_unavailable") as caught:
        await orchestrator.run(settings, None)
    assert "no_such_package" in caught.value.message
    # One that asks for nothing does not need them.
    assert opened(file, '[[rules]]\nadapters = "*"\npolicy = "off"').check_for("x") is None


def test_reading_a_policy_does_not_import_the_packages_of_the_extra() -> None:
    code = "import sys, loradock.artifacts.signatures.policy; print({'model_signing', 'cryptography'} & {*sys.modules})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
