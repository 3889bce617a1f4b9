"""The Python environment that has vLLM, torch, transformers and PEFT: never the service's own."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from loradock.core.errors import LoradockError

DEFAULT_FOLDER = ".venv-engine"


@dataclass(frozen=True, slots=True)
class EngineEnvironment:
    """An environment by its folder."""

    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    def check_present(self) -> None:
        """See that interpreter and vLLM are there; takes a moment, imports nothing heavy.

        Raises:
            LoradockError: `engine_environment_missing`.
        """
        if not self.python.exists():
            raise _missing(f"there is no {self.python}")
        probe = "import importlib.util as u, sys; sys.exit(u.find_spec('vllm') is None)"
        if not self._succeeds(probe, timeout=30.0):
            raise _missing(f"{self.folder} has no vLLM")

    def check_import(self) -> None:
        """See that vLLM can be imported; takes many seconds: for after a failed start.

        Raises:
            LoradockError: `engine_environment_missing`.
        """
        if not self._succeeds("import vllm.entrypoints.openai.api_server", timeout=180.0):
            raise _missing(f"vLLM in {self.folder} cannot be imported")

    def variables(self, cache: Path) -> dict[str, str]:
        """The environment variables that its programs need: offline, and caches only below `cache`."""
        kept = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "LD_PRELOAD")
        home = str(cache / "engine-home")
        return {
            **{name: os.environ[name] for name in kept if name in os.environ},
            "HOME": home,
            "XDG_CACHE_HOME": home,
            "VLLM_CACHE_ROOT": f"{home}/vllm",
            "TORCHINDUCTOR_CACHE_DIR": f"{home}/torchinductor",
            "HF_HOME": f"{home}/huggingface",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONUNBUFFERED": "1",
        }

    def _succeeds(self, code: str, *, timeout: float) -> bool:
        try:
            command = [str(self.python), "-P", "-c", code]
            done = subprocess.run(command, capture_output=True, timeout=timeout, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0


def _missing(reason: str) -> LoradockError:
    return LoradockError(
        "engine_environment_missing",
        f"{reason}: run 'make .venv-engine' to install it, or use '--engine simulated' where vLLM has no build",
    )
