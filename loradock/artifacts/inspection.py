"""Whether an adapter can be served, told from its config and its weights before anything moves further."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from loradock.artifacts.disk import open_plain
from loradock.artifacts.finite import scan_weights
from loradock.artifacts.manifest import CONFIG_FILE, WEIGHTS_FILE
from loradock.artifacts.modules import LoraModule, engine_features, group_modules
from loradock.artifacts.peft_config import (
    MAX_CONFIG_BYTES,
    PeftConfig,
    parse_config,
    read_content,
    served_features,
    unserved_features,
)
from loradock.artifacts.protocol import Progress
from loradock.artifacts.weights import Tensor, WeightsHeader, read_header
from loradock.core.base_config import BaseConfig
from loradock.core.base_fit import check_fit, with_base
from loradock.core.errors import Fault, LoradockError
from loradock.core.inspection import (
    BaseCheck,
    Finding,
    InspectionReport,
    ModuleGroup,
    Verdict,
    WeightsScan,
    verdict_of,
)
from loradock.core.models import AdapterTraits, Failure

MAX_REPORT_BYTES: Final = 512 * 1024
"""A report travels through workflows, where 2 MiB are the end for all values of a call together."""
MAX_TARGET_MODULES: Final = 1000
SERVED_DTYPES: Final = frozenset({"F16", "BF16", "F32", "F64"})

_PREFIX: Final = "base_model.model."
_TENSOR = re.compile(r"(?P<module>.+)\.lora_(?P<half>[AB])\.weight")
_VOCABULARY: Final = frozenset({"embed_tokens", "lm_head", "wte", "embed_in", "embed_out", "word_embeddings"})


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found in config and header.

    Attributes:
        modules: sorted by name.
        groups: the same in short, sorted by pattern.
        findings: the features, none of which stands against serving it.
    """

    traits: AdapterTraits
    config: PeftConfig
    header: WeightsHeader
    modules: tuple[LoraModule, ...]
    groups: tuple[ModuleGroup, ...]
    findings: tuple[Finding, ...]

    def report(self, scan: WeightsScan | None = None) -> InspectionReport:
        """The report, to which a comparison with a base may be added."""
        return InspectionReport(
            verdict=verdict_of(self.findings),
            findings=self.findings,
            traits=self.traits,
            modules=self.groups,
            scan=scan,
        )


def inspect_folder(folder: Path) -> Inspection:
    """Judge a local folder that holds one adapter by its config and its weights' header.

    Raises:
        LoradockError: `config_missing`, `config_invalid`, `weights_missing`, `weights_corrupt`,
            `adapter_not_supported`.
    """
    config = read_config(folder / CONFIG_FILE)
    return inspect(config, read_header(folder / WEIGHTS_FILE))


class Inspected(NamedTuple):
    """An adapter that can be served, as far as it can tell by itself."""

    traits: AdapterTraits
    report: InspectionReport


def inspect_weights(folder: Path, progress: Progress | None = None) -> Inspected:
    """Judge a private copy of an adapter by all that it holds, every number of its weights included.

    Raises:
        LoradockError: those of `inspect_folder`; `weights_not_finite`, `disk_error`.
    """
    inspection = inspect_folder(folder)
    scan = scan_weights(folder / WEIGHTS_FILE, inspection.header, progress)
    return Inspected(inspection.traits, inspection.report(scan))


def examine(
    folder: Path,
    progress: Progress | None = None,
    *,
    base: BaseConfig | None = None,
    base_model: str | None = None,
) -> InspectionReport:
    """Judge a private copy of an adapter: what stands against serving it is told in the report, not raised.

    Args:
        base: the base model's config to compare with, its name being `base_model`.

    Raises:
        LoradockError: the folder cannot be read for a reason that is not the adapter's.
    """
    report = InspectionReport(verdict=Verdict.NOT_SERVABLE)
    try:
        inspection = inspect_folder(folder)
        report = inspection.report()
        if base is not None:
            report = with_base(report, base, base_model=base_model)
        scan = scan_weights(folder / WEIGHTS_FILE, inspection.header, progress)
        return report.model_copy(update={"scan": scan})
    except LoradockError as error:
        if error.spec.fault is not Fault.CALLER:
            raise
        changes: dict[str, Any] = {"findings": report.findings or _refusals(folder)}
        if error.code == "base_model_mismatch" and base is not None:
            changes["base"] = BaseCheck(
                checked=True, base_model=base_model, origin="given", fingerprint=base.fingerprint, notes=()
            )
        return report.refused(Failure.of(error)).model_copy(update=changes)


def _refusals(folder: Path) -> tuple[Finding, ...]:
    """All features of a refused config that stand against it; none when it cannot even be read."""
    try:
        return tuple(unserved_features(read_content(_config_bytes(folder / CONFIG_FILE))))
    except LoradockError:
        return ()


def read_config(path: Path) -> PeftConfig:
    """Read an adapter's config from its file.

    Raises:
        LoradockError: `config_missing`, `config_invalid`, `adapter_not_supported`.
    """
    return parse_config(_config_bytes(path))


def _config_bytes(path: Path) -> bytes:
    try:
        with open_plain(path) as file:
            return file.read(MAX_CONFIG_BYTES + 1)
    except OSError:
        raise LoradockError("config_missing", f"{CONFIG_FILE} cannot be read") from None


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
    groups = group_modules(modules)
    findings = (*served_features(config), *engine_features(groups))
    for finding in findings:
        if finding.verdict is Verdict.NOT_SERVABLE:
            raise _unsupported(finding.detail)
    inspection = Inspection(traits, config, header, modules, groups, findings)
    if len(inspection.report().model_dump_json()) > MAX_REPORT_BYTES:
        raise _unsupported("the adapted modules have too many different names")
    return inspection


def check_base(inspection: Inspection, base_config: Mapping[str, Any]) -> None:
    """Check an adapter against the `config.json` of the base model that it shall run on.

    Only what the config tells is checked: layers, module names of well-known architectures, and the sizes of Llama-like
    attention and MLP modules.

    Raises:
        LoradockError: `base_model_mismatch`.
    """
    check_fit(inspection.groups, BaseConfig.of(base_config))


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
