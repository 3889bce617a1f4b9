"""What an engine may be unable to promise: a closed set, reported by its agent, kept with the engine, shown by the API.

A vLLM with our extension keeps all of them (one without the worker extension all but `staged_loads`); docs/engines.md says
for each what happens without it.
"""

from enum import StrEnum
from typing import Final


class EnginePromise(StrEnum):
    """One thing that operators may rely on, where the engine's entry does not say otherwise."""

    TRUE_UNLOAD = "true_unload"
    RESIDENCY_CHECK = "residency_check"
    NO_EVICTION = "no_eviction"
    CLEAN_FAILURE = "clean_failure"
    DRAIN_COUNT = "drain_count"
    CUT_REQUESTS = "cut_requests"
    ADMISSION = "admission"
    FENCING = "fencing"
    SOLE_CONTROL = "sole_control"
    STAGED_LOADS = "staged_loads"
    TOLD_LIMITS = "told_limits"


PROMISED: Final[dict[EnginePromise, str]] = {
    EnginePromise.TRUE_UNLOAD: "an unload takes the adapter out of the engine's memory and gives its slot back",
    EnginePromise.RESIDENCY_CHECK: "the engine tells what its memory really holds; loads and unloads are checked by that",
    EnginePromise.NO_EVICTION: "what is loaded stays in the engine's memory: nothing else pushes it out",
    EnginePromise.CLEAN_FAILURE: "a load that fails leaves nothing behind in the engine",
    EnginePromise.DRAIN_COUNT: "running requests are counted by adapter: a drain is over when the last one has ended",
    EnginePromise.CUT_REQUESTS: "requests that outlast a drain can be ended",
    EnginePromise.ADMISSION: 'a request can say which life and weights it expects; a draining name says "not admitted"',
    EnginePromise.FENCING: "the engine itself refuses calls that come too late or mean another life, whoever sends them",
    EnginePromise.SOLE_CONTROL: "adapters change by Loradock alone: the engine's own routes for that are shut",
    EnginePromise.STAGED_LOADS: "live traffic does not wait for a load",
    EnginePromise.TOLD_LIMITS: "the engine tells its slots, its highest rank and the measures of its base model",
}
"""What each of them says."""
