"""The policy file: which adapters must be signed, and by whom. Read once, when a process starts."""

import importlib.util
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field, StringConstraints, ValidationError, model_validator

from loradock.artifacts.signatures.protocol import SignatureCheck
from loradock.core.errors import LoradockError
from loradock.core.models import Model
from loradock.core.settings import Settings
from loradock.core.signatures import SignaturePolicy, SignatureRule, SignatureRules

if TYPE_CHECKING:
    from loradock.artifacts.signatures.trust import Authority

SETTING: Final = "LORADOCK_SIGNATURE_POLICY"
_MAX_POLICY_BYTES: Final = 1024 * 1024
_PACKAGES: Final = ("model_signing", "OpenSSL")


class _Certificates(Model):
    """Signers whose certificates lead to one of these roots and have this name."""

    roots: tuple[Path, ...] = Field(min_length=1)
    identity: str = Field(min_length=1)


class _Rule(Model):
    """One `[[rules]]` of the file."""

    adapters: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._/*-]+$", max_length=200)]
    policy: SignaturePolicy
    keys: tuple[Path, ...] = ()
    certificates: tuple[_Certificates, ...] = ()

    @model_validator(mode="after")
    def _trusts_somebody(self) -> "_Rule":
        if self.policy is not SignaturePolicy.OFF and not self.keys and not self.certificates:
            raise ValueError("it trusts nobody: give keys or certificates")
        return self


class _File(Model):
    rules: tuple[_Rule, ...]


class SignatureChecks:
    """What is asked of each adapter, and who checks it.

    Attributes:
        rules: the policy without its cryptography, for whoever decides on loads.
    """

    def __init__(self, rules: SignatureRules, checks: Mapping[SignatureRule, SignatureCheck]) -> None:
        self.rules = rules
        self._checks = checks

    def check_for(self, adapter: str) -> SignatureCheck | None:
        """How the signature of this adapter is checked; None where nothing is asked for."""
        return self._checks.get(self.rules.rule_for(adapter))


NO_CHECKS: Final = SignatureChecks(SignatureRules(), {})


def open_signature_checks(settings: Settings) -> SignatureChecks:
    """The checks that the policy file asks for; none without one.

    Raises:
        LoradockError: `setting_invalid`, `signing_key_invalid`, `signatures_unavailable`.
    """
    path = settings.signature_policy
    if path is None:
        return NO_CHECKS
    rules = _read(path)
    if any(rule.policy is not SignaturePolicy.OFF for rule in rules):
        require_package(f"the policy in {path}")
    checks: dict[SignatureRule, SignatureCheck] = {}
    known = []
    for rule in rules:
        made, check = _open(rule, path.parent)
        known.append(made)
        if check is not None:
            checks[made] = check
    return SignatureChecks(SignatureRules(rules=tuple(known)), checks)


def require_package(wanted_by: str) -> None:
    """See that what checks and makes signatures is installed.

    Raises:
        LoradockError: `signatures_unavailable`.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise LoradockError(
            "signatures_unavailable", f"{wanted_by} needs {' and '.join(missing)}, not installed here"
        )


def _read(path: Path) -> tuple[_Rule, ...]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_POLICY_BYTES + 1)
        if len(data) > _MAX_POLICY_BYTES:
            raise LoradockError("setting_invalid", f"{SETTING}: {path} is too large")
        return _File.model_validate(tomllib.loads(data.decode())).rules
    except OSError as error:
        raise LoradockError(
            "setting_invalid", f"{SETTING}: {path} cannot be read: {error.strerror}"
        ) from None
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, part['loc']))}: {part['msg']}"
            for part in error.errors(include_input=False)[:5]
        )
        raise LoradockError("setting_invalid", f"{SETTING}: {path}: {wrong}") from None
    except (ValueError, RecursionError):
        raise LoradockError("setting_invalid", f"{SETTING}: {path} is not TOML") from None


def _open(rule: _Rule, folder: Path) -> tuple[SignatureRule, SignatureCheck | None]:
    if rule.policy is SignaturePolicy.OFF:
        return SignatureRule(adapters=rule.adapters), None
    # Only here: the packages behind it are an extra.
    from loradock.artifacts.signatures.checking import AuthorityCheck  # noqa: PLC0415
    from loradock.artifacts.signatures.trust import read_authority, read_key  # noqa: PLC0415

    authorities: list[Authority] = [read_key(folder / key) for key in rule.keys]
    authorities += [
        read_authority(folder / root, one.identity) for one in rule.certificates for root in one.roots
    ]
    made = SignatureRule(
        adapters=rule.adapters, policy=rule.policy, trusted=tuple(one.trusted for one in authorities)
    )
    return made, AuthorityCheck(rule.policy, tuple(authorities))
