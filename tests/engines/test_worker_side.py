"""The worker's part of staged loads against the LoRA managers of the vLLM that is installed."""

import json
import subprocess
from pathlib import Path

import pytest

from loradock.dev.engine_environment import EngineEnvironment
from loradock.dev.vllm_process import extension_folder

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(400)]


def test_it_keeps_vllm_s_books_as_an_add_would_and_reads_what_safetensors_reads(
    engine_environment: EngineEnvironment, tmp_path: Path
) -> None:
    done = subprocess.run(
        [str(engine_environment.python), "-P", str(Path(__file__).with_name("worker_side.py"))],
        env={
            **engine_environment.variables(tmp_path),
            "PYTHONPATH": str(extension_folder(tmp_path)),
            "VLLM_TARGET_DEVICE": "cpu",
            "VLLM_LOGGING_LEVEL": "ERROR",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert len(told) == 12
    assert not any(told.values()), "\n".join(told.values())
