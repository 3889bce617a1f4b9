"""The full scan of an adapter's weights for NaN and infinity: vLLM takes them, and they spoil other requests' answers.

The file is mapped window by window, so memory stays bounded, and windows are scanned in several threads: numpy lets go of
the interpreter. The file must be a private copy: one that shrinks while it is mapped would kill the process.
"""

import mmap
import os
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from threading import Event
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from loradock.artifacts.disk import disk_errors, open_plain
from loradock.artifacts.protocol import NoProgress, Progress
from loradock.artifacts.weights import Tensor, WeightsHeader
from loradock.core.errors import LoradockError
from loradock.core.inspection import WeightsScan

WINDOW: Final = 8 * 1024 * 1024
"""Bytes mapped and scanned at a time by one thread; a scan is cancelled between two of them."""
MAX_THREADS: Final = 8
WAIT_SECONDS: Final = 0.2
"""How often a slow disk's scan asks whether it shall go on."""

Numbers = npt.NDArray[Any]


class _Float(NamedTuple):
    """A floating-point type as integers see it: a number is not finite when all bits of its exponent are set.

    So a positive one is at least `infinity` as a signed integer, a negative one as an unsigned one with the sign's bit.
    """

    size: int
    infinity: int

    @property
    def sign(self) -> int:
        return 1 << (8 * self.size - 1)

    def first_bad(self, numbers: Numbers) -> int | None:
        """The index of the first NaN or infinity, None when all are finite."""
        signed, unsigned = numbers.view(f"<i{self.size}"), numbers.view(f"<u{self.size}")
        if int(signed.max()) < self.infinity and int(unsigned.max()) < self.infinity + self.sign:
            return None
        return int(np.flatnonzero((unsigned & np.array(self.sign - 1, unsigned.dtype)) >= self.infinity)[0])

    def name(self, number: int) -> str:
        """What a bad number is."""
        magnitude = number & (self.sign - 1)
        if magnitude > self.infinity:
            return "NaN"
        return "-Inf" if number & self.sign else "Inf"


_FLOATS: Final = {
    "F16": _Float(2, 0x7C00),
    "BF16": _Float(2, 0x7F80),
    "F32": _Float(4, 0x7F80_0000),
    "F64": _Float(8, 0x7FF0_0000_0000_0000),
}


@dataclass(frozen=True, slots=True)
class _Piece:
    """A window of a run of adjacent tensors of one type; `begin` and `end` count from the end of the header."""

    kind: _Float
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class _Bad:
    """Where the first bad number of a piece begins, and what it is."""

    position: int
    what: str


def scan_weights(
    path: Path, header: WeightsHeader, progress: Progress | None = None, *, threads: int | None = None
) -> WeightsScan:
    """Read every number of a weights file.

    Args:
        path: a private copy that nobody writes to.
        header: of this file.
        progress: asked after every window whether to go on, in the calling thread; no bytes are counted, since none move.
        threads: as many as this process has cores when not given, `MAX_THREADS` at most.

    Raises:
        LoradockError: `weights_not_finite`, naming the tensor and the index of its first bad number in C order;
            `weights_corrupt` for numbers of another type; `disk_error`.
    """
    began = time.monotonic()
    told = progress or NoProgress()
    pieces = _pieces(header)
    size = header.tensors[-1].end if header.tensors else 0
    workers = min(threads or len(os.sched_getaffinity(0)), MAX_THREADS, max(1, size // WINDOW))
    with disk_errors("scanning the weights"), open_plain(path) as file:
        if os.fstat(file.fileno()).st_size < header.data_start + size:
            raise LoradockError("weights_corrupt", "the safetensors file is shorter than it was a moment ago")
        _scan_all(file.fileno(), header, pieces, told, workers)
    return WeightsScan(
        numbers=sum(tensor.parameters for tensor in header.tensors),
        size=size,
        seconds=round(time.monotonic() - began, 6),
    )


def _pieces(header: WeightsHeader) -> Iterator[_Piece]:
    for dtype, run in groupby(header.tensors, key=lambda tensor: tensor.dtype):
        tensors = list(run)
        begin, end = tensors[0].begin, tensors[-1].end
        if begin == end:
            continue
        if dtype not in _FLOATS:
            raise LoradockError(
                "weights_corrupt", f"tensor {tensors[0].name!r} holds no floating-point numbers"
            )
        for start in range(begin, end, WINDOW):
            yield _Piece(_FLOATS[dtype], start, min(start + WINDOW, end))


def _scan_all(
    descriptor: int, header: WeightsHeader, pieces: Iterator[_Piece], progress: Progress, workers: int
) -> None:
    """Judge the pieces in the file's order, so that the first bad number is the one that is told."""
    stop = Event()
    waiting: deque[tuple[_Piece, Future[_Bad | None]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="scan") as pool:
        try:
            for piece in pieces:
                waiting.append((piece, pool.submit(_scan, descriptor, header.data_start, piece, stop)))
                if len(waiting) > 2 * workers:
                    _judge(*waiting.popleft(), header, progress)
            while waiting:
                _judge(*waiting.popleft(), header, progress)
        finally:
            stop.set()
            for _, future in waiting:
                future.cancel()


def _judge(piece: _Piece, future: "Future[_Bad | None]", header: WeightsHeader, progress: Progress) -> None:
    while not wait([future], WAIT_SECONDS).done:
        progress.advance(0)
    bad = future.result()
    progress.advance(0)
    if bad is not None:
        tensor, index = _locate(header.tensors, bad.position, piece.kind.size)
        raise LoradockError(
            "weights_not_finite",
            f"tensor {tensor.name!r} has {bad.what} at index {index}",
            tensor=tensor.name,
            index=index,
            value=bad.what,
        )


def _locate(tensors: tuple[Tensor, ...], position: int, size: int) -> tuple[Tensor, int]:
    # Empty tensors begin where the next one does: the last that begins here holds the number.
    tensor = tensors[bisect_right(tensors, position, key=lambda tensor: tensor.begin) - 1]
    return tensor, (position - tensor.begin) // size


def _scan(descriptor: int, data_start: int, piece: _Piece, stop: Event) -> _Bad | None:
    if stop.is_set():
        return None
    begin = data_start + piece.begin
    aligned = begin - begin % mmap.ALLOCATIONGRANULARITY
    with mmap.mmap(
        descriptor, data_start + piece.end - aligned, access=mmap.ACCESS_READ, offset=aligned
    ) as window:
        numbers = np.frombuffer(
            window, f"<u{piece.kind.size}", (piece.end - piece.begin) // piece.kind.size, begin - aligned
        )
        try:
            index = piece.kind.first_bad(numbers)
            if index is None:
                return None
            return _Bad(piece.begin + index * piece.kind.size, piece.kind.name(int(numbers[index])))
        finally:
            del numbers  # a window in use cannot be unmapped
