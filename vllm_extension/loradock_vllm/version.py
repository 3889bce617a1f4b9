"""Versions: of this extension, and of the vLLM that it was tested with."""

from typing import Final

__version__: Final = "0.1.0"

TESTED_VLLM: Final = {"0.25.0": ("cuda",), "0.32.0": ("cpu",)}
"""vLLM versions, and the device types on which each was tested."""


def is_tested(vllm_version: str, device: str) -> bool:
    """Whether this extension was tested with that vLLM on that device type (`cpu`, `cuda` …)."""
    release = vllm_version.split("+", 1)[0]
    return device in TESTED_VLLM.get(release, ())
