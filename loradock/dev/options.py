"""What the embedded stack may be told."""

import sys
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from loradock.core.errors import LoradockError
from loradock.core.settings import Settings, load_settings
from loradock.dev.engine_environment import DEFAULT_FOLDER, EngineEnvironment


class EngineKind(StrEnum):
    """Which engines the stack starts."""

    VLLM = "vllm"
    SIMULATED = "simulated"


@dataclass(frozen=True)
class StackOptions:
    """How to start a stack.

    Attributes:
        name: `dev` or `demo`: the folder below `.loradock/` that holds its state.
        engines: how many to start; without meaning where LORADOCK_ENGINES names existing ones.
        project: the folder that `.loradock/` lies in.
        engine_environment: the folder with vLLM; `.venv-engine` in the project by default.
        ephemeral: begin with empty state.
        restart_crashed: start parts again that end by themselves.
        program: how the service's own processes are run: this, a command's name, its arguments.
        settings: what is set here is used instead of an embedded part.
    """

    name: str = "dev"
    engines: int = 2
    engine_kind: EngineKind = EngineKind.VLLM
    project: Path = field(default_factory=Path.cwd)
    engine_environment: Path | None = None
    ephemeral: bool = False
    restart_crashed: bool = False
    program: tuple[str, ...] = (sys.executable, "-m", "loradock")
    settings: Settings = field(default_factory=load_settings)

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            LoradockError: `setting_invalid`.
        """
        if not 1 <= self.engines <= 16:
            raise LoradockError("setting_invalid", f"a stack has 1 to 16 engines, not {self.engines}")

    @property
    def root(self) -> Path:
        """`<project>/.loradock`."""
        return self.project.resolve() / ".loradock"

    @property
    def state(self) -> Path:
        """Where this stack's data lie."""
        return self.root / self.name

    @property
    def dev_file(self) -> Path:
        """The file with the running stack's addresses."""
        return self.root / "dev.json"

    @property
    def samples_folder(self) -> Path:
        """Where base model and sample adapters lie; kept from run to run."""
        return self.root / ("samples" if self.engine_kind is EngineKind.VLLM else "samples-simulated")

    @property
    def cache(self) -> Path:
        """Caches of the engines' programs."""
        return self.root / "cache"

    @property
    def environment(self) -> EngineEnvironment:
        """The environment with vLLM."""
        return EngineEnvironment(self.engine_environment or self.project.resolve() / DEFAULT_FOLDER)

    def given(self, setting: str) -> bool:
        """Whether a setting was given from outside, which replaces the embedded part."""
        return setting in self.settings.model_fields_set and bool(getattr(self.settings, setting))
