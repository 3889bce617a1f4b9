"""A signature's bundle as it comes from outside: read within limits before any cryptography sees it."""

import base64
import hashlib
import json
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from loradock.artifacts.signatures.protocol import MAX_BUNDLE_BYTES, SignatureFile
from loradock.artifacts.strict_json import strict_json

MAX_CERTIFICATES: Final = 10
"""In the chain that a bundle brings."""

_MAX_HINT: Final = 128


class BundleError(ValueError):
    """The bundle is none; the text is one sentence for people."""


class Method(StrEnum):
    """How a bundle was signed."""

    KEY = "key"
    CERTIFICATE = "certificate"
    KEYLESS = "keyless"
    """By a short-lived certificate and an entry in a transparency log: not checked here."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose outer form is right. Nothing in it is proven.

    Attributes:
        media_type, envelope: what was signed, and the signature, with the fields that are known alone.
        key: fingerprint of the key that it names, where it names one.
        certificates: the signing certificate and those above it.
    """

    method: Method
    media_type: Any
    envelope: dict[str, Any]
    key: str | None = None
    certificates: tuple[x509.Certificate, ...] = ()

    @property
    def signer(self) -> str | None:
        """Fingerprint of the key or certificate that it claims to be signed with."""
        return certificate_fingerprint(self.certificates[0]) if self.certificates else self.key

    def document(self, key: str | None = None) -> bytes:
        """The bundle as JSON, written anew from what was understood here: whoever reads it next finds nothing else in it,
        for instance a field's second spelling.

        Args:
            key: the fingerprint that it shall name.

        Raises:
            BundleError: it is nested too deeply.
        """
        material: dict[str, Any] = {"tlogEntries": []}
        if self.certificates:
            encoded = [base64.b64encode(one.public_bytes(Encoding.DER)).decode() for one in self.certificates]
            material["x509CertificateChain"] = {"certificates": [{"rawBytes": one} for one in encoded]}
        else:
            material["publicKey"] = {"hint": (key or "").removeprefix("sha256:")}
        content = {
            "mediaType": self.media_type,
            "verificationMaterial": material,
            "dsseEnvelope": self.envelope,
        }
        try:
            return json.dumps(content).encode()
        except RecursionError:
            raise BundleError("it is nested too deeply") from None


def read_bundle(file: SignatureFile) -> Bundle:
    """Parse a bundle, trusting nothing in it.

    Raises:
        BundleError: it is too large, no JSON, or of another form.
    """
    if file.size > MAX_BUNDLE_BYTES:
        raise BundleError(f"it has {file.size} bytes, {MAX_BUNDLE_BYTES} are allowed")
    try:
        content = strict_json(file.data)
    except ValueError:
        raise BundleError("it is not JSON") from None
    match content:
        case {"verificationMaterial": dict() as material, "dsseEnvelope": dict() as envelope}:
            made = partial(Bundle, media_type=content.get("mediaType"), envelope=_envelope(envelope))
        case _:
            raise BundleError("it is not a Sigstore bundle of a model's signature")
    match material:
        case {"publicKey": dict() as key}:
            return made(Method.KEY, key=_hint(key.get("hint")))
        case {"x509CertificateChain": {"certificates": [*certificates]}} if certificates:
            return made(Method.CERTIFICATE, certificates=_certificates(certificates))
        case {"certificate": _}:
            return made(Method.KEYLESS)
        case _:
            raise BundleError("it names neither a key nor a certificate")


def _envelope(envelope: dict[str, Any]) -> dict[str, Any]:
    match envelope:
        case {
            "payload": str() as payload,
            "payloadType": str() as kind,
            "signatures": [{"sig": str() as sig}],
        }:
            return {"payload": payload, "payloadType": kind, "signatures": [{"sig": sig, "keyid": ""}]}
        case _:
            raise BundleError("it has not exactly one signature over one payload")


def key_fingerprint(key: ec.EllipticCurvePublicKey) -> str:
    """`sha256:…` over the public key's PEM form, as the bundles name it: `sha256sum release.pub`."""
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return f"sha256:{hashlib.sha256(pem).hexdigest()}"


def certificate_fingerprint(certificate: x509.Certificate) -> str:
    """`sha256:…` over the certificate's DER form, as `openssl x509 -fingerprint -sha256` shows it."""
    return f"sha256:{hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()}"


def certificate_names(certificate: x509.Certificate) -> frozenset[str]:
    """E-mail addresses, URIs and DNS names of a certificate; of one without any, its common names."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        kinds = (x509.RFC822Name, x509.UniformResourceIdentifier, x509.DNSName)
        return frozenset(str(name) for kind in kinds for name in names.get_values_for_type(kind))
    except x509.ExtensionNotFound:
        common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        return frozenset(str(name.value) for name in common)
    except ValueError:
        raise BundleError("its certificate is damaged") from None


def _hint(hint: Any) -> str | None:
    """The fingerprint that a bundle gives of its key; bundles of before 1.0 give none."""
    if hint is None or hint == "":
        return None
    if not isinstance(hint, str) or len(hint) > _MAX_HINT or not hint.isalnum():
        raise BundleError("the fingerprint of its key is malformed")
    return f"sha256:{hint}"


def _certificates(certificates: list[Any]) -> tuple[x509.Certificate, ...]:
    if len(certificates) > MAX_CERTIFICATES:
        raise BundleError(f"it brings {len(certificates)} certificates, {MAX_CERTIFICATES} are allowed")
    try:
        encoded = [base64.b64decode(one["rawBytes"], validate=True) for one in certificates]
        return tuple(x509.load_der_x509_certificate(one) for one in encoded)
    except (ValueError, TypeError, KeyError):
        raise BundleError("one of its certificates is damaged") from None
