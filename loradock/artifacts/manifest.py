"""What an artifact is: which files of a source belong to it, and the digest that names them together."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from loradock.artifacts.paths import check_relative_path
from loradock.artifacts.protocol import SourceFile
from loradock.core.errors import LoradockError
from loradock.core.models import Manifest, ManifestFile

CONFIG_FILE: Final = "adapter_config.json"
WEIGHTS_FILE: Final = "adapter_model.safetensors"
MANIFEST_FILE: Final = "manifest.json"
SIGNATURE_FILE: Final = "model.sig"
"""A signature of the other files, by the name that OpenSSF model signing gives it. No part of the artifact: a digest is of
what an engine serves, whoever signed it."""

MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024
MAX_MANIFEST_FILES: Final = 1000
MAX_FILE_SIZE: Final = 2**48
MAX_LEFT_OUT: Final = 1000
"""Names of left-out files that a manifest keeps."""

_FORMAT: Final = "loradock.manifest/1"
_NEEDED: Final = re.compile(
    r"adapter_config\.json|adapter_model\.safetensors|README\.md|chat_template\.(jinja|json)"
    r"|tokenizer(_config)?\.json|tokenizer\.model|special_tokens_map\.json|added_tokens\.json"
    r"|vocab\.(json|txt)|merges\.txt|spiece\.model|sentencepiece\.bpe\.model"
)
_PICKLES: Final = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


class Selection(NamedTuple):
    """A source's files, parted.

    Attributes:
        taken: what belongs to the artifact; the config first, so that it can be judged before the weights move.
        left_out: the other files' paths, sorted.
        signature: the signature of what is taken, where there is one.
    """

    taken: tuple[SourceFile, ...]
    left_out: tuple[str, ...]
    signature: SourceFile | None = None


def belongs(path: str) -> bool:
    """Whether a file of this path is part of an artifact."""
    return _NEEDED.fullmatch(path) is not None


def select_files(files: Sequence[SourceFile], *, max_bytes: int) -> Selection:
    """Choose the files that an engine needs; only those directly in the folder, by name.

    Raises:
        LoradockError: `config_missing`, `pickle_refused`, `weights_missing`, `source_too_large`.
    """
    taken = [file for file in files if belongs(file.path)]
    paths = {file.path for file in taken}
    if WEIGHTS_FILE not in paths:
        pickles = [file.path for file in files if file.path.endswith(_PICKLES)]
        if pickles:
            raise LoradockError("pickle_refused", f"the weights are a pickle: {pickles[0]!r}")
        raise LoradockError("weights_missing", f"there is no {WEIGHTS_FILE} in the folder")
    if CONFIG_FILE not in paths:
        raise LoradockError("config_missing", f"there is no {CONFIG_FILE} in the folder")
    total = sum(file.size for file in taken)
    if total > max_bytes:
        raise LoradockError(
            "source_too_large", f"{total} bytes, {max_bytes} are allowed", size=total, limit=max_bytes
        )
    taken.sort(key=lambda file: (file.path != CONFIG_FILE, file.path == WEIGHTS_FILE, file.path))
    signature = next((file for file in files if file.path == SIGNATURE_FILE), None)
    left_out = sorted(file.path for file in files if file.path not in paths and file is not signature)
    return Selection(tuple(taken), tuple(left_out[:MAX_LEFT_OUT]), signature)


def manifest_digest(files: Iterable[ManifestFile]) -> str:
    """The digest over the files' paths, sizes and hashes; what was left out does not count."""
    entries = [
        {"path": file.path, "sha256": file.sha256, "size": file.size}
        for file in sorted(files, key=lambda file: file.path)
    ]
    canonical = json.dumps({"files": entries, "format": _FORMAT}, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(canonical.encode()).hexdigest()}"


def build_manifest(files: Iterable[ManifestFile], left_out: Iterable[str] = ()) -> Manifest:
    """The manifest of files that were hashed.

    Raises:
        LoradockError: `artifact_corrupt` when paths are not plain or collide.
    """
    ordered = tuple(sorted(files, key=lambda file: file.path))
    _check_files(ordered)
    return Manifest(digest=manifest_digest(ordered), files=ordered, left_out=tuple(left_out))


def manifest_bytes(manifest: Manifest) -> bytes:
    """The manifest as it is stored: the same manifest gives the same bytes."""
    content = manifest.model_dump(mode="json") | {"format": _FORMAT}
    return json.dumps(content, sort_keys=True, indent=1).encode()


def parse_manifest(data: bytes, *, digest: str | None = None) -> Manifest:
    """Read a stored manifest, trusting nothing in it.

    Args:
        digest: the one that it must have.

    Raises:
        LoradockError: `artifact_corrupt`.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise _corrupt(f"has more than {MAX_MANIFEST_BYTES} bytes")
    try:
        content: Any = json.loads(data.decode())
        if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
            raise _corrupt("is of another format")
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, part["loc"])) for part in error.errors()[:3])
        raise _corrupt(f"has wrong fields: {fields}") from None
    except (ValueError, RecursionError):
        raise _corrupt("is not JSON") from None
    check_manifest(manifest)
    if digest is not None and manifest.digest != digest:
        raise _corrupt(f"belongs to {manifest.digest}, not to {digest}")
    return manifest


def check_manifest(manifest: Manifest) -> None:
    """Check what the model's types do not: paths, order, limits, and that the digest is the files'.

    Raises:
        LoradockError: `artifact_corrupt`.
    """
    _check_files(manifest.files)
    if len(manifest.left_out) > MAX_LEFT_OUT:
        raise _corrupt("names too many left-out files")
    for path in manifest.left_out:
        _check_path(path)
    if manifest_digest(manifest.files) != manifest.digest:
        raise _corrupt("has a digest that is not its files'")


def _check_files(files: Sequence[ManifestFile]) -> None:
    if not 0 < len(files) <= MAX_MANIFEST_FILES:
        raise _corrupt(f"names {len(files)} files")
    paths = [file.path for file in files]
    if paths != sorted(set(paths)):
        raise _corrupt("names a file twice or out of order")
    if MANIFEST_FILE in paths:
        raise _corrupt(f"names {MANIFEST_FILE} itself")
    known = set(paths)
    for file in files:
        _check_path(file.path)
        parts = file.path.split("/")
        if any("/".join(parts[:end]) in known for end in range(1, len(parts))):
            raise _corrupt("uses one path as a file and as a folder")
        if file.size > MAX_FILE_SIZE:
            raise _corrupt("names an impossible size")


def _check_path(path: str) -> None:
    try:
        check_relative_path(path)
    except ValueError as error:
        raise _corrupt(str(error)) from None


def _corrupt(reason: str) -> LoradockError:
    return LoradockError("artifact_corrupt", f"the manifest {reason}")
