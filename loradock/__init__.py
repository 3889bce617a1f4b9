"""Loradock: durable lifecycle of LoRA adapters on vLLM fleets."""

__version__ = "0.1.0"
