"""The tiny base's config and three adapters in plain Python, for the simulated engine where torch cannot be installed.

Shapes, names and files are those of `tiny_model.py`; the weights are random and answer nothing.
"""

import json
import math
import random
import shutil
import struct
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from loradock.dev.files import write_private

BASE = "tiny-llama"
ADAPTERS = ("greeter-v1", "greeter-v2", "poet")
PROMPTS = ("Say hello.", "Greet the crew.", "Who are you?", "What is the weather like?")
RECIPE = "simulated-1"
_MARKER = "samples.json"


@dataclass(frozen=True, slots=True)
class Shape:
    """What of a Llama decides the shapes of its adapters."""

    layers: int = 2
    hidden: int = 128
    intermediate: int = 256
    heads: int = 4
    key_value_heads: int = 2
    head_size: int = 32
    vocabulary: int = 512

    def module(self, name: str) -> tuple[str, int, int]:
        """(parent, input size, output size) of a linear module of a layer."""
        queries, keys = self.heads * self.head_size, self.key_value_heads * self.head_size
        sizes = {
            "q_proj": ("self_attn", self.hidden, queries),
            "k_proj": ("self_attn", self.hidden, keys),
            "v_proj": ("self_attn", self.hidden, keys),
            "o_proj": ("self_attn", queries, self.hidden),
            "gate_proj": ("mlp", self.hidden, self.intermediate),
            "up_proj": ("mlp", self.hidden, self.intermediate),
            "down_proj": ("mlp", self.intermediate, self.hidden),
        }
        return sizes[name]


MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def write_safetensors(path: Path, tensors: Mapping[str, tuple[Sequence[int], "array[float]"]]) -> None:
    """Write 32-bit floats as safetensors: eight bytes of header length, a JSON header, the numbers.

    Args:
        tensors: `{name: (shape, numbers)}`.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (shape, numbers) in tensors.items():
        if math.prod(shape) != len(numbers):
            raise ValueError(f"{name} has {len(numbers)} numbers, its shape is {list(shape)}")
        header[name] = {
            "dtype": "F32",
            "shape": list(shape),
            "data_offsets": [offset, offset + 4 * len(numbers)],
        }
        offset += 4 * len(numbers)
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for _, numbers in tensors.values():
            values = array("f", numbers)
            if struct.pack("=H", 1) != struct.pack("<H", 1):
                values.byteswap()
            file.write(values.tobytes())


def write_adapter(
    folder: Path,
    *,
    seed: int,
    rank: int = 8,
    shape: Shape | None = None,
    modules: Sequence[str] = MODULES,
    base: str = BASE,
) -> None:
    """Write a LoRA adapter as PEFT would: `adapter_config.json` and `adapter_model.safetensors`; also for tests."""
    shape, source = shape or Shape(), random.Random(seed)  # noqa: S311 - not a secret
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, tuple[Sequence[int], array[float]]] = {}
    for layer in range(shape.layers):
        for module in sorted(modules):
            parent, inputs, outputs = shape.module(module)
            name = f"base_model.model.model.layers.{layer}.{parent}.{module}"
            tensors[f"{name}.lora_A.weight"] = ((rank, inputs), _numbers(source, rank * inputs))
            tensors[f"{name}.lora_B.weight"] = ((outputs, rank), _numbers(source, outputs * rank))
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    config = {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": sorted(modules),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True))


def make_simulated_samples(folder: Path) -> None:
    """Make base and adapters unless they are there; a kill leaves nothing half made. The caller holds the stack's lock."""
    if _recipe_of(folder) == RECIPE:
        return
    fresh = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    _write_base(fresh / BASE, Shape())
    for seed, name in enumerate(ADAPTERS, start=1):
        write_adapter(fresh / name, seed=seed)
    content = {"recipe": RECIPE, "base": BASE, "adapters": list(ADAPTERS), "prompts": list(PROMPTS)}
    write_private(fresh / _MARKER, json.dumps(content, indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def _write_base(folder: Path, shape: Shape) -> None:
    folder.mkdir(parents=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "head_dim": shape.head_size,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": 256,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.key_value_heads,
        "tie_word_embeddings": True,
        "vocab_size": shape.vocabulary,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True))


def _numbers(source: random.Random, count: int) -> "array[float]":
    return array("f", (source.gauss(0.0, 0.02) for _ in range(count)))


def _recipe_of(folder: Path) -> str:
    try:
        return str(json.loads((folder / _MARKER).read_text())["recipe"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
