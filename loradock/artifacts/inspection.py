"""Whether an adapter can be served, told from its config and its weights' header before anything moves further.

Not checked here: that the numbers are finite (the weights themselves are not read).
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from loradock.artifacts.disk import open_plain
from loradock.artifacts.manifest import CONFIG_FILE, WEIGHTS_FILE
from loradock.artifacts.peft_config import MAX_CONFIG_BYTES, PeftConfig, parse_config
from loradock.artifacts.weights import Tensor, WeightsHeader, read_header
from loradock.core.errors import LoradockError
from loradock.core.models import AdapterTraits

MAX_TARGET_MODULES: Final = 1000
SERVED_DTYPES: Final = frozenset({"F16", "BF16", "F32", "F64"})

_PREFIX: Final = "base_model.model."
_TENSOR = re.compile(r"(?P<module>.+)\.lora_(?P<half>[AB])\.weight")
_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks|block)\.(?P<index>[0-9]{1,6})(?:\.|$)")
_VOCABULARY: Final = frozenset({"embed_tokens", "lm_head", "wte", "embed_in", "embed_out", "word_embeddings"})


@dataclass(frozen=True, slots=True)
class LoraModule:
    """One adapted module.

    Attributes:
        name: as the base model names it, e.g. `model.layers.0.self_attn.q_proj`.
        rank: rows of A, columns of B.
        size_in: columns of A, the module's inputs.
        size_out: rows of B, the module's outputs.
    """

    name: str
    rank: int
    size_in: int
    size_out: int

    @property
    def target(self) -> str:
        """The last part of the name."""
        return self.name.rpartition(".")[2]

    @property
    def layer(self) -> int | None:
        """The index of the layer that the module belongs to."""
        match = _LAYER.search(self.name)
        return int(match["index"]) if match else None


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found.

    Attributes:
        modules: sorted by name.
    """

    traits: AdapterTraits
    config: PeftConfig
    modules: tuple[LoraModule, ...]


def inspect_folder(folder: Path) -> Inspection:
    """Judge a local folder that holds one adapter.

    Raises:
        LoradockError: `config_missing`, `config_invalid`, `weights_missing`, `weights_corrupt`,
            `adapter_not_supported`.
    """
    config = read_config(folder / CONFIG_FILE)
    return inspect(config, read_header(folder / WEIGHTS_FILE))


def read_config(path: Path) -> PeftConfig:
    """Read an adapter's config from its file.

    Raises:
        LoradockError: `config_missing`, `config_invalid`, `adapter_not_supported`.
    """
    try:
        with open_plain(path) as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError:
        raise LoradockError("config_missing", f"{CONFIG_FILE} cannot be read") from None
    return parse_config(data)


def inspect(config: PeftConfig, header: WeightsHeader) -> Inspection:
    """Judge an adapter by its config and its weights' header.

    Raises:
        LoradockError: `weights_corrupt`, `config_invalid`, `adapter_not_supported`.
    """
    modules = _modules(header.tensors)
    for module in modules:
        if module.rank != config.rank_of(module.name):
            raise LoradockError(
                "config_invalid",
                f"{module.name} has rank {module.rank}, the config says {config.rank_of(module.name)}",
            )
    traits = AdapterTraits(
        peft_base_model=config.base_model_name_or_path,
        rank=config.engine_rank,
        alpha=config.lora_alpha,
        use_rslora=config.use_rslora,
        target_modules=tuple(sorted({module.target for module in modules})),
        dtype=",".join(sorted({tensor.dtype for tensor in header.tensors})),
        tensors=len(header.tensors),
        parameters=sum(tensor.parameters for tensor in header.tensors),
        layers=max((module.layer + 1 for module in modules if module.layer is not None), default=0),
    )
    if len(traits.target_modules) > MAX_TARGET_MODULES:
        raise _unsupported(f"more than {MAX_TARGET_MODULES} different modules are adapted")
    return Inspection(traits, config, modules)


def check_base(inspection: Inspection, base_config: Mapping[str, Any]) -> None:
    """Check an adapter against the `config.json` of the base model that it shall run on.

    Only what the config tells is checked: layers, and the sizes of Llama-like attention and MLP modules.

    Raises:
        LoradockError: `base_model_mismatch`.
    """
    config = base_config.get("text_config", base_config)
    layers = _number(config, "num_hidden_layers")
    if layers is not None and inspection.traits.layers > layers:
        raise LoradockError(
            "base_model_mismatch", f"the adapter has {inspection.traits.layers} layers, the base has {layers}"
        )
    sizes = _expected_sizes(config)
    for module in inspection.modules:
        wanted = sizes.get(module.target, (None, None))
        for kind, found, expected in zip(
            ("inputs", "outputs"), (module.size_in, module.size_out), wanted, strict=True
        ):
            if expected is not None and found != expected:
                raise LoradockError(
                    "base_model_mismatch", f"{module.name} has {found} {kind}, the base has {expected}"
                )


def _expected_sizes(config: Mapping[str, Any]) -> dict[str, tuple[int | None, int | None]]:
    """Inputs and outputs by module name, None where the config does not tell."""
    hidden = _number(config, "hidden_size")
    heads = _number(config, "num_attention_heads")
    mlp = _number(config, "intermediate_size")
    if "num_experts" in config or "num_local_experts" in config or "n_routed_experts" in config:
        mlp = None  # experts and shared blocks have widths of their own
    head = _number(config, "head_dim") or (hidden // heads if hidden and heads else None)
    query = heads * head if heads and head else None
    kv_heads = _number(config, "num_key_value_heads") or heads
    key = kv_heads * head if kv_heads and head else None
    if config.get("attn_output_gate") or "kv_lora_rank" in config:
        query = key = None  # gated or compressed attention: other shapes under the same names
    return {
        "q_proj": (hidden, query),
        "k_proj": (hidden, key),
        "v_proj": (hidden, key),
        "o_proj": (query, hidden),
        "gate_proj": (hidden, mlp),
        "up_proj": (hidden, mlp),
        "down_proj": (mlp, hidden),
    }


def _number(config: Mapping[str, Any], name: str) -> int | None:
    value = config.get(name)
    return value if type(value) is int and value > 0 else None


def _modules(tensors: Iterable[Tensor]) -> tuple[LoraModule, ...]:
    halves: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
    for tensor in tensors:
        name, half = _parse_name(tensor.name)
        if half in halves[name]:
            raise LoradockError("weights_corrupt", f"module {name!r} has two tensors lora_{half}")
        if tensor.dtype not in SERVED_DTYPES:
            raise _unsupported(f"tensor {tensor.name!r} is of type {tensor.dtype}")
        if len(tensor.shape) != 2 or 0 in tensor.shape:
            raise _unsupported(f"tensor {tensor.name!r} has shape {list(tensor.shape)}, not two dimensions")
        halves[name][half] = (tensor.shape[0], tensor.shape[1])
    if not halves:
        raise LoradockError("weights_corrupt", f"{WEIGHTS_FILE} has no tensors")
    return tuple(_module(name, halves[name]) for name in sorted(halves))


def _parse_name(tensor: str) -> tuple[str, str]:
    path = tensor.removeprefix(_PREFIX)
    if not _VOCABULARY.isdisjoint(path.split(".")):
        # PEFT saves the whole table beside it, and an engine would leave that out without a word.
        raise _unsupported(f"tensor {tensor!r}: LoRA on embeddings or on the output head is not served")
    match = _TENSOR.fullmatch(path)
    if not match:
        raise _unsupported(f"tensor {tensor!r} is not half of a LoRA module")
    return match["module"], match["half"]


def _module(name: str, halves: Mapping[str, tuple[int, int]]) -> LoraModule:
    if halves.keys() != {"A", "B"}:
        raise LoradockError("weights_corrupt", f"module {name!r} has only one of lora_A and lora_B")
    (rank, size_in), (size_out, rank_b) = halves["A"], halves["B"]
    if rank != rank_b:
        raise LoradockError("weights_corrupt", f"module {name!r}: lora_A has rank {rank}, lora_B {rank_b}")
    return LoraModule(name, rank, size_in, size_out)


def _unsupported(reason: str) -> LoradockError:
    return LoradockError("adapter_not_supported", reason)
