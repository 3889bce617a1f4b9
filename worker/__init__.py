"""The processes that poll Temporal: the orchestrator and the host agent; their wiring, and nothing else."""
