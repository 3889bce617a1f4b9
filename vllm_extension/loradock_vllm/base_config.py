"""What of the base model's config adapters are compared with before they are published."""

from typing import Any, Final

_FIELDS: Final = (
    "model_type",
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
)
_MARKS: Final = (
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "attn_output_gate",
    "kv_lora_rank",
    "block_configs",
    "global_head_dim",
    "use_double_wide_mlp",
)
"""Fields that say: modules of one name have several widths. Only that they are there is told."""
_MAX_TEXT: Final = 100


def read_base_config(model_config: Any) -> dict[str, Any]:
    """A small part of the model's `config.json`, in its form.

    Args:
        model_config: vLLM's `ModelConfig`, with `hf_config` and, for a text model inside a larger one, `hf_text_config`.

    Returns:
        Empty when vLLM does not tell.
    """
    whole = getattr(model_config, "hf_config", None)
    text = getattr(model_config, "hf_text_config", None)
    if whole is None and text is None:
        return {}
    inner = _part(whole if text is None else text)
    if text is None or whole is None or text is whole:
        return inner
    return {"model_type": _simple(getattr(whole, "model_type", None)), "text_config": inner}


def _part(config: Any) -> dict[str, Any]:
    found = {name: _simple(getattr(config, name, None)) for name in _FIELDS}
    marks = {name: True for name in _MARKS if getattr(config, name, None)}
    return {name: value for name, value in found.items() if value is not None} | marks


def _simple(value: Any) -> Any:
    """A number or a short text; what has another form is not told."""
    if isinstance(value, str):
        return value[:_MAX_TEXT]
    return value if type(value) is int else None
