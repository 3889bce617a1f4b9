"""Judging the signature of one adapter by a rule."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from loradock.artifacts.manifest import belongs
from loradock.artifacts.signatures.bundle import Bundle, BundleError, Method, read_bundle
from loradock.artifacts.signatures.protocol import SignatureFile
from loradock.artifacts.signatures.trust import Authority, OtherSignerError
from loradock.core.errors import LoradockError
from loradock.core.models import Manifest, utc_now
from loradock.core.signatures import SignaturePolicy, SignatureStatus, SignatureVerdict

_REFUSALS: Final = {
    SignatureStatus.UNSIGNED: "signature_missing",
    SignatureStatus.INVALID: "signature_invalid",
    SignatureStatus.UNTRUSTED: "signature_untrusted",
}
_KEYLESS: Final = "it is a keyless Sigstore signature, which is not supported here"


@dataclass(frozen=True)
class AuthorityCheck:
    """Checks by what a rule trusts; a `SignatureCheck`."""

    policy: SignaturePolicy
    authorities: Sequence[Authority]

    def __call__(self, found: SignatureFile | None, manifest: Manifest) -> SignatureVerdict:
        """Judge whether the signature covers exactly these files.

        Raises:
            LoradockError: `signature_missing`, `signature_invalid`, `signature_untrusted` when the policy is `require`.
        """
        verdict = self._judge(found, manifest)
        if self.policy is SignaturePolicy.REQUIRE and verdict.status in _REFUSALS:
            raise LoradockError(
                _REFUSALS[verdict.status], verdict.reason, signature=verdict.model_dump(mode="json")
            )
        return verdict

    def _judge(self, found: SignatureFile | None, manifest: Manifest) -> SignatureVerdict:
        if found is None:
            return self._verdict(SignatureStatus.UNSIGNED, "there is no model.sig")
        facts: dict[str, Any] = {"bundle": found.fingerprint}
        try:
            bundle = read_bundle(found)
            facts |= {"method": bundle.method.value, "signer": bundle.signer}
            authority, files = self._find(bundle)
            facts |= {"anchor": authority.trusted.anchor, "identity": authority.trusted.identity}
            facts["signer"] = bundle.signer or authority.trusted.anchor
            _compare(files, manifest)
        except OtherSignerError as error:
            return self._verdict(SignatureStatus.UNTRUSTED, f"model.sig: {error}", **facts)
        except BundleError as error:
            return self._verdict(SignatureStatus.INVALID, f"model.sig: {error}", **facts)
        return self._verdict(
            SignatureStatus.VERIFIED, "a trusted signature covers exactly these files", **facts
        )

    def _find(self, bundle: Bundle) -> tuple[Authority, Mapping[str, str]]:
        """The first authority whose signature it is, and the files that it covers."""
        if bundle.method is Method.KEYLESS:
            raise OtherSignerError(_KEYLESS)
        why = OtherSignerError("nobody is trusted")
        for authority in self.authorities:
            try:
                return authority, authority.signed_files(bundle)
            except OtherSignerError as error:
                why = error
        raise why

    def _verdict(self, status: SignatureStatus, reason: str, **facts: Any) -> SignatureVerdict:
        return SignatureVerdict(
            status=status, policy=self.policy, reason=reason, checked_at=utc_now(), **facts
        )


def _compare(signed: Mapping[str, str], manifest: Manifest) -> None:
    """See that what was signed is the artifact: each of its files, and none of it taken away.

    Files that were signed with it and are never part of an artifact (optimizer states …) may be missing.

    Raises:
        BundleError: it is not.
    """
    for file in manifest.files:
        if file.path not in signed:
            raise BundleError(f"it does not cover {file.path}")
        if signed[file.path] != file.sha256:
            raise BundleError(f"{file.path} is not the file that was signed")
    taken = {file.path for file in manifest.files}
    for path in signed:
        if belongs(path) and path not in taken:
            raise BundleError(f"{path[:200]!r} was signed and is not here")
