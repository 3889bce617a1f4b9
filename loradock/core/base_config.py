"""What of a base model's config decides whether an adapter fits it, whoever told it: its config.json or an engine."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final

from pydantic import ConfigDict, Field, computed_field

from loradock.core.models import Model

_NUMBERS: Final = (
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
)
_MARKS: Final = {
    "num_experts": "mlp",
    "num_local_experts": "mlp",
    "n_routed_experts": "mlp",
    "attn_output_gate": "attention",
    "kv_lora_rank": "attention",
    "block_configs": "all",
    "global_head_dim": "attention",
    "use_double_wide_mlp": "mlp",
}
"""Fields that make modules of one name have several widths, and which modules: their sizes are not compared."""
_MAX_NUMBER: Final = 2**31 - 1

Size = int | None


class BaseConfig(Model):
    """A base model's measures; what is None is not known and not compared.

    Attributes:
        model_type: as transformers calls the architecture.
        head_dim: width of one attention head.
        uneven: parts whose modules have several widths under one name: `attention`, `mlp`, `all`.
        multimodal: a text model inside a larger one, which has other modules beside.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    model_type: str | None = Field(default=None, max_length=100)
    num_hidden_layers: Size = Field(default=None, ge=1, le=_MAX_NUMBER)
    hidden_size: Size = Field(default=None, ge=1, le=_MAX_NUMBER)
    intermediate_size: Size = Field(default=None, ge=1, le=_MAX_NUMBER)
    num_attention_heads: Size = Field(default=None, ge=1, le=_MAX_NUMBER)
    num_key_value_heads: Size = Field(default=None, ge=1, le=_MAX_NUMBER)
    head_dim: Size = Field(default=None, ge=1, le=_MAX_NUMBER)
    vocab_size: Size = Field(default=None, ge=1, le=_MAX_NUMBER)
    uneven: tuple[str, ...] = Field(default=(), max_length=3)
    multimodal: bool = False

    @computed_field  # type: ignore[prop-decorator]
    @property
    def fingerprint(self) -> str:
        """`sha256:` over the measures: the same for a model's config.json and for an engine that runs it."""
        content = {name: value for name, value in self._measures().items() if value not in (None, (), False)}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    @property
    def tells_anything(self) -> bool:
        """Whether an adapter can be compared with it at all."""
        return self.num_hidden_layers is not None or self.hidden_size is not None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "BaseConfig":
        """The measures in a `config.json`; what has an impossible form counts as not told."""
        inner = config.get("text_config")
        text: Mapping[str, Any] = inner if isinstance(inner, Mapping) else config
        found: dict[str, Any] = {name: _number(text.get(name)) for name in _NUMBERS}
        heads, hidden = found["num_attention_heads"], found["hidden_size"]
        # What transformers takes where nothing stands.
        if found["num_key_value_heads"] is None:
            found["num_key_value_heads"] = heads
        if found["head_dim"] is None and heads and hidden:
            found["head_dim"] = hidden // heads or None
        kind = text.get("model_type")
        return cls(
            model_type=kind if isinstance(kind, str) and len(kind) <= 100 and kind.isprintable() else None,
            uneven=tuple(sorted({part for field, part in _MARKS.items() if text.get(field)})),
            multimodal=text is not config,
            **found,
        )

    def difference(self, other: "BaseConfig") -> str | None:
        """The first measure that both tell and that differs, as a sentence; None when nothing contradicts."""
        theirs = other._measures()
        for name, mine in self._measures().items():
            if (
                name not in ("uneven", "multimodal")
                and None not in (mine, theirs[name])
                and mine != theirs[name]
            ):
                return f"{name} is {mine} and {theirs[name]}"
        return None

    def _measures(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in type(self).model_fields}


def _number(value: Any) -> int | None:
    return value if type(value) is int and 0 < value <= _MAX_NUMBER else None
