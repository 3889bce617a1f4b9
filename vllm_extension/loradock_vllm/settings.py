"""What the extension may be told from outside: environment variables `LORADOCK_EXTENSION_…`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from loradock_vllm.errors import ConfigurationError
from loradock_vllm.pace import LoadLimits
from loradock_vllm.staging.loads import StagedLoadSettings

PREFIX: Final = "LORADOCK_EXTENSION_"
MINIMUM_TOKEN_LENGTH: Final = 16
DEFAULT_MAX_BODY_BYTES: Final = 64 * 1024 * 1024
LONGEST_PAUSE_SECONDS: Final = 600.0

_OFF: Final = frozenset({"", "0", "false", "no", "off"})
_UNSAFE: Final = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "it opens vLLM's own adapter endpoints, which bypass this extension",
    "VLLM_SKIP_MODEL_NAME_VALIDATION": "it answers requests for an unknown adapter with the base model",
}


@dataclass(frozen=True, slots=True)
class ExtensionSettings:
    """Settings of one server process.

    Attributes:
        token: bearer token of everything under `/loradock/`.
        usable_slots: adapters to hold at most; None takes what the engine can bear.
        max_body_bytes: largest JSON request body that is read to find its `model`.
        staged_load: how adapters are loaded beside the engine's steps.
        load_limits: how soon after one another loads may begin.
        runtime_folder: where the processes of one engine meet; None is a private folder in the system's temporary one.
    """

    token: str = field(repr=False)
    usable_slots: int | None = None
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES
    staged_load: StagedLoadSettings = field(default_factory=StagedLoadSettings)
    load_limits: LoadLimits = field(default_factory=LoadLimits)
    runtime_folder: Path | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigurationError: no token, or one that is too short or not printable ASCII.
        """
        if len(self.token) < MINIMUM_TOKEN_LENGTH:
            raise ConfigurationError(
                f"the extension's token needs at least {MINIMUM_TOKEN_LENGTH} characters"
            )
        if not (self.token.isascii() and self.token.isprintable()) or " " in self.token:
            raise ConfigurationError("the extension's token must be printable ASCII without spaces")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "ExtensionSettings":
        """Read the settings.

        Raises:
            ConfigurationError: a setting is missing or malformed, or vLLM's settings would bypass the extension.
        """
        for name, reason in _UNSAFE.items():
            if environment.get(name, "").strip().lower() not in _OFF:
                raise ConfigurationError(f"{name} must be off: {reason}")
        return cls(
            token=_read_token(environment),
            usable_slots=_read_number(environment, "USABLE_SLOTS", minimum=0),
            max_body_bytes=_read_number(environment, "MAX_BODY_BYTES", minimum=1024)
            or DEFAULT_MAX_BODY_BYTES,
            staged_load=StagedLoadSettings.from_environment(environment),
            load_limits=LoadLimits(
                pause_seconds=_read_seconds(environment, "LOAD_PAUSE_SECONDS"),
                per_minute=_read_number(environment, "LOADS_PER_MINUTE", minimum=1),
            ),
            runtime_folder=_read_folder(environment, "RUNTIME_FOLDER"),
        )


def _read_token(environment: Mapping[str, str]) -> str:
    token, file = environment.get(f"{PREFIX}TOKEN", ""), environment.get(f"{PREFIX}TOKEN_FILE", "")
    if token and file:
        raise ConfigurationError(f"set {PREFIX}TOKEN or {PREFIX}TOKEN_FILE, not both")
    if token:
        return token.strip()
    if not file:
        raise ConfigurationError(f"neither {PREFIX}TOKEN nor {PREFIX}TOKEN_FILE is set")
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{PREFIX}TOKEN_FILE cannot be read: {type(error).__name__}") from None


def _read_number(environment: Mapping[str, str], name: str, *, minimum: int) -> int | None:
    text = environment.get(f"{PREFIX}{name}", "").strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit()) or int(text) < minimum:
        raise ConfigurationError(f"{PREFIX}{name} must be a whole number of at least {minimum}")
    return int(text)


def _read_seconds(environment: Mapping[str, str], name: str) -> float:
    text = environment.get(f"{PREFIX}{name}", "").strip() or "0"
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= LONGEST_PAUSE_SECONDS:
        raise ConfigurationError(f"{PREFIX}{name} must be a number from 0 to {LONGEST_PAUSE_SECONDS:g}")
    return seconds


def _read_folder(environment: Mapping[str, str], name: str) -> Path | None:
    text = environment.get(f"{PREFIX}{name}", "").strip()
    if text and not Path(text).is_absolute():
        raise ConfigurationError(f"{PREFIX}{name} must be an absolute path")
    return Path(text) if text else None
