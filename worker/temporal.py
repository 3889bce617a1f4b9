"""One way to reach Temporal, for every process."""

import logging
import re
from datetime import timedelta
from typing import Final

from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.runtime import PrometheusConfig, Runtime, TelemetryConfig
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from loradock.core.errors import LoradockError
from loradock.core.settings import Settings

_log = logging.getLogger(__name__)

GRACEFUL_SHUTDOWN: Final = timedelta(seconds=10)
"""How long running activities may go on when the process is asked to stop (the SDK's default is 0)."""

HEARTBEAT_THROTTLE: Final = timedelta(seconds=1)
"""How often heartbeats go out at most. An activity hears of its cancel in the answer to one (the SDK's default: 60 s)."""

STICKY_TIMEOUT: Final = timedelta(seconds=2)
"""How long a workflow waits for the worker that knows it before another one may take it: what a kill -9 costs."""


_AWAY: Final = frozenset(
    {
        RPCStatusCode.UNAVAILABLE,
        RPCStatusCode.DEADLINE_EXCEEDED,
        RPCStatusCode.CANCELLED,
        RPCStatusCode.UNAUTHENTICATED,
        RPCStatusCode.PERMISSION_DENIED,
    }
)


def measured_runtime(settings: Settings) -> Runtime | None:
    """The SDK's runtime with its own metrics, where the settings ask for them.

    Raises:
        LoradockError: `setting_invalid` when the address cannot be listened on.
    """
    address = settings.temporal_metrics_listen
    if not address:
        return None
    config = PrometheusConfig(bind_address=address, counters_total_suffix=True, durations_as_seconds=True)
    try:
        return Runtime(telemetry=TelemetryConfig(metrics=config))
    except (RuntimeError, ValueError) as error:
        raise LoradockError("setting_invalid", f"LORADOCK_TEMPORAL_METRICS_LISTEN: {error}") from None


async def connect(settings: Settings, *, lazy: bool = False, runtime: Runtime | None = None) -> Client:
    """A client with our converter.

    Args:
        runtime: one with metrics; by default the SDK's own.

    Raises:
        LoradockError: `temporal_unavailable`; `setting_invalid` when the address is none.
    """
    key = settings.temporal_api_key
    try:
        return await Client.connect(
            settings.temporal_address,
            namespace=settings.temporal_namespace,
            data_converter=pydantic_data_converter,
            tls=settings.temporal_tls,
            api_key=key.get_secret_value() if key else None,
            lazy=lazy,
            runtime=runtime,
        )
    except ValueError:
        raise LoradockError("setting_invalid", "LORADOCK_TEMPORAL_ADDRESS must be host:port") from None
    except (RuntimeError, RPCError) as error:
        _log.debug("no connection to Temporal: %s", error)
        raise LoradockError(
            "temporal_unavailable", _no_connection(settings.temporal_address, str(error))
        ) from None


def _no_connection(address: str, reason: str) -> str:
    """What people are told, out of what the SDK says in Rust's words."""
    answered = re.search(r"after connection: Status \{ code: (\w+)", reason)
    if answered is None:
        return f"Temporal does not answer at {address}"
    return f"what answers at {address} is not Temporal, or refuses this client ({answered[1]})"


def is_away(error: RPCError) -> bool:
    """Whether an error says that Temporal does not answer at all, rather than that it refuses one call."""
    return error.status in _AWAY


def workflow_runner() -> SandboxedWorkflowRunner:
    """The sandbox, with the modules passed through that are deterministic and costly to load anew.

    What is passed through holds no state; pydantic models must be the same classes inside and outside. The workflow
    files themselves are not: they are what the sandbox watches.
    """
    restrictions = SandboxRestrictions.default.with_passthrough_modules(
        "loradock.core", "activities.interface", "uuid_utils", "pydantic_settings", "dotenv"
    )
    return SandboxedWorkflowRunner(restrictions=restrictions)
