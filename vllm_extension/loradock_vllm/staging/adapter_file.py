"""Reads an adapter's safetensors file into few large blocks of memory, in short pieces of work.

The engine's own reader makes its tensors one by one through Python, and page-locks each by itself: tens of milliseconds
in which a step loop of the same process waits. What comes out is the same, tensor by tensor.
"""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from loradock_vllm.staging.pace import Pace

FILE: Final = "adapter_model.safetensors"
BLOCK_BYTES: Final = 4 * 1024 * 1024
"""All blocks but those of very large tensors have this size, so that the allocator uses them again and again; locking
one takes about a millisecond."""

MAX_HEADER_BYTES: Final = 16 * 1024 * 1024
_ALIGNMENT: Final = 64
_SIZES: Final = {"F32": 4, "F16": 2, "BF16": 2}


class NotPlainError(Exception):
    """The file is not of the plain kind that this reader takes; the engine's own reader has the last word on it."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


def read_tensors(folder: str, *, pinned: bool, pace: Pace) -> dict[str, Any]:
    """The tensors of an adapter, by name, on the CPU.

    Args:
        pinned: in page-locked memory, from which the device copies without stopping anybody.

    Raises:
        NotPlainError: another format, dtype or layout, or a file that is damaged.
        OSError: the file cannot be read.
    """
    with (Path(folder) / FILE).open("rb", buffering=0) as file:
        tensors = _read_header(file.fileno())
        return dict(_fill_blocks(file.fileno(), tensors, pinned=pinned, pace=pace))


def _read_header(file: int) -> list[_Tensor]:
    total = os.fstat(file).st_size
    length = int.from_bytes(os.pread(file, 8, 0), "little")
    if not 2 <= length <= min(MAX_HEADER_BYTES, total - 8):
        raise NotPlainError("no safetensors header")
    try:
        header = json.loads(os.pread(file, length, 8))
        header.pop("__metadata__", None)
        tensors = [_parse(name, entry, 8 + length) for name, entry in header.items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise NotPlainError(f"the header is not understood: {type(error).__name__}") from None
    tensors.sort(key=lambda tensor: tensor.start)
    end = 8 + length
    for tensor in tensors:
        if tensor.start != end:
            raise NotPlainError("the tensors do not cover the file")
        end += tensor.size
    if end != total or not tensors:
        raise NotPlainError("the tensors do not cover the file")
    return tensors


def _parse(name: str, entry: dict[str, Any], base: int) -> _Tensor:
    dtype, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, start, end)):
        raise ValueError(name)
    size = _SIZES[dtype] * math.prod(shape)
    if size != end - start or not size or not shape:
        raise ValueError(name)
    return _Tensor(name, dtype, shape, base + start, size)


def _fill_blocks(file: int, tensors: list[_Tensor], *, pinned: bool, pace: Pace) -> Iterable[tuple[str, Any]]:
    import torch  # noqa: PLC0415 - only workers have it

    dtypes = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    block, memory, used = None, memoryview(b""), 0
    for tensor in tensors:
        if used + tensor.size > len(memory):
            size = max(BLOCK_BYTES, tensor.size)
            block = torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=pinned)
            memory, used = memoryview(block.numpy()), 0
            pace.pause()
        with pace.aside():
            _read_into(file, memory[used : used + tensor.size], tensor.start)
        assert block is not None  # noqa: S101
        view = block[used : used + tensor.size].view(dtypes[tensor.dtype]).view(tensor.shape)
        yield tensor.name, view
        used += -(-tensor.size // _ALIGNMENT) * _ALIGNMENT
        pace.pause()


def _read_into(file: int, memory: memoryview, offset: int) -> None:
    while memory:
        count = os.preadv(file, [memory], offset)
        if count == 0:
            raise NotPlainError("the file ends early")
        memory, offset = memory[count:], offset + count
