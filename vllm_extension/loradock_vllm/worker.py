"""The part of the extension that runs in every worker of the engine.

Start vLLM with `--worker-extension-cls loradock_vllm.worker.WorkerExtension`. vLLM mixes the class into its worker, and the
server calls the methods through `collective_rpc`: in the step loop, between two steps. None of them raises: with several
workers, an exception of one would leave the answers of the others in their queues, and the next call would read those.
"""

from collections.abc import Callable
from typing import Any

from loradock_vllm.staging.desk import StagingDesk
from loradock_vllm.staging.engine_loras import EngineLoras, missing_parts
from loradock_vllm.version import __version__

_DESK = "_loradock_desk"


class WorkerExtension:
    """Loads an adapter in a thread of the worker, and hands it over between two steps."""

    def loradock_probe(self) -> dict[str, Any]:
        """What this worker is able to do."""
        return _safely(
            lambda: {"state": "ready", "error": "", "missing": missing_parts(self), "extension": __version__}
        )

    def loradock_stage(self, order: dict[str, Any]) -> dict[str, Any]:
        """Begin to stage an adapter; see `Staging` for the order."""
        return _safely(lambda: _desk(self).stage(order))

    def loradock_staged(self, token: str) -> dict[str, Any]:
        """Where a staging stands."""
        return _safely(lambda: _desk(self).staged(token))

    def loradock_commit(self, token: str) -> dict[str, Any]:
        """Hand a staged adapter to the engine."""
        return _safely(lambda: _desk(self).commit(token))

    def loradock_discard(self, token: str) -> dict[str, Any]:
        """Have nothing left of a staging, committed or not."""
        return _safely(lambda: _desk(self).discard(token))


def _desk(worker: Any) -> StagingDesk:
    desk: StagingDesk | None = getattr(worker, _DESK, None)
    if desk is None:
        desk = StagingDesk(EngineLoras(worker), int(getattr(worker, "rank", 0)))
        setattr(worker, _DESK, desk)
    return desk


def _safely(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return work()
    except Exception as error:
        return {"state": "failed", "error": str(error) or repr(error)}
