"""The header parser: right for what PEFT writes, a typed error for everything else."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loradock.artifacts.weights import MAX_HEADER_BYTES, parse_header, read_header
from loradock.core.errors import LoradockError
from tests.artifacts.helpers import refused
from tests.artifacts.samples import lora_tensors, raw_safetensors, safetensors_bytes


def tensor(begin: int, end: int, shape: Any = None, dtype: Any = "F32") -> dict[str, Any]:
    return {
        "dtype": dtype,
        "shape": [(end - begin) // 4] if shape is None else shape,
        "data_offsets": [begin, end],
    }


def read(tmp_path: Path, data: bytes) -> Any:
    path = tmp_path / "w.safetensors"
    path.write_bytes(data)
    return read_header(path)


def test_reads_every_tensor_of_a_valid_file(tmp_path: Path) -> None:
    tensors = lora_tensors(rank=4)
    header = read(tmp_path, safetensors_bytes(tensors))
    assert {one.name: (one.dtype, one.shape) for one in header.tensors} == {
        name: (dtype, tuple(shape)) for name, (dtype, shape, _) in tensors.items()
    }
    size = (tmp_path / "w.safetensors").stat().st_size
    assert header.data_start + header.tensors[-1].end == size


def test_the_headers_order_need_not_be_the_datas(tmp_path: Path) -> None:
    header = read(tmp_path, raw_safetensors({"b": tensor(4, 8), "a": tensor(0, 4)}, b"x" * 8))
    assert [one.name for one in header.tensors] == ["a", "b"]


def test_empty_tensors_and_small_types_are_placed_right(tmp_path: Path) -> None:
    content = {
        "e": tensor(0, 0, [0, 5]),
        "s": tensor(0, 2, [], "F16"),
        "four": tensor(2, 4, [4], "F4"),
    }
    assert len(read(tmp_path, raw_safetensors(content, b"x" * 4)).tensors) == 3


BROKEN: dict[str, bytes] = {
    "empty": b"",
    "seven bytes": b"1234567",
    "only a length": struct.pack("<Q", 2),
    "length of zero": struct.pack("<Q", 0) + b"{}",
    "length beyond the file": struct.pack("<Q", 100) + b"{}",
    "huge length": struct.pack("<Q", 2**63) + b"{}",
    "length over the limit": struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{}",
    "no json": raw_safetensors(b"{nonsense"),
    "a list": raw_safetensors([]),
    "a number": raw_safetensors(b"12345678"),
    "a space first": raw_safetensors(b' {"a":1}'),
    "not utf-8": raw_safetensors(b'{"\xff":1}'),
    "utf-16": raw_safetensors("{}".encode("utf-16")),
    "deep": raw_safetensors(b'{"a":' * 5000),
    "deep lists": raw_safetensors(b'{"a":' + b"[" * 100_000),
    "many empty lists": raw_safetensors(b'{"a":[' + b"[]," * 500_000 + b"[]]}"),
    "endless digits": raw_safetensors(
        b'{"a":{"dtype":"F32","shape":[' + b"9" * 10_000 + b'],"data_offsets":[0,4]}}'
    ),
    "NaN": raw_safetensors(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', b"1234"),
    "name twice": raw_safetensors(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b"1234",
    ),
    "key twice": raw_safetensors(
        b'{"a":{"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}}', b"1234"
    ),
    "gap": raw_safetensors({"a": tensor(0, 4), "b": tensor(8, 12)}, b"x" * 12),
    "gap at the start": raw_safetensors({"a": tensor(4, 8)}, b"x" * 8),
    "overlap": raw_safetensors({"a": tensor(0, 8), "b": tensor(4, 12)}, b"x" * 12),
    "same place twice": raw_safetensors({"a": tensor(0, 4), "b": tensor(0, 4)}, b"x" * 4),
    "cut": raw_safetensors({"a": tensor(0, 8)}, b"x" * 7),
    "bytes left over": raw_safetensors({"a": tensor(0, 8)}, b"x" * 9),
    "backwards": raw_safetensors({"a": tensor(8, 0, [2])}, b"x" * 8),
    "negative": raw_safetensors({"a": tensor(-4, 0, [1])}, b""),
    "shape too large": raw_safetensors({"a": tensor(0, 4, [2])}, b"x" * 4),
    "shape negative": raw_safetensors({"a": tensor(0, 4, [-1])}, b"x" * 4),
    "two negatives": raw_safetensors({"a": tensor(0, 4, [-1, -1])}, b"x" * 4),
    "shape not whole": raw_safetensors({"a": tensor(0, 4, [1.0])}, b"x" * 4),
    "shape of truths": raw_safetensors({"a": tensor(0, 4, [True])}, b"x" * 4),
    "shape a number": raw_safetensors({"a": tensor(0, 4, 1)}, b"x" * 4),
    "shape overflows": raw_safetensors({"a": tensor(0, 4, [2**32, 2**32])}, b"x" * 4),
    "many dimensions": raw_safetensors({"a": tensor(0, 4, [1] * 9)}, b"x" * 4),
    "half a byte": raw_safetensors({"a": tensor(0, 1, [1], "F4")}, b"x"),
    "unknown type": raw_safetensors({"a": tensor(0, 4, [1], "F31")}, b"x" * 4),
    "type a list": raw_safetensors({"a": tensor(0, 4, [1], ["F32"])}, b"x" * 4),
    "three offsets": raw_safetensors({"a": tensor(0, 4) | {"data_offsets": [0, 4, 4]}}, b"x" * 4),
    "one offset": raw_safetensors({"a": tensor(0, 4) | {"data_offsets": [4]}}, b"x" * 4),
    "extra key": raw_safetensors({"a": tensor(0, 4) | {"more": 1}}, b"x" * 4),
    "missing key": raw_safetensors({"a": {"dtype": "F32", "shape": [1]}}, b"x" * 4),
    "tensor a list": raw_safetensors({"a": []}),
    "no name": raw_safetensors({"": tensor(0, 4)}, b"x" * 4),
    "name with a control": raw_safetensors({"a\n": tensor(0, 4)}, b"x" * 4),
    "name half a character": raw_safetensors({"a\ud800": tensor(0, 4)}, b"x" * 4),
    "long name": raw_safetensors({"a" * 513: tensor(0, 4)}, b"x" * 4),
    "metadata no texts": raw_safetensors({"__metadata__": {"a": 1}}),
    "metadata a list": raw_safetensors({"__metadata__": []}),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_refused(tmp_path: Path, data: bytes) -> None:
    with refused("weights_corrupt"):
        read(tmp_path, data)


def test_what_is_no_plain_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/etc/hostname")
    for name in ("fifo", "link", "nothing", "."):
        with refused("weights_missing", "weights_corrupt"):
            read_header(tmp_path / name)


def test_every_cut_of_a_valid_file_is_refused(tmp_path: Path) -> None:
    data = safetensors_bytes(lora_tensors(rank=1, layers=1, hidden=4))
    for length in range(len(data)):
        with refused("weights_corrupt"):
            read(tmp_path, data[:length])


HOSTILE = """
import resource
from loradock.artifacts.weights import parse_header
from loradock.core.errors import LoradockError
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 400 * 2**20,) * 2)
for text in (
    b'{"a":[' + b"[]," * 10_000_000 + b"[]]}",
    b'{"a":[' + b"1," * 15_000_000 + b"1]}",
    b"{" + b'"":{},' * 5_000_000 + b'"":{}}',
):
    try:
        parse_header(text, 0)
    except LoradockError as error:
        print(error.code)
    del text
"""


def test_a_hostile_header_takes_bounded_memory() -> None:
    done = subprocess.run([sys.executable, "-c", HOSTILE], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["weights_corrupt"] * 3, done.stderr[-500:]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: raw_safetensors(b'{"a":{' + tail)))
def test_random_bytes_are_always_our_error(tmp_path: Path, data: bytes) -> None:
    with refused("weights_corrupt"):
        read(tmp_path, data)


VALID = safetensors_bytes(lora_tensors(rank=1, layers=1, hidden=4))


@settings(max_examples=500)
@given(st.integers(0, len(VALID) - 1), st.integers(0, 255))
def test_one_changed_byte_is_accepted_or_our_error(position: int, value: int) -> None:
    data = VALID[:position] + bytes([value]) + VALID[position + 1 :]
    length = int.from_bytes(data[:8], "little")
    try:
        header = parse_header(data[8 : 8 + length], len(data) - 8 - length)
    except LoradockError as error:
        assert error.code == "weights_corrupt"
    else:
        assert sum(one.end - one.begin for one in header.tensors) == len(data) - 8 - length


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "F4", "X"]) | JSON,
        "shape": st.lists(st.integers(-1, 9), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(-1, 40), min_size=2, max_size=2) | JSON,
    }
)


@settings(max_examples=500)
@given(st.dictionaries(st.text(max_size=6), ENTRY | JSON, max_size=4), st.integers(0, 64))
def test_any_json_is_accepted_only_when_it_covers_the_data(content: dict[str, Any], size: int) -> None:
    try:
        header = parse_header(json.dumps(content).encode(), size)
    except LoradockError as error:
        assert error.code == "weights_corrupt"
    else:
        assert sum(one.end - one.begin for one in header.tensors) == size
