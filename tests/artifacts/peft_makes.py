"""Makes adapters with real PEFT over a tiny random Llama. Run by the engine environment's Python: `peft_makes.py FOLDER`.

One folder each, named by what is special; `base/config.json` is the model's.
"""
# ruff: noqa: PLC0415

import sys
from pathlib import Path
from typing import Any

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
ALL = [*ATTENTION, "gate_proj", "up_proj", "down_proj"]

CASES: dict[str, dict[str, Any]] = {
    "plain": {"r": 8, "target_modules": ALL},
    "all-linear": {"r": 4, "target_modules": "all-linear"},
    "rank-64": {"r": 64, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
    "rslora": {"r": 8, "use_rslora": True, "target_modules": ATTENTION},
    "patterns": {
        "r": 4, "target_modules": ATTENTION, "rank_pattern": {"k_proj": 2, "layers.1.self_attn.q_proj": 6},
        "alpha_pattern": {"v_proj": 32},
    },
    "one-layer": {"r": 4, "target_modules": ["q_proj"], "layers_to_transform": [1]},
    "gaussian": {"r": 4, "target_modules": ["q_proj"], "init_lora_weights": "gaussian"},
    "regex": {"r": 4, "target_modules": r".*\.(q|v)_proj"},
    "bfloat16": {"r": 4, "target_modules": ["q_proj"], "dtype": "bfloat16"},
    "float16": {"r": 4, "target_modules": ["q_proj"], "dtype": "float16"},
    "dora": {"r": 4, "target_modules": ["q_proj"], "use_dora": True},
    "bias": {"r": 4, "target_modules": ["q_proj"], "bias": "lora_only"},
    "lora-bias": {"r": 4, "target_modules": ["q_proj"], "lora_bias": True},
    "head-saved": {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "embeddings": {"r": 4, "target_modules": ["q_proj", "embed_tokens"]},
    "output-head": {"r": 4, "target_modules": ["q_proj", "lm_head"]},
    "pissa": {"r": 4, "target_modules": ["q_proj"], "init_lora_weights": "pissa"},
    "more-layers": {"r": 4, "target_modules": ["q_proj"], "model": {"num_hidden_layers": 3}},
    "wider": {"r": 4, "target_modules": ["q_proj"], "model": {"hidden_size": 96}},
    "other-heads": {"r": 4, "target_modules": ["k_proj"], "model": {"num_key_value_heads": 4}},
    "nan": {"r": 4, "target_modules": ["q_proj"], "spoil": float("nan")},
    "inf": {"r": 4, "target_modules": ["q_proj"], "spoil": float("-inf"), "dtype": "bfloat16"},
}  # fmt: skip
MODEL = {
    "vocab_size": 64, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 64, "tie_word_embeddings": False,
}  # fmt: skip


def make(folder: Path) -> None:
    """Write them all."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    LlamaConfig(**MODEL, architectures=["LlamaForCausalLM"]).save_pretrained(folder / "base")
    for name, case in CASES.items():
        given = dict(case)
        base, dtype, spoil = given.pop("model", {}), given.pop("dtype", None), given.pop("spoil", None)
        torch.manual_seed(1)
        model = LlamaForCausalLM(LlamaConfig(**MODEL | base))
        adapted = get_peft_model(model, LoraConfig(**given))
        if dtype is not None:
            adapted = adapted.to(getattr(torch, dtype))
        if spoil is not None:
            weights = next(value for key, value in adapted.named_parameters() if "lora_B" in key)
            weights.data.view(-1)[-1] = spoil
        adapted.save_pretrained(folder / name)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
