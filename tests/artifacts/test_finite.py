"""Every number of the weights is looked at, wherever it stands, and the first bad one is named."""

import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loradock.artifacts import finite
from loradock.artifacts.finite import WINDOW, scan_weights
from loradock.artifacts.inspection import examine, inspect_weights
from loradock.artifacts.protocol import Progress
from loradock.artifacts.weights import read_header
from loradock.core.inspection import Verdict, WeightsScan
from tests.artifacts.helpers import Cancelled, Counting, refused
from tests.artifacts.samples import make_adapter, raw_safetensors, safetensors_bytes

SIZES = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}
BAD = {
    "F16": {"NaN": 0x7E00, "Inf": 0x7C00, "-Inf": 0xFC00, "NaN ": 0xFE01, "NaN  ": 0x7C01},
    "BF16": {"NaN": 0x7FC0, "Inf": 0x7F80, "-Inf": 0xFF80, "NaN ": 0xFFC1, "NaN  ": 0x7F81},
    "F32": {
        "NaN": 0x7FC00000, "Inf": 0x7F800000, "-Inf": 0xFF800000, "NaN ": 0xFFC00001, "NaN  ": 0x7F800001,
    },
    "F64": {
        "NaN": 0x7FF8 << 48, "Inf": 0x7FF0 << 48, "-Inf": 0xFFF0 << 48, "NaN ": (0xFFF8 << 48) + 1,
        "NaN  ": (0x7FF0 << 48) + 1,
    },
}  # fmt: skip
"""Bit patterns by what they must be called (blanks tell them apart): quiet, signalling, negative, with payload."""
FINE = {
    "F16": (0x0000, 0x8000, 0x0001, 0x83FF, 0x7BFF, 0xFBFF),
    "BF16": (0x0000, 0x8000, 0x0001, 0x807F, 0x7F7F, 0xFF7F),
    "F32": (0, 1 << 31, 1, 0x807FFFFF, 0x7F7FFFFF, 0xFF7FFFFF),
    "F64": (0, 1 << 63, 1, 0x800FFFFFFFFFFFFF, 0x7FEFFFFFFFFFFFFF, 0xFFEFFFFFFFFFFFFF),
}
"""Zeros, the smallest and the largest subnormal, the largest numbers, of both signs."""


def packed(dtype: str, *patterns: int) -> bytes:
    return struct.pack(f"<{len(patterns)}{'_HI_Q'[{2: 1, 4: 2, 8: 4}[SIZES[dtype]]]}", *patterns)


def write(path: Path, tensors: dict[str, tuple[str, bytes]]) -> Path:
    path.write_bytes(
        safetensors_bytes(
            {name: (dtype, (len(data) // SIZES[dtype],), data) for name, (dtype, data) in tensors.items()}
        )
    )
    return path


def scan(path: Path, progress: Progress | None = None, threads: int | None = None) -> WeightsScan:
    return scan_weights(path, read_header(path), progress, threads=threads)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights"


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finite, "WINDOW", 64)


@pytest.mark.parametrize("dtype", SIZES)
def test_zeros_subnormals_and_the_largest_numbers_are_fine(path: Path, dtype: str) -> None:
    write(path, {"a": (dtype, packed(dtype, *FINE[dtype])), "b": (dtype, packed(dtype, 1))})
    found = scan(path)
    assert (found.numbers, found.size) == (7, 7 * SIZES[dtype])


@pytest.mark.parametrize("index", [0, 17, 99])
@pytest.mark.parametrize(("dtype", "what"), [(dtype, what) for dtype in BAD for what in BAD[dtype]])
def test_a_bad_number_is_named(path: Path, dtype: str, what: str, index: int) -> None:
    numbers = [FINE[dtype][-1]] * 100
    numbers[index] = BAD[dtype][what]
    fine = packed(dtype, *FINE[dtype])
    write(path, {"a": (dtype, fine), "b": (dtype, packed(dtype, *numbers)), "c": (dtype, fine)})
    with refused("weights_not_finite") as caught:
        scan(path)
    assert caught.value.details == {"tensor": "b", "index": index, "value": what.strip()}
    assert caught.value.message == f"tensor 'b' has {what.strip()} at index {index}"


@pytest.mark.parametrize("dtype", SIZES)
@pytest.mark.parametrize("around", [-1, 0, 1])
def test_a_bad_number_at_the_border_of_a_real_window_is_found(path: Path, dtype: str, around: int) -> None:
    size = SIZES[dtype]
    count = 2 * WINDOW // size + 5
    numbers = np.zeros(count, f"<u{size}")
    index = WINDOW // size + around
    numbers[index] = BAD[dtype]["Inf"]
    write(path, {"a": (dtype, numbers.tobytes())})
    with refused("weights_not_finite") as caught:
        scan(path, threads=2)
    assert caught.value.details["index"] == index


@pytest.mark.usefixtures("small_windows")
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_of_many_bad_numbers_the_first_is_told(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Tensors of any types and lengths, empty ones too, over many windows: as a plain loop would find it."""
    kinds = data.draw(st.lists(st.sampled_from(sorted(SIZES)), min_size=1, max_size=8))
    tensors: dict[str, tuple[str, bytes]] = {}
    first: tuple[str, int] | None = None
    for number, dtype in enumerate(kinds):
        numbers = [1] * data.draw(st.integers(0, 60))
        bad = data.draw(st.sets(st.integers(0, max(len(numbers) - 1, 0)), max_size=2)) if numbers else set()
        for index in bad if data.draw(st.booleans()) else ():
            numbers[index] = BAD[dtype]["NaN"]
            if first is None or (first[0] == f"t{number}" and index < first[1]):
                first = (f"t{number}", index)
        tensors[f"t{number}"] = (dtype, packed(dtype, *numbers))
    path = write(tmp_path_factory.mktemp("scan") / "weights", tensors)
    if first is None:
        assert scan(path, threads=3).numbers == sum(
            len(content) // SIZES[dtype] for dtype, content in tensors.values()
        )
        return
    with refused("weights_not_finite") as caught:
        scan(path, threads=3)
    assert (caught.value.details["tensor"], caught.value.details["index"]) == first


def test_numbers_that_begin_at_an_odd_byte_are_read_right(path: Path) -> None:
    header = b'{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}'
    data = packed("F32", 1, 1, BAD["F32"]["NaN"])
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    assert (8 + len(header)) % 4
    with refused("weights_not_finite") as caught:
        scan(path)
    assert caught.value.details["index"] == 2


def test_what_is_no_float_is_not_scanned_as_one(path: Path) -> None:
    path.write_bytes(raw_safetensors({"a": {"dtype": "I32", "shape": [1], "data_offsets": [0, 4]}}, b"1234"))
    with refused("weights_corrupt"):
        scan(path)


def test_a_file_cut_after_its_header_was_read_is_no_crash(path: Path) -> None:
    write(path, {"a": ("F32", bytes(3 * WINDOW))})
    header = read_header(path)
    path.write_bytes(path.read_bytes()[:-WINDOW])
    with refused("weights_corrupt"):
        scan_weights(path, header)


def test_an_adapter_with_nan_is_refused_and_examined(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path)
    assert inspect_weights(folder).report.verdict is Verdict.SERVABLE
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + packed("F32", BAD["F32"]["NaN"]))
    with refused("weights_not_finite"):
        inspect_weights(folder)
    report = examine(folder)
    assert report.verdict is Verdict.NOT_SERVABLE
    assert report.failure is not None
    assert (report.failure.code, report.scan) == ("weights_not_finite", None)
    assert report.traits is not None


@pytest.mark.parametrize("threads", [1, 4])
def test_a_scan_ends_with_its_progress(path: Path, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a disk so slow that no window is done: it is asked all the while whether to go on."""
    write(path, {"a": ("F32", bytes(64 * 16))})
    monkeypatch.setattr(finite, "WINDOW", 64)
    scanned = threading.Semaphore(0)
    release = threading.Event()

    def slow(*_: object) -> None:
        scanned.release()
        release.wait(10)

    def cancel(_: int) -> None:
        scanned.acquire()
        release.set()
        raise Cancelled

    monkeypatch.setattr(finite, "_scan", slow)
    began = time.monotonic()
    with pytest.raises(Cancelled):
        scan(path, Counting(each=cancel), threads=threads)
    assert time.monotonic() - began < 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("scan")]


@pytest.mark.slow
def test_memory_stays_bounded_whatever_the_size(path: Path, peak_of: Callable[[str], int]) -> None:
    with path.open("wb") as file:
        size = 400 * 1024 * 1024
        header = f'{{"a":{{"dtype":"BF16","shape":[{size // 2}],"data_offsets":[0,{size}]}}}}'.encode()
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)
    code = (
        "from pathlib import Path\n"
        "from loradock.artifacts.finite import scan_weights\n"
        "from loradock.artifacts.weights import read_header\n"
        f"path = Path({str(path)!r})\n"
        "assert scan_weights(path, read_header(path), threads=4).numbers > 0\n"
    )
    assert peak_of(code) - peak_of("import loradock.artifacts.finite") < 100 * 1024 * 1024


@pytest.fixture
def peak_of() -> Callable[[str], int]:
    """The most resident memory (bytes) of a process that runs some code."""

    def run(code: str) -> int:
        tell = "import resource\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)\n"
        done = subprocess.run(
            [sys.executable, "-c", f"{code}\n{tell}"], capture_output=True, text=True, check=True, timeout=60
        )
        return int(done.stdout)

    return run
