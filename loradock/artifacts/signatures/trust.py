"""Who is trusted: public keys and certificate authorities, with the cryptography of `model-signing` behind them.

The package's own `verifying.Config` compares a whole folder with a signature, and leaves out what the signer chose to leave
out: here the signature must cover exactly the files of an artifact, so only its verifiers are used, which its API does not
promise (the version is pinned below 1.2). What they leave open is closed here: who a certificate was issued to.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from model_signing._signing import sign_certificate, sign_ec_key, sign_sigstore_pb
from model_signing._signing.signing import Verifier
from model_signing.manifest import Manifest
from OpenSSL.crypto import X509StoreContextError

from loradock.artifacts.signatures.bundle import (
    Bundle,
    BundleError,
    Method,
    certificate_fingerprint,
    certificate_names,
    key_fingerprint,
)
from loradock.core.errors import LoradockError
from loradock.core.signatures import Trusted

_MAX_FILE_BYTES = 1024 * 1024
_CURVES = "an elliptic curve key (P-256, P-384 or P-521)"


class OtherSignerError(Exception):
    """Somebody else made the signature; the text is one sentence for people."""


class Authority(Protocol):
    """One thing that a rule trusts."""

    @property
    def trusted(self) -> Trusted:
        """What it is, for the record."""

    def signed_files(self, bundle: Bundle) -> Mapping[str, str]:
        """The files that the bundle's signature covers: path to sha256 in hex.

        Raises:
            OtherSignerError: it was made by somebody else.
            BundleError: it says to be theirs and is not, or covers something else than whole files by sha256.
        """


@dataclass(frozen=True)
class KeyAuthority:
    """A public key."""

    trusted: Trusted
    verifier: Verifier

    def signed_files(self, bundle: Bundle) -> Mapping[str, str]:
        """See `Authority`."""
        if bundle.method is not Method.KEY or bundle.key not in (None, self.trusted.anchor):
            raise OtherSignerError(f"it was made with {bundle.signer or 'something else'}")
        try:
            # A bundle of before 1.0 names no key: the verifier would say so on stdout.
            return _verify(self.verifier, bundle.document(self.trusted.anchor))
        except InvalidSignature:
            if bundle.key is None:
                raise OtherSignerError("it names no key, and was not made with a trusted one") from None
            raise BundleError("its signature does not hold") from None


@dataclass(frozen=True)
class CertificateAuthority:
    """A root certificate, and the one name below it that is trusted.

    Attributes:
        lock: the verifier is used by one thread at a time: it sets its store's clock to the certificate's first moment.
    """

    trusted: Trusted
    verifier: Verifier
    lock: threading.Lock

    def signed_files(self, bundle: Bundle) -> Mapping[str, str]:
        """See `Authority`."""
        if bundle.method is not Method.CERTIFICATE:
            raise OtherSignerError(f"it was made with {bundle.signer or 'something else'}")
        try:
            with self.lock:
                files = _verify(self.verifier, bundle.document())
        except X509StoreContextError:
            raise OtherSignerError("its certificate does not lead to a trusted root") from None
        except InvalidSignature:
            raise BundleError("its signature does not hold") from None
        names = certificate_names(bundle.certificates[0])
        if self.trusted.identity not in names:
            raise OtherSignerError(f"its certificate is for {', '.join(sorted(names))[:200] or 'nobody'}")
        return files


def read_key(path: Path) -> KeyAuthority:
    """A public key from its PEM file.

    Raises:
        LoradockError: `signing_key_invalid`.
    """
    try:
        key = load_pem_public_key(read_small(path))
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise LoradockError("signing_key_invalid", f"{path} is not {_CURVES}")
        verifier = sign_ec_key.Verifier(path)
    except (ValueError, UnsupportedAlgorithm):
        raise LoradockError(
            "signing_key_invalid", f"{path} holds no public key as PEM, of {_CURVES}"
        ) from None
    return KeyAuthority(Trusted(anchor=key_fingerprint(key)), verifier)


def read_authority(root: Path, identity: str) -> CertificateAuthority:
    """A root certificate from its PEM file, which holds that one alone.

    Raises:
        LoradockError: `signing_key_invalid`.
    """
    try:
        certificates = x509.load_pem_x509_certificates(read_small(root))
        if len(certificates) != 1:
            raise LoradockError(
                "signing_key_invalid", f"{root} holds {len(certificates)} certificates: give each root a file"
            )
        verifier = sign_certificate.Verifier([root])
    except (ValueError, UnsupportedAlgorithm):
        raise LoradockError("signing_key_invalid", f"{root} holds no certificate as PEM") from None
    anchor = certificate_fingerprint(certificates[0])
    return CertificateAuthority(Trusted(anchor=anchor, identity=identity), verifier, threading.Lock())


def read_small(path: Path) -> bytes:
    """A file of a key or certificate.

    Raises:
        LoradockError: `signing_key_invalid`; the message never repeats what is in it.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise LoradockError("signing_key_invalid", f"{path} cannot be read: {error.strerror}") from None
    if len(data) > _MAX_FILE_BYTES:
        raise LoradockError("signing_key_invalid", f"{path} is too large for a key or certificate")
    return data


def _verify(verifier: Verifier, document: bytes) -> Mapping[str, str]:
    """Have the package check the signature and read what is signed.

    Raises:
        BundleError, InvalidSignature, X509StoreContextError.
    """
    with TemporaryDirectory(prefix="loradock-signature-") as folder:
        path = Path(folder, "model.sig")
        path.write_bytes(document)
        signed = _signed(verifier, path)
    kind = signed.serialization_type
    files = [(one.identifier, one.digest) for one in signed.resource_descriptors()]
    if kind.get("method") != "files" or any(digest.algorithm != "sha256" for _, digest in files):
        raise BundleError("it does not cover whole files by sha256, which is what is checked here")
    return {name: digest.digest_hex for name, digest in files}


def _signed(verifier: Verifier, path: Path) -> Manifest:
    try:
        return verifier.verify(sign_sigstore_pb.Signature.read(path))
    except (InvalidSignature, X509StoreContextError):
        raise
    except Exception as error:  # hostile bytes in another's code: whatever it raises, the bundle is not valid
        raise BundleError(f"it cannot be checked ({type(error).__name__})") from None
