"""An adapter's modules: one by one, in groups that differ only by numbers, and what they ask of an engine."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from loradock.core.base_fit import OTHER_TOWER
from loradock.core.errors import LoradockError
from loradock.core.inspection import EngineNeed, Finding, ModuleGroup, Verdict

MAX_GROUPS: Final = 300

_LAYER: Final = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks|block)\.(?P<index>[0-9]{1,6})(?:\.|$)")
_NUMBER: Final = re.compile(r"(?:(?<=\.)|^)[0-9]{1,512}(?=\.|$)")
_EXPERTS: Final = re.compile(r"(?:^|\.)experts(?:\.|$)")


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

    @property
    def pattern(self) -> str:
        """The name with `*` for each number."""
        return _NUMBER.sub("*", self.name)


def group_modules(modules: Iterable[LoraModule]) -> tuple[ModuleGroup, ...]:
    """Put modules together that differ only by the numbers in their names and by rank.

    Raises:
        LoradockError: `adapter_not_supported` for more than `MAX_GROUPS`.
    """
    grouped: dict[tuple[str, int, int], list[LoraModule]] = {}
    for module in modules:
        key = (module.pattern, module.size_in, module.size_out)
        if key not in grouped and len(grouped) == MAX_GROUPS:
            raise LoradockError(
                "adapter_not_supported", f"more than {MAX_GROUPS} different kinds of modules are adapted"
            )
        grouped.setdefault(key, []).append(module)
    return tuple(_group(*key, grouped[key]) for key in sorted(grouped))


def engine_features(groups: Sequence[ModuleGroup]) -> list[Finding]:
    """What the modules ask of an engine beyond a rank."""
    found = []
    experts = next((group for group in groups if _EXPERTS.search(group.pattern)), None)
    if experts is not None:
        found.append(
            Finding(
                feature="experts",
                verdict=Verdict.CONDITIONAL,
                detail=f"LoRA on experts ({experts.first}): not every architecture takes it",
                needs=EngineNeed(property="expert_lora"),
            )
        )
    tower = next((group for group in groups if OTHER_TOWER.search(group.pattern)), None)
    if tower is not None:
        found.append(
            Finding(
                feature="tower",
                verdict=Verdict.CONDITIONAL,
                detail=f"LoRA beside the text model ({tower.first})",
                needs=EngineNeed(property="tower_lora", setting="--enable-tower-connector-lora"),
            )
        )
    return found


def _group(pattern: str, size_in: int, size_out: int, modules: Sequence[LoraModule]) -> ModuleGroup:
    deepest = max(modules, key=_depth)
    ranks = [module.rank for module in modules]
    return ModuleGroup(
        pattern=pattern,
        first=modules[0].name,
        deepest=deepest.name,
        modules=len(modules),
        layers=_depth(deepest),
        rank_min=min(ranks),
        rank_max=max(ranks),
        size_in=size_in,
        size_out=size_out,
    )


def _depth(module: LoraModule) -> int:
    """One more than its layer's index, 0 outside of layers."""
    return 0 if module.layer is None else module.layer + 1
