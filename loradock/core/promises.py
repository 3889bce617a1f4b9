"""What an engine may be unable to promise: a closed set, reported by its agent, kept with the engine, shown by the API.

A vLLM with our extension keeps all of them (one without the worker extension all but `staged_loads`); docs/engines.md says
for each what happens without it.
"""

from enum import StrEnum


class EnginePromise(StrEnum):
    """One thing that operators may rely on, where the engine's entry does not say otherwise."""

    TRUE_UNLOAD = "true_unload"
    """An unload takes the adapter out of the engine's memory and gives its slot back."""
    RESIDENCY_CHECK = "residency_check"
    """The engine tells which adapters its memory really holds, and loads and unloads are checked by it."""
    NO_EVICTION = "no_eviction"
    """What is loaded stays in the engine's memory: nothing else pushes it out."""
    CLEAN_FAILURE = "clean_failure"
    """A load that fails leaves nothing behind in the engine."""
    DRAIN_COUNT = "drain_count"
    """Requests that run for an adapter are counted exactly: a drain is over when the last one has ended."""
    CUT_REQUESTS = "cut_requests"
    """Requests that outlast a drain can be ended."""
    ADMISSION = "admission"
    """A request is admitted only as it expects (life, digest), and a draining name says "not admitted" (503)."""
    FENCING = "fencing"
    """The engine itself refuses calls that are over or mean another life of it, whoever sends them."""
    SOLE_CONTROL = "sole_control"
    """Adapters can be changed by Loradock alone: the engine's own endpoints for it are shut."""
    STAGED_LOADS = "staged_loads"
    """Live traffic does not wait for a load."""
    TOLD_LIMITS = "told_limits"
    """The engine tells its slots, its highest rank and the measures of its base model."""
