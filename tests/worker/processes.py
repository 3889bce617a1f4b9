"""Simulated engines and host agents as processes of their own, to stop, kill and start again."""

import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from loradock.dev.child import Child, ChildSpec
from loradock.dev.ports import PortPool
from loradock.dev.probes import http_answers
from tests.activities.conftest import ENGINE_TOKEN
from tests.dev.processes import PROJECT


def _environment(**more: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LORADOCK_", "AWS_", "VLLM_"))
    }
    return {**kept, **more}


class EngineProcess:
    """A simulated engine; each start is another life of it, on the same port."""

    def __init__(self, folder: Path, load_seconds: float = 0.0) -> None:
        self._ports = PortPool()
        port = self._ports.take("engine")
        self._ports.release()
        self.url = f"http://127.0.0.1:{port}"
        module = (sys.executable, "-m", "loradock.engines.simulated")
        options = ["--port", str(port), "--base-model", "tiny-base", "--max-loras", "3"]
        self.child = Child(
            ChildSpec(
                name="engine",
                command=(*module, *options, "--load-seconds", str(load_seconds)),
                env=_environment(LORADOCK_EXTENSION_TOKEN=ENGINE_TOKEN),
                cwd=PROJECT,
                ready=lambda: http_answers(f"{self.url}/health"),
            ),
            folder / "engine.log",
        )

    def start(self) -> None:
        """Start it, or start it again."""
        self.child.start()
        self.child.wait_ready()

    def kill(self) -> None:
        """As kill -9 does."""
        self.child.kill(signal.SIGKILL)

    def pause(self, *, paused: bool) -> None:
        """Stop the process where it is, or let it go on: its port takes connections all the while."""
        self.child.kill(signal.SIGSTOP if paused else signal.SIGCONT)

    def stop(self) -> None:
        """End it, in whatever state it is."""
        self.child.kill(signal.SIGKILL)
        self.child.stop()


@dataclass(frozen=True)
class AgentPlace:
    """What agents of one host share.

    Attributes:
        store: settings of the object store.
    """

    folder: Path
    api: str
    agent_token: str
    temporal: str
    namespace: str
    engine: str
    store: dict[str, str]

    def agent(self, number: int, agent_id: str = "host-1") -> Child:
        """A process of an agent; not started yet."""
        ready = self.folder / f"ready-{number}"
        return Child(
            ChildSpec(
                name=f"agent-{number}",
                command=(
                    *(sys.executable, "-m", "loradock", "agent", "--id", agent_id),
                    *("--engine", f"e1={self.engine}", "--ready-file", str(ready)),
                ),
                env=_environment(
                    LORADOCK_API_URL=self.api,
                    LORADOCK_AGENT_TOKEN=self.agent_token,
                    LORADOCK_TEMPORAL_ADDRESS=self.temporal,
                    LORADOCK_TEMPORAL_NAMESPACE=self.namespace,
                    LORADOCK_ENGINE_TOKEN=ENGINE_TOKEN,
                    LORADOCK_CACHE_DIR=str(self.folder / "cache"),
                    PYTHONUNBUFFERED="1",
                    **self.store,
                ),
                cwd=PROJECT,
                ready_file=ready,
                timeout=60,
                stop_timeout=20,
            ),
            self.folder / f"agent-{number}.log",
        )
