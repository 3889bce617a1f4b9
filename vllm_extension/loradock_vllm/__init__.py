"""Loradock's extension of a vLLM server: load, drain and unload LoRA adapters, and count who uses them.

Start vLLM with `--middleware loradock_vllm.LoradockMiddleware`.
"""

from loradock_vllm.middleware import LoradockMiddleware
from loradock_vllm.version import __version__

__all__ = ["LoradockMiddleware", "__version__"]
