"""The samples without torch have the form that PEFT gives them."""

import json
import struct
from pathlib import Path

from loradock.dev.samples import Samples
from loradock.dev.simulated_model import Shape, make_simulated_samples, write_adapter


def read_header(path: Path) -> tuple[dict[str, dict[str, object]], int]:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), len(content) - 8 - length


def test_base_and_three_different_adapters_are_made_once(tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    make_simulated_samples(folder)
    samples = Samples.read(folder)
    weights = {(path / "adapter_model.safetensors").read_bytes() for path in samples.adapters.values()}
    assert len(weights) == 3
    assert json.loads((samples.base / "config.json").read_text())["hidden_size"] == Shape().hidden
    marker = (folder / "samples.json").stat().st_mtime_ns
    make_simulated_samples(folder)
    assert (folder / "samples.json").stat().st_mtime_ns == marker


def test_what_a_kill_left_half_made_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    make_simulated_samples(folder)
    (folder / "samples.json").unlink()
    (tmp_path / "samples.new").mkdir()
    make_simulated_samples(folder)
    assert set(Samples.read(folder).adapters) == {"greeter-v1", "greeter-v2", "poet"}


def test_the_header_covers_the_file_exactly(tmp_path: Path) -> None:
    write_adapter(tmp_path, seed=1, rank=4, modules=("q_proj", "down_proj"))
    header, size = read_header(tmp_path / "adapter_model.safetensors")
    assert header.pop("__metadata__") == {"format": "pt"}
    offsets = [entry["data_offsets"] for entry in header.values()]
    assert offsets[0][0] == 0  # type: ignore[index]
    assert offsets[-1][1] == size  # type: ignore[index]
    assert header["base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"]["shape"] == [4, 256]
    assert len(header) == 2 * 2 * 2


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_adapter(tmp_path / name, seed=5)
    one, two = (tmp_path / name / "adapter_model.safetensors" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
