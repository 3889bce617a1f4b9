"""How fast an adapter is inspected: the full scan for NaN and infinity by type, size and threads, and its memory.

    python -m benchmarks.inspection [--megabytes 1000] [--rounds 5]

Writes one file per type into a temporary folder, prints Markdown for RESULTS.md, leaves nothing behind. Files are in the
page cache, as they are after staging; the rate of plain reading on the same file stands beside.
"""

import argparse
import json
import os
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from benchmarks import machine
from loradock.artifacts.finite import scan_weights
from loradock.artifacts.inspection import inspect
from loradock.artifacts.peft_config import PeftConfig
from loradock.artifacts.weights import read_header

SIZES = {"F32": 4, "BF16": 2, "F16": 2, "F64": 8}
TENSOR = 4096 * 64
"""Numbers of one half of a module of rank 64."""
CONFIG = PeftConfig(r=64, lora_alpha=64, target_modules=None)


def write_adapter(path: Path, dtype: str, size: int) -> None:
    """The weights of an adapter with modules of 4096 × 4096, of about so many bytes."""
    item = SIZES[dtype]
    modules = max(1, size // (2 * TENSOR * item))
    header, offset = {}, 0
    for number in range(modules):
        for half, shape in (("A", [64, 4096]), ("B", [4096, 64])):
            name = f"base_model.model.model.layers.{number // 7}.self_attn.m{number % 7}.lora_{half}.weight"
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + TENSOR * item]}
            offset += TENSOR * item
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    numbers = np.random.default_rng(7).standard_normal(TENSOR)
    kind = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}.get(dtype)
    data = (
        numbers.astype(kind).tobytes()
        if kind
        else (numbers.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    )
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _ in range(2 * modules):
            file.write(data)


def timed(work: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median seconds of wall and of processor time."""
    walls, processors = [], []
    for _ in range(rounds + 1):
        wall, processor = time.perf_counter(), time.process_time()
        work()
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
    return statistics.median(walls[1:]), statistics.median(processors[1:])


def plain_read(path: Path) -> None:
    """The floor: the same bytes into a buffer of a megabyte."""
    buffer = bytearray(1024 * 1024)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def peak_memory(path: Path | None) -> float:
    """The most resident megabytes of a process that scans a file; of one that only imports without."""
    code = "from pathlib import Path\nfrom loradock.artifacts.finite import scan_weights\n"
    code += "from loradock.artifacts.weights import read_header\n"
    if path is not None:
        code += f"path = Path({str(path)!r})\nscan_weights(path, read_header(path))\n"
    code += "import resource\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout) / 1000


def measure(folder: Path, megabytes: int, rounds: int) -> list[str]:
    """The table's lines."""
    cores = len(os.sched_getaffinity(0))
    lines = [
        f"| type | MB | header and modules, ms | scan, 1 thread, GB/s | per core-second, GB/s | scan, {cores} threads, GB/s"
        " | plain read, GB/s |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for dtype, size in ((dtype, size) for dtype in SIZES for size in (16, 160, megabytes)):
        path = folder / "adapter_model.safetensors"
        write_adapter(path, dtype, size * 1_000_000)
        header = read_header(path)
        total = header.tensors[-1].end / 1e9
        judged, _ = timed(lambda: inspect(CONFIG, read_header(path)), rounds)  # noqa: B023
        one, processor = timed(lambda: scan_weights(path, header, threads=1), rounds)  # noqa: B023
        many, _ = timed(lambda: scan_weights(path, header), rounds)  # noqa: B023
        floor, _ = timed(lambda: plain_read(path), rounds)  # noqa: B023
        figures = (total / one, total / max(processor, 1e-9), total / many, total / floor)
        rates = " | ".join(f"{rate:.1f}" for rate in figures)
        lines.append(f"| {dtype} | {total * 1000:.0f} | {1000 * judged:.1f} | {rates} |")
    idle, scanning = peak_memory(None), peak_memory(folder / "adapter_model.safetensors")
    lines += [
        "",
        f"Peak memory of a process: {idle:.0f} MB without, {scanning:.0f} MB with a scan of {megabytes} MB.",
    ]
    return lines


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=1000, help="the largest file")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="loradock-bench-") as folder:
        lines = measure(Path(folder), options.megabytes, options.rounds)
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine.describe()}, load {os.getloadavg()[0]:.1f}\n")
    print("\n".join(lines))
    used = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    print(
        f"\nmedian of {options.rounds}; {time.monotonic() - began:.0f} s in all, {used:.0f} s of processor time"
    )


if __name__ == "__main__":
    main()
