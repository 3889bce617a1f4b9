"""`adapter_config.json`: what PEFT says of an adapter, and which of its features vLLM cannot serve."""

import re
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loradock.artifacts.strict_json import strict_json
from loradock.core.errors import LoradockError
from loradock.core.inspection import EngineNeed, Finding, Verdict

MAX_CONFIG_BYTES: Final = 1024 * 1024
MAX_RANK: Final = 4096
ENGINE_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as `--max-lora-rank`."""
DEFAULT_ENGINE_RANK: Final = 16

Rank = Annotated[int, Field(ge=1, le=MAX_RANK, strict=True)]
Alpha = Annotated[float, Field(allow_inf_nan=False, ge=-1e9, le=1e9)]

_PATTERN_KEY = re.compile(r"\^?[A-Za-z0-9_-]+(?:\\?\.[A-Za-z0-9_-]+)*")
# Other initialisations change the base model's weights, which the engine would not know.
_PLAIN_INITIALISATIONS: Final = frozenset({"gaussian", "eva", "orthogonal", "mica", "lora_ga"})
_UNSERVED: Final = {
    "use_dora": "DoRA",
    "lora_bias": "a bias on LoRA (lora_bias)",
    "modules_to_save": "whole modules (modules_to_save)",
    "alora_invocation_tokens": "activated LoRA (alora_invocation_tokens)",
    "layer_replication": "layer replication",
    "use_bdlora": "block-diagonal LoRA (use_bdlora)",
    "use_qalora": "QALoRA",
    "trainable_token_indices": "trained tokens (trainable_token_indices)",
    "target_parameters": "LoRA on parameters of fused experts (target_parameters)",
}
"""Fields that must be empty, with what they stand for."""


class PeftConfig(BaseModel):
    """The fields that decide how an adapter is served; PEFT writes many more.

    Attributes:
        rank_pattern: ranks other than `r`, by module name or its end; the first that fits counts.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    r: Rank
    lora_alpha: Alpha
    target_modules: (
        list[Annotated[str, Field(max_length=512)]] | Annotated[str, Field(max_length=65536)] | None
    )
    base_model_name_or_path: Annotated[str, Field(max_length=4096)] | None = None
    use_rslora: bool = False
    rank_pattern: dict[str, Rank] | None = None
    alpha_pattern: dict[str, Alpha] | None = None

    @property
    def engine_rank(self) -> int:
        """The rank that an engine compares with its limit, whether or not a module has it."""
        return max((self.r, *(self.rank_pattern or {}).values()))

    def rank_of(self, module: str) -> int:
        """The rank that a module must have."""
        if not self.rank_pattern:
            return self.r
        parts = module.split(".")
        names = {".".join(parts[start:]) for start in range(len(parts))}
        for pattern, rank in self.rank_pattern.items():
            key = pattern.replace("\\.", ".")
            if key == f"^{module}" or key in names:
                return rank
        return self.r


def parse_config(data: bytes) -> PeftConfig:
    """Read an adapter's config.

    Raises:
        LoradockError: `config_invalid`; `adapter_not_supported`, naming the feature.
    """
    content = read_content(data)
    if content.get("peft_type") != "LORA":
        raise _invalid(f"peft_type is {str(content.get('peft_type'))[:40]!r}, not 'LORA'")
    try:
        config = PeftConfig.model_validate(content)
    except ValidationError as error:
        fields = "; ".join(
            f"{part['loc'][0]}: {part['msg']}" for part in error.errors(include_input=False)[:3]
        )
        raise _invalid(fields) from None
    for finding in unserved_features(content):
        raise LoradockError("adapter_not_supported", finding.detail, field=finding.feature)
    _check_patterns(config)
    return config


def read_content(data: bytes) -> dict[str, Any]:
    """The config's fields as they stand.

    Raises:
        LoradockError: `config_invalid`.
    """
    if len(data) > MAX_CONFIG_BYTES:
        raise _invalid(f"it has more than {MAX_CONFIG_BYTES} bytes")
    try:
        content = strict_json(data)
    except UnicodeDecodeError:
        raise _invalid("it is not UTF-8") from None
    except ValueError as error:
        raise _invalid(str(error)[:200]) from None
    if not isinstance(content, dict):
        raise _invalid("it is not an object")
    return content


def unserved_features(content: dict[str, Any]) -> list[Finding]:
    """What the config asks for that vLLM does not serve, each by the name of its field."""
    found = [
        _unserved(field, f"vLLM does not serve {feature}")
        for field, feature in _UNSERVED.items()
        if content.get(field)
    ]
    if content.get("bias", "none") != "none":
        found.append(_unserved("bias", "vLLM does not serve trained biases"))
    start = content.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in _PLAIN_INITIALISATIONS:
        found.append(
            _unserved(
                "init_lora_weights",
                f"init_lora_weights {start[:40]!r} changes the base model; convert the adapter to a plain LoRA",
            )
        )
    return found


def served_features(config: PeftConfig) -> list[Finding]:
    """What a config that passed asks of an engine."""
    found = [_rank(config.engine_rank)]
    if config.use_rslora:
        found.append(
            Finding(
                feature="rslora", verdict=Verdict.SERVABLE, detail="scaled by alpha over the root of the rank"
            )
        )
    for field, pattern in (("rank_pattern", config.rank_pattern), ("alpha_pattern", config.alpha_pattern)):
        if pattern:
            what = field.removesuffix("_pattern")
            found.append(
                Finding(
                    feature=field,
                    verdict=Verdict.CONDITIONAL,
                    detail=f"modules have a {what} of their own: older vLLM versions do not look at {field}",
                    needs=EngineNeed(property="vllm_version", setting="vLLM 0.32 or newer"),
                )
            )
    return found


def _rank(rank: int) -> Finding:
    setting = next((choice for choice in ENGINE_RANKS if choice >= rank), None)
    if setting is None:
        detail = f"rank {rank}: --max-lora-rank ends at {ENGINE_RANKS[-1]}"
        return Finding(feature="rank", verdict=Verdict.NOT_SERVABLE, detail=detail)
    return Finding(
        feature="rank",
        verdict=Verdict.SERVABLE if rank <= DEFAULT_ENGINE_RANK else Verdict.CONDITIONAL,
        detail=f"rank {rank}",
        needs=EngineNeed(property="max_lora_rank", at_least=rank, setting=f"--max-lora-rank {setting}"),
    )


def _unserved(field: str, detail: str) -> Finding:
    return Finding(feature=field, verdict=Verdict.NOT_SERVABLE, detail=detail)


def _check_patterns(config: PeftConfig) -> None:
    """Only names pass: an engine runs these keys as regular expressions, and one of them could keep it busy for ever."""
    for field, pattern in (("rank_pattern", config.rank_pattern), ("alpha_pattern", config.alpha_pattern)):
        for key in pattern or {}:
            if len(key) > 512 or not _PATTERN_KEY.fullmatch(key):
                raise LoradockError(
                    "adapter_not_supported",
                    f"{field} has a regular expression ({key[:80]!r}); use module names",
                    field=field,
                )


def _invalid(reason: str) -> LoradockError:
    return LoradockError("config_invalid", f"adapter_config.json: {reason}")
