"""The signature policy: which rule covers a name, and what it admits."""

from datetime import UTC, datetime

import pytest

from loradock.core.signatures import (
    SignaturePolicy,
    SignatureRule,
    SignatureRules,
    SignatureStatus,
    SignatureVerdict,
    Trusted,
)

KEY = Trusted(anchor="sha256:aa")
ROOT = Trusted(anchor="sha256:bb", identity="ci@acme.example")


def verdict(status: SignatureStatus = SignatureStatus.VERIFIED, **facts: str) -> SignatureVerdict:
    return SignatureVerdict(
        status=status,
        policy=SignaturePolicy.WARN,
        reason="as it is",
        checked_at=datetime(2026, 1, 2, tzinfo=UTC),
        **facts,  # type: ignore[arg-type]
    )


def test_the_first_rule_that_covers_the_name_counts_and_without_one_nothing_is_asked() -> None:
    rules = SignatureRules(
        rules=(
            SignatureRule(adapters="acme/probe", policy=SignaturePolicy.OFF),
            SignatureRule(adapters="acme/*", policy=SignaturePolicy.REQUIRE),
            SignatureRule(adapters="*-prod", policy=SignaturePolicy.REQUIRE),
            SignatureRule(adapters="a.b", policy=SignaturePolicy.WARN),
        )
    )
    asked = {
        name: rules.rule_for(name).policy.value
        for name in (
            "acme/probe",
            "acme/probes",
            "acme",
            "ACME/x",
            "x-prod",
            "other/x-prod",
            "a.b",
            "aXb",
            "x",
        )
    }
    assert asked == {
        "acme/probe": "off",
        "acme/probes": "require",
        "acme": "off",
        "ACME/x": "off",
        "x-prod": "require",
        "other/x-prod": "require",
        "a.b": "warn",
        "aXb": "off",
        "x": "off",
    }


@pytest.mark.parametrize(
    "status", [status for status in SignatureStatus if status is not SignatureStatus.VERIFIED]
)
def test_require_admits_nothing_that_is_not_verified(status: SignatureStatus) -> None:
    rule = SignatureRule(policy=SignaturePolicy.REQUIRE, trusted=(KEY,))
    assert not rule.admits(None)
    assert not rule.admits(verdict(status, anchor=KEY.anchor))
    for policy in (SignaturePolicy.OFF, SignaturePolicy.WARN):
        assert SignatureRule(policy=policy, trusted=(KEY,)).admits(verdict(status))
        assert SignatureRule(policy=policy).admits(None)


def test_trust_is_judged_by_the_rule_of_now() -> None:
    by_key = verdict(anchor=KEY.anchor)
    by_name = verdict(anchor=ROOT.anchor, identity=ROOT.identity or "")

    def admits(found: SignatureVerdict, *trusted: Trusted) -> bool:
        return SignatureRule(policy=SignaturePolicy.REQUIRE, trusted=trusted).admits(found)

    assert admits(by_key, ROOT, KEY)
    assert admits(by_name, KEY, ROOT)
    assert not admits(by_key, ROOT)
    assert not admits(by_name, KEY)
    assert not admits(by_name, Trusted(anchor=ROOT.anchor, identity="intern@acme.example"))
    assert not admits(by_name, Trusted(anchor=ROOT.anchor))
