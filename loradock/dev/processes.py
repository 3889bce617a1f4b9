"""The service's own processes: API, orchestrator, host agents and migrations, each as `python -m loradock …`."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from loradock.dev.child import ChildSpec
from loradock.dev.probes import http_answers

_PREFIX = "LORADOCK_"
_NEVER_INHERITED = {
    f"{_PREFIX}{name}"
    for name in (
        "DATABASE_URL",
        "API_TOKEN",
        "API_TOKENS",
        "AGENT_TOKEN",
        "ENGINE_TOKEN",
        "ENGINE_TOKEN_FILE",
        "ENGINES",
    )
}
_POOL = "default"


@dataclass(frozen=True)
class ServiceAddresses:
    """Where the parts are that the service's processes talk to; each process is told only what it needs.

    Attributes:
        program: how our processes are run, before the command's name.
        database_url: holds a password.
        aws: credentials of the embedded store, None to let through those from outside.
        file_roots: folders that `file://` sources may lie in.
        engine_token: bearer token of the engines' extension.
    """

    program: tuple[str, ...]
    project: Path
    state: Path
    api_port: int
    temporal_address: str
    temporal_ui: str | None
    database_url: str = field(repr=False)
    object_store: str
    object_store_endpoint: str | None
    object_store_region: str
    aws: Mapping[str, str] | None = field(repr=False)
    source_buckets: str
    source_endpoint: str | None
    file_roots: tuple[Path, ...]
    api_token: str = field(repr=False)
    agent_token: str = field(repr=False)
    engine_token: str = field(repr=False)
    engine_kind: str

    @property
    def api(self) -> str:
        """The API's address."""
        return f"http://127.0.0.1:{self.api_port}"

    def migrate(self) -> ChildSpec:
        """Brings the database's schema up to date and ends."""
        return self._spec("migrate", "migrate", {"DATABASE_URL": self.database_url}, timeout=120.0)

    def api_process(self) -> ChildSpec:
        """The control API."""
        values = {
            "DATABASE_URL": self.database_url,
            "API_TOKEN": self.api_token,
            "AGENT_TOKEN": self.agent_token,
            **self._sources(),
            **self._store(),
        }
        arguments = ("--host", "127.0.0.1", "--port", str(self.api_port))
        spec = self._spec("api", "api", values, *arguments, stop_order=1, aws=self.aws)
        return replace(spec, ready=lambda: http_answers(f"{self.api}/readyz"))

    def orchestrator(self, metrics_port: int) -> ChildSpec:
        """The worker of the lifecycle queue; shows its metrics at this port."""
        values = {
            "DATABASE_URL": self.database_url,
            "STAGING_DIR": str(self.state / "staging"),
            "METRICS_LISTEN": f"127.0.0.1:{metrics_port}",
            **self._sources(),
            **self._store(),
        }
        ready = self.state / "ready" / "orchestrator"
        return self._spec(
            "orchestrator", "orchestrator", values, ready_file=ready, stop_order=2, aws=self.aws
        )

    def agent(self, name: str, engine: str, url: str, metrics_port: int) -> ChildSpec:
        """The host agent of one engine, by the agent's name; has no database. Shows its metrics at this port."""
        values = {
            "AGENT_TOKEN": self.agent_token,
            "ENGINE_TOKEN": self.engine_token,
            "ENGINE_KIND": self.engine_kind,
            "CACHE_DIR": str(self.state / "agents" / name / "cache"),
            "METRICS_LISTEN": f"127.0.0.1:{metrics_port}",
            **self._store(),
        }
        arguments = ("--id", name, "--engine", f"{engine}={url}", "--pool", _POOL)
        ready = self.state / "ready" / name
        return self._spec(name, "agent", values, *arguments, ready_file=ready, stop_order=3, aws=self.aws)

    def _sources(self) -> dict[str, str]:
        values = {
            "FILE_ROOTS": os.pathsep.join(str(root) for root in self.file_roots),
            "SOURCE_BUCKETS": self.source_buckets,
        }
        return values | ({"SOURCE_ENDPOINT": self.source_endpoint} if self.source_endpoint else {})

    def _store(self) -> dict[str, str]:
        values = {"OBJECT_STORE": self.object_store, "OBJECT_STORE_REGION": self.object_store_region}
        return values | (
            {"OBJECT_STORE_ENDPOINT": self.object_store_endpoint} if self.object_store_endpoint else {}
        )

    def _spec(
        self,
        name: str,
        command: str,
        values: Mapping[str, str],
        *arguments: str,
        timeout: float = 60.0,
        ready_file: Path | None = None,
        stop_order: int = 0,
        aws: Mapping[str, str] | None = None,
    ) -> ChildSpec:
        told = {
            "API_URL": self.api,
            "TEMPORAL_ADDRESS": self.temporal_address,
            "TEMPORAL_METRICS_LISTEN": "",  # one address is not enough for all of them
            **values,
        }
        if self.temporal_ui:
            told["TEMPORAL_UI_URL"] = self.temporal_ui
        if ready_file is not None:
            ready_file.parent.mkdir(parents=True, exist_ok=True)
            arguments += ("--ready-file", str(ready_file))
        return ChildSpec(
            name=name,
            command=(*self.program, command, *arguments),
            env={
                **self._inherited(),
                **{f"{_PREFIX}{key}": value for key, value in told.items()},
                **(aws or {}),
            },
            cwd=self.project,
            ready_file=ready_file,
            timeout=timeout,
            stop_order=stop_order,
        )

    def _inherited(self) -> dict[str, str]:
        """Our own environment without secrets meant for other processes, and without foreign AWS credentials."""
        kept = {name: value for name, value in os.environ.items() if name not in _NEVER_INHERITED}
        if self.aws is not None:
            foreign = [name for name in kept if name.startswith("AWS_") and name != "AWS_CA_BUNDLE"]
            kept = {name: value for name, value in kept.items() if name not in foreign}
            kept["AWS_EC2_METADATA_DISABLED"] = "true"
        return kept | {"PYTHONUNBUFFERED": "1"}
