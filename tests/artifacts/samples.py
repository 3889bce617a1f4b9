"""Tiny valid PEFT adapters made with plain Python: no torch, no numpy, the same seed gives the same bytes."""

import json
import random
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

KV_MODULES = frozenset({"k_proj", "v_proj"})
MLP_MODULES = frozenset({"gate_proj", "up_proj", "down_proj"})


def tensor_bytes(count: int, seed: int) -> bytes:
    """`count` finite float32 numbers in (-0.05, 0.05), the same for the same seed."""
    numbers = random.Random(seed)
    return struct.pack(f"<{count}f", *(numbers.uniform(-0.05, 0.05) for _ in range(count)))


def safetensors_bytes(tensors: Mapping[str, tuple[str, Sequence[int], bytes]]) -> bytes:
    """A safetensors file of `name -> (dtype, shape, data)`, in the order given."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    return raw_safetensors(header, b"".join(data for _, _, data in tensors.values()))


def raw_safetensors(header: Any, data: bytes = b"") -> bytes:
    """A file with any header (bytes are taken as they are): for broken ones."""
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def lora_tensors(
    *,
    rank: int = 8,
    seed: int = 1,
    layers: int = 2,
    hidden: int = 128,
    kv_hidden: int | None = None,
    intermediate: int | None = None,
    modules: Sequence[str] = ("q_proj", "v_proj"),
) -> dict[str, tuple[str, Sequence[int], bytes]]:
    """The tensors that PEFT writes for a Llama: A is (rank, in), B is (out, rank)."""
    kv_size, mlp_size = kv_hidden or hidden // 2, intermediate or hidden * 2
    tensors: dict[str, tuple[str, Sequence[int], bytes]] = {}
    for layer in range(layers):
        for module in modules:
            block = "mlp" if module in MLP_MODULES else "self_attn"
            size_in = mlp_size if module == "down_proj" else hidden
            size_out = kv_size if module in KV_MODULES else hidden
            if module in ("gate_proj", "up_proj"):
                size_out = mlp_size
            prefix = f"base_model.model.model.layers.{layer}.{block}.{module}"
            for half, shape in (("lora_A", (rank, size_in)), ("lora_B", (size_out, rank))):
                data = tensor_bytes(shape[0] * shape[1], hash((seed, layer, len(tensors))))
                tensors[f"{prefix}.{half}.weight"] = ("F32", shape, data)
    return tensors


def peft_config(
    *, rank: int = 8, modules: Sequence[str] = ("q_proj", "v_proj"), base: str = "tiny-llama", **changes: Any
) -> dict[str, Any]:
    """`adapter_config.json` as PEFT writes it; `changes` replace or add fields."""
    return {
        "alpha_pattern": {},
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layer_replication": None,
        "lora_alpha": 2 * rank,
        "lora_bias": False,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {},
        "target_modules": list(modules),
        "target_parameters": None,
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    } | changes


def make_adapter(
    folder: Path | str,
    *,
    rank: int = 8,
    seed: int = 1,
    layers: int = 2,
    hidden: int = 128,
    kv_hidden: int | None = None,
    intermediate: int | None = None,
    base: str = "tiny-llama",
    modules: Sequence[str] = ("q_proj", "v_proj"),
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Write an adapter that every check accepts; another seed gives other weights of the same form.

    Args:
        folder: made when missing.
        kv_hidden: outputs of k_proj and v_proj, half of `hidden` when not given (the project's tiny Llama).
        intermediate: width of the MLP, twice `hidden` when not given.
        config: fields of `adapter_config.json` to replace, for adapters that must be refused.

    Returns:
        The folder.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    settings = peft_config(rank=rank, modules=modules, base=base, **dict(config or {}))
    (target / "adapter_config.json").write_text(json.dumps(settings, indent=2))
    weights = lora_tensors(
        rank=rank,
        seed=seed,
        layers=layers,
        hidden=hidden,
        kv_hidden=kv_hidden,
        intermediate=intermediate,
        modules=modules,
    )
    (target / "adapter_model.safetensors").write_bytes(safetensors_bytes(weights))
    (target / "README.md").write_text(f"# Sample adapter\n\nrank {rank}, seed {seed}\n")
    return target
