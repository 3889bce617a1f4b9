"""Signatures of adapters: what policy asks for, and what a check found. No cryptography here."""

import re
from datetime import datetime
from enum import StrEnum

from pydantic import Field

from loradock.core.models import Model


class SignaturePolicy(StrEnum):
    """What is asked of an adapter's signature."""

    OFF = "off"
    """Nothing: a bundle is not even read."""
    WARN = "warn"
    """It is checked and the verdict kept; whatever it is, the version is published."""
    REQUIRE = "require"
    """Only what a trusted signature covers is published or loaded."""


class SignatureStatus(StrEnum):
    """What a check found."""

    VERIFIED = "verified"
    """A trusted key signed exactly the files of the artifact."""
    UNSIGNED = "unsigned"
    """There is no bundle."""
    INVALID = "invalid"
    """There is a bundle, and it does not hold for these files, or is none."""
    UNTRUSTED = "untrusted"
    """Nobody whom the policy trusts made it."""


class SignatureVerdict(Model):
    """What a check of an adapter's signature found.

    Attributes:
        policy: what was asked for when it was checked.
        reason: one sentence for people.
        method: `key` or `certificate`, as far as known.
        signer: fingerprint of the key or of the signing certificate: `sha256:…`. Only of a verified signature is it proven;
            else it is what the bundle claims.
        identity: of a certificate: the name in it that the policy trusts.
        anchor: fingerprint of what the policy trusts: the key itself, or the root that the certificate leads to.
        bundle: sha256 of the bundle's bytes.
    """

    status: SignatureStatus
    policy: SignaturePolicy
    reason: str
    checked_at: datetime
    method: str | None = None
    signer: str | None = None
    identity: str | None = None
    anchor: str | None = None
    bundle: str | None = None

    @property
    def warning(self) -> str:
        """What people should know of it; empty for a verified signature."""
        return "" if self.status is SignatureStatus.VERIFIED else f"signature {self.status}: {self.reason}"


class SignatureRecord(SignatureVerdict):
    """A verdict as it is kept with a version.

    Attributes:
        operation: the publish that made the check.
    """

    operation: str


class Trusted(Model):
    """One thing that a rule trusts.

    Attributes:
        anchor: fingerprint of a public key, or of a root certificate.
        identity: the name that a certificate must have; None for a key.
    """

    anchor: str
    identity: str | None = None


class SignatureRule(Model):
    """What is asked of some adapters.

    Attributes:
        adapters: their names; `*` stands for any characters, `/` among them.
    """

    adapters: str = "*"
    policy: SignaturePolicy = SignaturePolicy.OFF
    trusted: tuple[Trusted, ...] = ()

    def covers(self, adapter: str) -> bool:
        """Whether the rule is meant for this adapter."""
        parts = (re.escape(part) for part in self.adapters.split("*"))
        return re.fullmatch(".*".join(parts), adapter) is not None

    def admits(self, found: SignatureVerdict | None) -> bool:
        """Whether a version with this verdict may be loaded: trust is judged as the rule stands now, not as it stood
        when the version was published.
        """
        if self.policy is not SignaturePolicy.REQUIRE:
            return True
        if found is None or found.status is not SignatureStatus.VERIFIED:
            return False
        return Trusted(anchor=found.anchor or "", identity=found.identity) in self.trusted


class SignatureRules(Model):
    """All rules, in their order."""

    rules: tuple[SignatureRule, ...] = Field(default=())

    def rule_for(self, adapter: str) -> SignatureRule:
        """The first rule that covers the adapter; one that asks for nothing when there is none."""
        return next((rule for rule in self.rules if rule.covers(adapter)), SignatureRule())
