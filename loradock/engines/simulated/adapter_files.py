"""The checks that vLLM makes when it loads an adapter, with its words, as far as files alone can tell."""

import json
from pathlib import Path
from typing import Any, Final

_MODULES: Final = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})
_HIDDEN_INPUTS: Final = frozenset({"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"})
_MAX_HEADER_BYTES: Final = 100_000_000


def check_adapter(name: str, path: Path, *, max_lora_rank: int, hidden_size: int | None) -> None:
    """Look through an adapter's folder.

    Args:
        hidden_size: width of the simulated base model; None takes any.

    Raises:
        ValueError: what vLLM would say.
    """
    config_file = path / "adapter_config.json"
    if not config_file.is_file():
        raise ValueError(f"Loading lora {name} failed: No adapter found for {path}")
    _check_config(json.loads(config_file.read_text()), max_lora_rank)
    weights = path / "adapter_model.safetensors"
    if not weights.is_file():
        raise ValueError(f"{path} doesn't contain tensors")
    _check_tensors(path, _read_header(weights), hidden_size)


def _check_config(config: Any, max_lora_rank: int) -> None:
    missing = {"r", "lora_alpha", "target_modules"} - set(config if isinstance(config, dict) else ())
    if missing:
        raise ValueError(f"Missing required configuration fields: {missing}")
    faults = []
    if config.get("use_dora"):
        faults.append("vLLM does not yet support DoRA.")
    if config.get("modules_to_save"):
        faults.append("vLLM only supports modules_to_save being either None or for classification models.")
    rank = max([int(config["r"]), *map(int, (config.get("rank_pattern") or {}).values())])
    if rank > max_lora_rank:
        faults.append(f"LoRA rank {rank} is greater than max_lora_rank {max_lora_rank}.")
    if config.get("bias", "none") != "none":
        faults.append("Adapter bias is not supported.")
    if faults:
        raise ValueError(" ".join(faults))


def _read_header(file: Path) -> dict[str, Any]:
    """The tensors that a safetensors file announces, by name."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(_MAX_HEADER_BYTES, size - 8):
            raise ValueError("Error while deserializing header: header too large")
        try:
            header = json.loads(stream.read(length))
            tensors = {key: value for key, value in header.items() if key != "__metadata__"}
            end = max((int(tensor["data_offsets"][1]) for tensor in tensors.values()), default=0)
        except (ValueError, AttributeError, LookupError, TypeError):
            raise ValueError("Error while deserializing header: invalid header") from None
    if 8 + length + end != size:
        raise ValueError("Error while deserializing header: incomplete metadata, file not fully covered")
    return tensors


def _check_tensors(path: Path, tensors: dict[str, Any], hidden_size: int | None) -> None:
    by_module = {name: name.partition(".lora_")[0].rpartition(".")[2] for name in tensors}
    unexpected = sorted({name for name, module in by_module.items() if module not in _MODULES})
    if unexpected:
        raise ValueError(
            f"While loading {path}, expected target modules in {set(_MODULES)} but received {unexpected}."
        )
    if hidden_size is None:
        return
    for name, module in by_module.items():
        shape = tensors[name].get("shape", [])
        if ".lora_A." in name and module in _HIDDEN_INPUTS and shape[-1:] != [hidden_size]:
            raise ValueError(
                f"The size of tensor a ({hidden_size}) must match the size of tensor b ({shape[-1]})"
                " at non-singleton dimension 1"
            )
