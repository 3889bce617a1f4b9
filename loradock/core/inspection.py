"""The report of an adapter's inspection: what was found, what an engine needs to serve it, and what stands against it."""

from enum import StrEnum
from typing import Final

from pydantic import Field

from loradock.core.models import AdapterTraits, Failure, Model

NOT_CHECKED: Final = "not checked against a base"


class Verdict(StrEnum):
    """Whether something can be served."""

    SERVABLE = "servable"
    CONDITIONAL = "conditional"
    """By an engine that has what the findings name."""
    NOT_SERVABLE = "not_servable"


class BaseOrigin(StrEnum):
    """Who told a base model's config."""

    REGISTERED = "registered"
    """A person, by its `config.json`."""
    ENGINE = "engine"
    """An engine that runs it."""


class EngineNeed(Model):
    """A property that an engine must have.

    Attributes:
        property: `max_lora_rank`, `vllm_version`, `expert_lora`, `tower_lora`.
        at_least: the least value of a property that is a number.
        setting: how it is set, where it can be.
    """

    property: str
    at_least: int | None = None
    setting: str | None = None


class Finding(Model):
    """One feature of the adapter, judged by itself.

    Attributes:
        feature: short name, e.g. `rank`, `rslora`, `dora`, `modules_to_save`.
        detail: one sentence for people.
        needs: what the engine must have when the verdict is `conditional`.
    """

    feature: str
    verdict: Verdict
    detail: str
    needs: EngineNeed | None = None


class ModuleGroup(Model):
    """Modules that differ in nothing but the numbers in their names.

    Attributes:
        pattern: their name with `*` for each number, e.g. `model.layers.*.self_attn.q_proj`.
        first: the first one's whole name.
        deepest: the whole name of the one in the highest layer.
        modules: how many.
        layers: one more than the highest layer index, 0 without layers.
        size_in, size_out: inputs and outputs of each.
    """

    pattern: str
    first: str
    deepest: str
    modules: int = Field(ge=1)
    layers: int = Field(ge=0)
    rank_min: int = Field(ge=1)
    rank_max: int = Field(ge=1)
    size_in: int = Field(ge=1)
    size_out: int = Field(ge=1)

    @property
    def target(self) -> str:
        """The last part of the name."""
        return self.pattern.rpartition(".")[2]


class WeightsScan(Model):
    """That every number of the weights was read and is finite.

    Attributes:
        size: bytes read.
        seconds: how long it took.
    """

    numbers: int
    size: int
    seconds: float


class BaseCheck(Model):
    """The comparison with a base model.

    Attributes:
        base_model: its name, as far as known.
        origin: who told its config: `registered`, `engine` or `given`.
        fingerprint: of the config compared with.
        notes: what was not compared, and why.
    """

    checked: bool = False
    base_model: str | None = None
    origin: str | None = None
    fingerprint: str | None = None
    notes: tuple[str, ...] = (NOT_CHECKED,)


class InspectionReport(Model):
    """All that inspection says of an adapter.

    Attributes:
        failure: the first thing that stands against serving it.
        findings: its features, each judged by itself.
        traits: None when config or weights cannot be read.
        scan: None when the weights were not read to the end.
    """

    verdict: Verdict
    failure: Failure | None = None
    findings: tuple[Finding, ...] = ()
    traits: AdapterTraits | None = None
    modules: tuple[ModuleGroup, ...] = ()
    scan: WeightsScan | None = None
    base: BaseCheck = BaseCheck()

    @property
    def needs(self) -> tuple[EngineNeed, ...]:
        """What an engine must have."""
        return tuple(finding.needs for finding in self.findings if finding.needs is not None)

    def refused(self, failure: Failure) -> "InspectionReport":
        """The same report with what stands against it."""
        return self.model_copy(update={"verdict": Verdict.NOT_SERVABLE, "failure": failure})


def verdict_of(findings: tuple[Finding, ...]) -> Verdict:
    """The verdict over all features: the worst one counts."""
    given = {finding.verdict for finding in findings}
    for verdict in (Verdict.NOT_SERVABLE, Verdict.CONDITIONAL):
        if verdict in given:
            return verdict
    return Verdict.SERVABLE
