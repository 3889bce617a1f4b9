"""People who sign adapters: keys, and certificates below a root of their own, as PEM files."""

import base64
import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from loradock.artifacts.signatures.signing import Signed, SigningKey, sign_folder

SIGNATURE = "model.sig"


def make_key(path: Path, *, password: str | None = None, curve: ec.EllipticCurve | None = None) -> Path:
    """A private key, and beside it `.pub`: its public one, which is returned."""
    key = ec.generate_private_key(curve or ec.SECP256R1())
    locked = NoEncryption() if password is None else BestAvailableEncryption(password.encode())
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    public = path.with_suffix(".pub")
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return public


class Issuer:
    """A root, an intermediate below it, and certificates for people.

    Attributes:
        root, intermediate: PEM files.
    """

    def __init__(self, folder: Path, name: str = "root") -> None:
        self._folder = folder
        self._keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("root", "middle")}
        self.root = folder / f"{name}.pem"
        self.intermediate = folder / f"{name}-middle.pem"
        root = self._certificate(name, self._keys["root"], name, self._keys["root"], authority=True)
        middle = self._certificate(
            f"{name} middle", self._keys["middle"], name, self._keys["root"], authority=True
        )
        self._middle_name = f"{name} middle"
        self.root.write_bytes(root.public_bytes(Encoding.PEM))
        self.intermediate.write_bytes(middle.public_bytes(Encoding.PEM))

    def issue(self, identity: str, *, signing: bool = True, years_ago: int = 0) -> SigningKey:
        """A key with a certificate for an e-mail address; without `signing` it is good for something else."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._certificate(
            "somebody",
            key,
            self._middle_name,
            self._keys["middle"],
            identity=identity,
            signing=signing,
            years_ago=years_ago,
        )
        private, public = self._folder / f"{identity}.key", self._folder / f"{identity}.crt"
        private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        public.write_bytes(certificate.public_bytes(Encoding.PEM))
        return SigningKey(private, certificate=public, chain=(self.intermediate,))

    def _certificate(
        self,
        name: str,
        key: ec.EllipticCurvePrivateKey,
        issuer: str,
        issuer_key: ec.EllipticCurvePrivateKey,
        *,
        authority: bool = False,
        identity: str | None = None,
        signing: bool = True,
        years_ago: int = 0,
    ) -> x509.Certificate:
        begins = datetime.datetime(2020 if authority else 2026 - years_ago, 1, 1, tzinfo=datetime.UTC)
        usage = {
            "digital_signature": signing and not authority,
            "key_cert_sign": authority,
            "crl_sign": authority,
        }
        others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
        flags = {**dict.fromkeys((*others, "encipher_only", "decipher_only"), False), **usage}
        if not any(flags.values()):
            flags["key_agreement"] = True
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(begins + datetime.timedelta(days=9000 if authority else 360))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(**flags), critical=True)
        )
        if identity is not None:
            names = x509.SubjectAlternativeName([x509.RFC822Name(identity)])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(issuer_key, hashes.SHA256())


def sign(folder: Path, private_key: Path) -> Signed:
    """Sign a folder with a key."""
    return sign_folder(folder, SigningKey(private_key))


def change_bundle(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what lies in a folder's bundle, without signing it again."""
    path = folder / SIGNATURE
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def payload_of(bundle: dict[str, Any]) -> dict[str, Any]:
    """What the signature in a bundle is over."""
    payload: dict[str, Any] = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    return payload


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
