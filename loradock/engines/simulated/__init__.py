"""An engine without a model: the real extension before a server that answers by a formula.

For tests, and for machines where vLLM cannot be installed.
"""

from loradock.engines.simulated.answers import chat_prompt, simulated_text, simulated_tokens
from loradock.engines.simulated.app import create_app
from loradock.engines.simulated.engine import Faults, SimulatedEngine
from loradock.engines.simulated.fleet import SimulatedFleet
from loradock.engines.simulated.server import serving

__all__ = [
    "Faults",
    "SimulatedEngine",
    "SimulatedFleet",
    "chat_prompt",
    "create_app",
    "serving",
    "simulated_text",
    "simulated_tokens",
]
