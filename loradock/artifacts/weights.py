"""The header of a safetensors file: every tensor's name, type, shape and place, checked to the last byte.

Our own parser: the file is refused before any library maps it, and the checks are at least as strict as theirs.
"""

import math
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from loradock.artifacts.disk import open_plain
from loradock.artifacts.strict_json import strict_json
from loradock.core.errors import LoradockError

MAX_HEADER_BYTES: Final = 32 * 1024 * 1024
MAX_TENSORS: Final = 200_000
MAX_NAME: Final = 512
MAX_DIMENSIONS: Final = 8
MAX_NUMBER: Final = 2**48

DTYPE_BITS: Final = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64,
}  # fmt: skip
"""Bits per number of every type that the format knows."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor as the header describes it.

    Attributes:
        begin: first byte, counted from the end of the header.
        end: one past the last byte.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def parameters(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class WeightsHeader:
    """A file's header.

    Attributes:
        tensors: in the order of their bytes, which cover the file without gap or overlap.
        data_start: where the first tensor's bytes begin in the file.
    """

    tensors: tuple[Tensor, ...]
    data_start: int


def read_header(path: Path) -> WeightsHeader:
    """Read and check a file's header; the tensors themselves are not read.

    Raises:
        LoradockError: `weights_missing`, `weights_corrupt`.
    """
    try:
        file = open_plain(path)
    except OSError as error:
        raise LoradockError("weights_missing", f"{path.name} cannot be opened: {error.strerror}") from None
    with file:
        size = os.fstat(file.fileno()).st_size
        length = header_length(file.read(8), size)
        text = file.read(length)
    if len(text) != length:
        raise _corrupt("is shorter than it was a moment ago")
    return parse_header(text, size - 8 - length)


def header_length(start: bytes, file_size: int) -> int:
    """The header's length from the file's first eight bytes.

    Raises:
        LoradockError: `weights_corrupt`.
    """
    if len(start) < 8:
        raise _corrupt(f"has only {file_size} bytes")
    length = int(struct.unpack("<Q", start)[0])
    if length > MAX_HEADER_BYTES:
        raise _corrupt(f"says that its header has {length} bytes, {MAX_HEADER_BYTES} are allowed")
    if length < 2 or length > file_size - 8:
        raise _corrupt(f"says that its header has {length} bytes, the file has {file_size}")
    return length


def parse_header(text: bytes, data_size: int) -> WeightsHeader:
    """Check a header against the size of the data that follows it.

    Raises:
        LoradockError: `weights_corrupt`.
    """
    # Brackets are counted first: parsing many million empty lists would cost gigabytes.
    if text[:1] != b"{" or text.count(b"{") > MAX_TENSORS + 2 or text.count(b"[") > 2 * MAX_TENSORS:
        raise _corrupt("has a header that is not a table of tensors")
    try:
        content = strict_json(text)
    except ValueError as error:
        raise _corrupt(f"has a header that cannot be read: {_reason(error)}") from None
    _check_metadata(content.pop("__metadata__", {}))
    tensors = sorted(
        (_tensor(name, entry) for name, entry in content.items()), key=lambda one: (one.begin, one.end)
    )
    _check_cover(tensors, data_size)
    return WeightsHeader(tuple(tensors), 8 + len(text))


def _tensor(name: str, entry: Any) -> Tensor:
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise _corrupt(f"has a tensor with an impossible name: {name[:80]!r}")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _corrupt(f"describes tensor {name!r} in an unknown way")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise _corrupt(f"has tensor {name!r} of an unknown type")
    if not _numbers(shape, MAX_DIMENSIONS) or not _numbers(offsets, 2) or len(offsets) != 2:
        raise _corrupt(f"has tensor {name!r} with an impossible shape or place")
    tensor = Tensor(name, dtype, tuple(shape), offsets[0], offsets[1])
    bits = tensor.parameters * DTYPE_BITS[dtype]
    if bits % 8 or bits // 8 != tensor.end - tensor.begin:
        raise _corrupt(f"gives tensor {name!r} a place that does not fit its shape")
    return tensor


def _numbers(value: Any, most: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= most
        and all(type(number) is int and 0 <= number <= MAX_NUMBER for number in value)
    )


def _check_metadata(metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _corrupt("has metadata that are not texts")


def _check_cover(tensors: Sequence[Tensor], data_size: int) -> None:
    if len(tensors) > MAX_TENSORS:
        raise _corrupt(f"has more than {MAX_TENSORS} tensors")
    position = 0
    for tensor in tensors:
        if tensor.begin != position:
            raise _corrupt(f"has a gap or an overlap before tensor {tensor.name!r}")
        position = tensor.end
    if position != data_size:
        raise _corrupt(f"should have {position} bytes after its header and has {data_size}")


def _reason(error: ValueError) -> str:
    return "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)[:200]


def _corrupt(reason: str) -> LoradockError:
    return LoradockError("weights_corrupt", f"the safetensors file {reason}")
