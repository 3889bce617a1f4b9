"""What PEFT itself writes is judged rightly: served, served by engines with a property, or refused and why."""

import json
import subprocess
from pathlib import Path

import pytest

from loradock.artifacts.inspection import examine
from loradock.core.base_config import BaseConfig
from loradock.core.inspection import InspectionReport, Verdict
from loradock.dev.engine_environment import EngineEnvironment
from loradock.dev.samples import Samples
from tests.artifacts import peft_makes

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(300)]

SERVED = {
    "plain": set(),
    "all-linear": set(),
    "rslora": set(),
    "one-layer": set(),
    "gaussian": set(),
    "regex": set(),
    "bfloat16": set(),
    "float16": set(),
    "rank-64": {"max_lora_rank"},
    "patterns": {"vllm_version"},
}
"""By case: the properties that make it conditional."""
REFUSED = {
    "dora": ("adapter_not_supported", "DoRA"),
    "bias": ("adapter_not_supported", "bias"),
    "lora-bias": ("adapter_not_supported", "lora_bias"),
    "head-saved": ("adapter_not_supported", "modules_to_save"),
    "embeddings": ("adapter_not_supported", "embed_tokens"),
    "output-head": ("adapter_not_supported", "lm_head"),
    "pissa": ("adapter_not_supported", "pissa"),
    "more-layers": ("base_model_mismatch", "layers.2.self_attn.q_proj is in layer 3, the base has 2"),
    "wider": ("base_model_mismatch", "layers.0.self_attn.q_proj has 96 inputs, the base has 64"),
    "other-heads": ("base_model_mismatch", "layers.0.self_attn.k_proj has 64 outputs, the base has 32"),
    "nan": ("weights_not_finite", "lora_B.weight' has NaN at index 255"),
    "inf": ("weights_not_finite", "lora_B.weight' has -Inf at index 255"),
}


@pytest.fixture(scope="module")
def made(engine_environment: EngineEnvironment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one adapter for each case."""
    folder = tmp_path_factory.mktemp("peft")
    subprocess.run(
        [str(engine_environment.python), "-P", peft_makes.__file__, str(folder)],
        env=engine_environment.variables(folder / "cache"),
        check=True,
        timeout=240,
    )
    return folder


def judged(made: Path, case: str) -> InspectionReport:
    base = BaseConfig.of(json.loads((made / "base" / "config.json").read_text()))
    return examine(made / case, base=base, base_model="tiny")


def test_every_case_is_expected() -> None:
    assert SERVED.keys() | REFUSED.keys() == peft_makes.CASES.keys()


@pytest.mark.parametrize("case", SERVED)
def test_what_can_be_served_passes_with_what_it_needs(made: Path, case: str) -> None:
    report = judged(made, case)
    assert report.failure is None
    conditions = {
        finding.needs.property
        for finding in report.findings
        if finding.verdict is Verdict.CONDITIONAL and finding.needs is not None
    }
    assert conditions == SERVED[case]
    assert report.verdict is (Verdict.CONDITIONAL if conditions else Verdict.SERVABLE)
    assert report.base.checked
    assert report.scan is not None
    assert report.traits is not None
    assert report.scan.numbers == report.traits.parameters


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_served_is_refused_and_named(made: Path, case: str) -> None:
    report = judged(made, case)
    assert report.verdict is Verdict.NOT_SERVABLE
    assert report.failure is not None
    code, words = REFUSED[case]
    assert (report.failure.code, words in report.failure.message) == (code, True), report.failure


def test_the_tiny_models_adapters_fit_it(tiny_model: Samples) -> None:
    base = BaseConfig.of(json.loads((tiny_model.base / "config.json").read_text()))
    for folder in tiny_model.adapters.values():
        report = examine(folder, base=base, base_model=tiny_model.base_name)
        assert (report.verdict, report.base.checked, report.base.notes) == (Verdict.SERVABLE, True, ())
