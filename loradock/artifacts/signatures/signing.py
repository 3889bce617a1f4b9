"""Making the signature of a local folder, with a key or certificate of one's own."""

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography.exceptions import UnsupportedAlgorithm
from model_signing import hashing, signing

from loradock.artifacts.disk import disk_errors, write_whole
from loradock.artifacts.manifest import SIGNATURE_FILE, select_files
from loradock.artifacts.protocol import SourceFile
from loradock.artifacts.signatures.bundle import read_bundle
from loradock.artifacts.signatures.protocol import SignatureFile
from loradock.artifacts.signatures.trust import read_small
from loradock.core.errors import LoradockError

_MAX_BYTES = 2**48


@dataclass(frozen=True)
class SigningKey:
    """What to sign with.

    Attributes:
        private_key: PEM file of an elliptic curve key.
        password: of the private key, for a key without certificate.
        certificate: PEM file of its certificate; without one the signature names the key.
        chain: PEM files of the certificates between it and the root, root last or left out.
    """

    private_key: Path
    password: str | None = field(default=None, repr=False)
    certificate: Path | None = None
    chain: tuple[Path, ...] = ()

    @property
    def encrypted(self) -> bool:
        """Whether the private key asks for a password.

        Raises:
            LoradockError: `signing_key_invalid`.
        """
        return b"ENCRYPTED" in read_small(self.private_key)


@dataclass(frozen=True, slots=True)
class Signed:
    """A signature that was made.

    Attributes:
        path: of the bundle.
        signer: fingerprint of key or certificate.
        files: what it covers.
    """

    path: Path
    signer: str
    files: tuple[str, ...]


def sign_folder(folder: Path, key: SigningKey) -> Signed:
    """Sign the files of the adapter in a folder; what else lies there is left out. An earlier signature is replaced.

    Raises:
        LoradockError: `signing_key_invalid`, `config_missing`, `weights_missing`, `pickle_refused`,
            `source_not_allowed` for links among the adapter's files, `disk_full`, `disk_error`.
    """
    signer = _signer(key)
    with disk_errors("signing"):
        files = _files(folder)
        others = [path.name for path in folder.iterdir() if path.name not in files]
        signer.set_hashing_config(hashing.Config().set_ignored_paths(paths=[*others, SIGNATURE_FILE]))
        with TemporaryDirectory(prefix="loradock-sign-") as temporary:
            made = Path(temporary, SIGNATURE_FILE)
            signer.sign(folder, made)
            data = made.read_bytes()
        write_whole(folder / SIGNATURE_FILE, data)
    bundle = read_bundle(SignatureFile(len(data), data))
    return Signed(folder / SIGNATURE_FILE, bundle.signer or "", files)


def _signer(key: SigningKey) -> signing.Config:
    for path in filter(None, (key.private_key, key.certificate, *key.chain)):
        read_small(path)
    try:
        if key.certificate is not None:
            return signing.Config().use_certificate_signer(
                private_key=key.private_key, signing_certificate=key.certificate, certificate_chain=key.chain
            )
        # model-signing hands the password to cryptography as it is, which takes bytes alone.
        password = None if key.password is None else key.password.encode()
        return signing.Config().use_elliptic_key_signer(private_key=key.private_key, password=password)  # type: ignore[arg-type]
    except (ValueError, TypeError, AttributeError, UnsupportedAlgorithm):
        # Its text is not repeated: it may say something of what is in the files.
        raise LoradockError(
            "signing_key_invalid",
            f"{key.private_key} is no private key as PEM of P-256, P-384 or P-521, its password is wrong, or "
            "the certificate is not this key's",
        ) from None


def _files(folder: Path) -> tuple[str, ...]:
    """The adapter's files, which are plain ones."""
    listed = []
    for path in sorted(folder.iterdir()):
        if path.is_file():
            listed.append(SourceFile(path.name, path.stat().st_size, ""))
    taken = sorted(file.path for file in select_files(listed, max_bytes=_MAX_BYTES).taken)
    for name in taken:
        if (folder / name).is_symlink():
            raise LoradockError(
                "source_not_allowed", f"{name} is a link: sign the folder that holds the file itself"
            )
    return tuple(taken)
