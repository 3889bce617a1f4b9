"""Whether an adapter fits a base model: vLLM takes one of another base or with extra layers, and answers nonsense."""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from loradock.core.base_config import BaseConfig
from loradock.core.errors import LoradockError
from loradock.core.inspection import NOT_CHECKED, BaseCheck, InspectionReport, ModuleGroup

_ATTENTION: Final = frozenset({"q_proj", "k_proj", "v_proj", "o_proj"})
_MLP: Final = frozenset({"gate_proj", "up_proj", "down_proj"})
_SPLIT: Final = frozenset({*(f"self_attn.{name}" for name in _ATTENTION), *(f"mlp.{name}" for name in _MLP)})
_MODULES_OF: Final = {
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "granite", "olmo", "olmo2", "smollm3"),
        _SPLIT,
    ),
    "phi3": frozenset({"self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"}),
}
"""Modules of a layer that take LoRA, for architectures with no others; of another architecture names are not compared."""
_IN_LAYER: Final = re.compile(r"(?:.+\.)?layers\.\*\.(?P<module>.+)")
OTHER_TOWER: Final = re.compile(r"(?:^|\.)(?:vision|visual|audio|image|multi_modal|mm_)")
"""Modules beside the text model, by their names."""


def check_fit(
    modules: Sequence[ModuleGroup], base: BaseConfig, *, base_model: str | None = None, origin: str = "given"
) -> BaseCheck:
    """Compare an adapter's modules with a base model: layers, module names, shapes.

    Args:
        base_model: the base's name.
        origin: who told its config.

    Raises:
        LoradockError: `base_model_mismatch`, naming the first module that does not fit.
    """
    if not base.tells_anything:
        notes: tuple[str, ...] = (f"{NOT_CHECKED}: its config tells neither layers nor sizes",)
        return BaseCheck(base_model=base_model, origin=origin, fingerprint=base.fingerprint, notes=notes)
    compared = [group for group in modules if not (base.multimodal and OTHER_TOWER.search(group.pattern))]
    _check_layers(compared, base)
    known = None if base.multimodal else _MODULES_OF.get(base.model_type or "")
    if known is not None:
        _check_names(compared, known, base)
    _check_shapes(compared, base)
    return BaseCheck(
        checked=True,
        base_model=base_model,
        origin=origin,
        fingerprint=base.fingerprint,
        notes=tuple(_notes(modules, compared, base, names=known is not None)),
    )


def with_base(
    report: InspectionReport, base: BaseConfig | None, *, base_model: str | None, origin: str = "given"
) -> InspectionReport:
    """The report with its comparison with a base model, None where no config is known.

    Raises:
        LoradockError: `base_model_mismatch`.
    """
    if base is None:
        note = f"{NOT_CHECKED}: no config of {base_model!r} is known"
        check = BaseCheck(base_model=base_model, notes=(note,))
    else:
        check = check_fit(report.modules, base, base_model=base_model, origin=origin)
    return report.model_copy(update={"base": check})


def _check_layers(groups: Iterable[ModuleGroup], base: BaseConfig) -> None:
    if base.num_hidden_layers is None:
        return
    for group in groups:
        if group.layers > base.num_hidden_layers:
            raise _mismatch(
                group.deepest,
                f"{group.deepest} is in layer {group.layers}, the base has {base.num_hidden_layers}",
            )


def _check_names(groups: Iterable[ModuleGroup], known: frozenset[str], base: BaseConfig) -> None:
    for group in groups:
        match = _IN_LAYER.fullmatch(group.pattern)
        if match is None or match["module"] not in known:
            raise _mismatch(group.first, f"{group.first} is no module of a {base.model_type} model")


def _check_shapes(groups: Iterable[ModuleGroup], base: BaseConfig) -> None:
    sizes = _expected_sizes(base)
    for group in groups:
        wanted = sizes.get(group.target, (None, None))
        for kind, found, expected in zip(
            ("inputs", "outputs"), (group.size_in, group.size_out), wanted, strict=True
        ):
            if expected is not None and found != expected:
                raise _mismatch(group.first, f"{group.first} has {found} {kind}, the base has {expected}")


def _expected_sizes(base: BaseConfig) -> dict[str, tuple[int | None, int | None]]:
    """Inputs and outputs by module name, None where the config does not tell."""
    if "all" in base.uneven:
        return {}
    hidden = base.hidden_size
    mlp = None if "mlp" in base.uneven else base.intermediate_size
    query = key = None
    if base.head_dim and "attention" not in base.uneven:
        query = base.num_attention_heads and base.num_attention_heads * base.head_dim
        key = base.num_key_value_heads and base.num_key_value_heads * base.head_dim
    return {
        "q_proj": (hidden, query),
        "k_proj": (hidden, key),
        "v_proj": (hidden, key),
        "o_proj": (query, hidden),
        "gate_proj": (hidden, mlp),
        "up_proj": (hidden, mlp),
        "down_proj": (mlp, hidden),
        "qkv_proj": (hidden, query + 2 * key if query and key else None),
        "gate_up_proj": (hidden, 2 * mlp if mlp else None),
    }


def _notes(
    modules: Sequence[ModuleGroup], compared: Sequence[ModuleGroup], base: BaseConfig, *, names: bool
) -> Iterable[str]:
    if len(compared) < len(modules):
        yield "modules of other towers than the text model were not compared"
    if not names:
        yield f"module names were not compared: the modules of {base.model_type or 'this architecture'} are not known"
    sizes = _expected_sizes(base)
    unknown = sorted(
        {group.target for group in compared if sizes.get(group.target, (None, None)) == (None, None)}
    )
    if unknown:
        yield f"shapes were not compared: {', '.join(unknown[:10])}"


def _mismatch(module: str, reason: str) -> LoradockError:
    return LoradockError("base_model_mismatch", reason, module=module)
