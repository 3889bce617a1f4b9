"""Adapters for tests, written byte by byte: good ones, and one for every way in which an adapter can be bad."""

import json
import math
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

HIDDEN = 128
"""Width of the tiny base model."""


def write_adapter(
    folder: Path, *, rank: int = 8, hidden: int = HIDDEN, module: str = "q_proj", use_dora: bool = False
) -> Path:
    """A LoRA adapter of one module in each of two layers, with weights that are not zero."""
    folder.mkdir(parents=True)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny-llama",
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": [module],
        "use_dora": use_dora,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tensors = {}
    for layer in range(2):
        stem = f"base_model.model.model.layers.{layer}.self_attn.{module}"
        tensors[f"{stem}.lora_A.weight"] = (rank, hidden)
        tensors[f"{stem}.lora_B.weight"] = (hidden, rank)
    (folder / "adapter_model.safetensors").write_bytes(_safetensors(tensors))
    return folder


def _safetensors(shapes: dict[str, tuple[int, int]]) -> bytes:
    header, data = {}, b""
    for name, shape in shapes.items():
        count = math.prod(shape)
        values = struct.pack(f"<{count}f", *(0.05 * math.sin(index) for index in range(count)))
        header[name] = {
            "dtype": "F32",
            "shape": list(shape),
            "data_offsets": [len(data), len(data) + len(values)],
        }
        data += values
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def _rank_too_high(folder: Path) -> None:
    write_adapter(folder, rank=32)


def _corrupt(folder: Path) -> None:
    write_adapter(folder)
    (folder / "adapter_model.safetensors").write_bytes(b"\xff" * 4096)


def _truncated(folder: Path) -> None:
    write_adapter(folder)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def _config_not_json(folder: Path) -> None:
    write_adapter(folder)
    (folder / "adapter_config.json").write_text("{")


def _no_weights(folder: Path) -> None:
    write_adapter(folder)
    (folder / "adapter_model.safetensors").unlink()


def _wrong_base(folder: Path) -> None:
    write_adapter(folder, hidden=2 * HIDDEN)


def _unexpected_modules(folder: Path) -> None:
    write_adapter(folder, module="w_pack")


def _dora(folder: Path) -> None:
    write_adapter(folder, use_dora=True)


def _missing(folder: Path) -> None:
    folder.mkdir(parents=True)


BAD: dict[str, tuple[str, Callable[[Path], None]]] = {
    "rank above the engine's": ("rank_too_high", _rank_too_high),
    "garbage for weights": ("adapter_corrupt", _corrupt),
    "weights cut short": ("adapter_corrupt", _truncated),
    "config is not JSON": ("adapter_corrupt", _config_not_json),
    "no weights": ("adapter_corrupt", _no_weights),
    "another base's shapes": ("wrong_base_model", _wrong_base),
    "modules that the base lacks": ("unexpected_modules", _unexpected_modules),
    "DoRA": ("adapter_not_supported", _dora),
    "empty folder": ("artifact_missing", _missing),
}
"""By what is wrong: the code that the engine must give, and what makes such a folder."""


def copy_adapter(source: Path, folder: Path) -> Path:
    """The adapter again, in another folder."""
    shutil.copytree(source, folder)
    return folder
