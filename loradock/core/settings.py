"""All settings of the service's processes: environment variables with the prefix `LORADOCK_`.

`.env.example` lists them with their meaning; a test keeps the two equal.
"""

import os
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, SettingsError

from loradock.core.errors import LoradockError
from loradock.core.reconcile import ForeignPolicy
from loradock.core.requests import MAX_LABELS, Labels
from loradock.core.uris import SCHEMES


def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "loradock"


class EngineKind(StrEnum):
    """What an agent's engines are."""

    VLLM = "vllm"
    """vLLM with our extension."""
    STOCK_VLLM = "stock-vllm"
    """vLLM without it, which promises less."""
    SIMULATED = "simulated"
    """Spoken to as vLLM with our extension."""


class Settings(BaseSettings):
    """What a process of the service may be told from outside. Each process uses the part that it needs.

    Attributes:
        database_url: `postgresql://user:password@host:port/name`.
        temporal_ui_url: where people open Temporal's UI; links in operations begin with it.
        object_store: `s3://bucket/prefix` or `file:///folder`.
        object_store_endpoint: for S3-compatible stores; credentials come from the normal AWS chain.
        api_token: one token for one operator, whose name in the audit is `operator`.
        api_tokens: further tokens by actor name, as JSON: `{"alice": "…"}`.
        agent_token: what host agents show to the API.
        agent_tokens_file: API: `agent-id sha256` a line, for agents that have a token of their own.
        agent_loras: whether agents may pass on `/v1/loras` calls of their neighbours.
        loras_listen: `host:port` where an agent takes `/v1/loras` calls; none by default.
        loras_token: what callers there must show; without it whoever reaches the port may change adapters.
        metrics_token: what callers of `/metrics` must show, at the API and where workers listen; opens nothing else.
        metrics_listen: `host:port` where an orchestrator or agent shows its metrics; none by default. Other than on loopback
            it needs `metrics_token`.
        temporal_metrics_listen: `host:port` where their Temporal SDK shows its own, to whoever reaches it.
        operations_active, operations_active_per_actor: operations that may be under way at once; others wait in a queue.
        operations_queued, operations_queued_per_actor: operations that may wait; what is beyond is refused.
        file_roots: folders below which `file://` sources may lie; none means no `file://` at all.
        source_schemes: what sources may begin with; an installed source of one's own counts only when it is named here.
        source_buckets: `bucket` or `bucket/prefix` that `s3://` sources may name; `*` is any.
        source_hosts: `host[:port]`, with a path below it or without, that `https://` sources may name.
        source_private_hosts: those of them that may have private addresses.
        source_repositories: `org` or `org/name` that `hf://` sources may name; `*` is any.
        source_credentials: place to secret name (docs/sources.md), as JSON; never a secret itself.
        source_ca_file: certificates (PEM) that `https://` sources are verified by, in place of the system's.
        source_max_seconds: the longest that reading one source may take.
        source_stall_seconds: a source that brings (nearly) nothing for so long has broken off; it is tried again.
        signature_policy: the file that says which adapters must be signed, and by whom (docs/signatures.md).
        s3_allow_http: plain http to an S3 on another machine; `AWS_ALLOW_HTTP` counts when it is not set.
        s3_path_style: buckets in the path; without it whenever an endpoint is given.
        lora_enabled: for `get_lora_manager`; `DYN_LORA_ENABLED` counts when it is not set.
        agent_labels: facts about the host, as JSON, that loads select engines by: `{"zone": "a"}`.
        engine_kind: what the engines of an agent are: `vllm` with our extension, `stock-vllm` without (docs/engines.md).
        engine_token: the bearer token of the engines' extension.
        engine_api_key: vLLM's own `--api-key`, for warm-up prompts; for all calls of a stock vLLM.
        stock_max_loras: the `--max-loras` of a stock vLLM that does not tell it.
        stock_max_lora_rank: the `--max-lora-rank` of a stock vLLM.
        stock_device: where it runs: on a `cpu` its slots are used once only.
        stock_quiet_seconds: how long nothing must be seen to run for a name that is gone, until it counts as drained.
        stock_grace_seconds: how long after its name went that is believed where nothing tells what runs.
        cache_max_bytes, cache_max_age_seconds: what is over them and leased by nobody is evicted.
        cache_min_free_bytes: of the cache's disk: a download that would leave less is refused.
        cache_free_target_bytes: of the cache's disk: eviction begins when less is free.
        cache_verify: when cached files are hashed again: `always`, `first`, `sampled` (`cache_sample_share` of uses).
        cache_link_roots: folders that nobody writes to: a `file://` store below them is linked into the cache.
        transfer_parts: ranges of one file that are fetched at once.
        transfer_stall_seconds: a body that brings nothing for so long is broken off and tried again.
        transfer_bytes_per_second: a limit for all transfers of a process together.
        collect_every_seconds: how often the collector runs; 0 is never.
        collect_grace_seconds: how long bytes that no version points to are kept.
        collect_leftovers_seconds: how long unfinished uploads, downloads and staged copies are kept.
        collect_keep_versions: so many ready versions of an adapter, the last published, are kept beside what anything names.
        agent_lease_seconds: how long an engine counts as alive after its agent's last word.
        agent_renew_seconds: how often an agent renews.
        reconcile_foreign: `report` or `unload`: what happens to an adapter that somebody else loaded and nobody wants.
        reconcile_foreign_grace_seconds: how long it is left alone before that.
        reconcile_repairs_per_minute: of one engine.
        reconcile_backoff_seconds, reconcile_backoff_max_seconds: the pause after a repair that failed: doubled each time.
        reconcile_drain_seconds: how long requests may go on that use what is taken out; then they are cut.
        reconcile_scan_seconds: how often all engines are compared with what is wanted of them; 0 is never.
        source_max_bytes, source_max_files: limits on what one publish may read, or one upload may bring.
        uploads: whether the API takes uploads; it needs the object store for them.
        upload_seconds: how long an upload session lasts, counted from its beginning.
        upload_endpoint: where callers reach the object store, when that is elsewhere than `object_store_endpoint`.
    """

    model_config = SettingsConfigDict(
        env_prefix="LORADOCK_", env_file=".env", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    database_url: SecretStr | None = None
    database_pool_size: int = Field(default=10, ge=1, le=200)

    temporal_address: str = "127.0.0.1:7233"
    temporal_namespace: str = "default"
    temporal_ui_url: str | None = None
    temporal_api_key: SecretStr | None = None
    temporal_tls: bool = False

    object_store: str | None = None
    object_store_endpoint: str | None = None
    object_store_region: str = "us-east-1"
    s3_allow_http: bool | None = None
    s3_path_style: bool | None = None

    api_url: str = "http://127.0.0.1:8400"
    api_token: SecretStr | None = None
    api_tokens: dict[str, SecretStr] = Field(default_factory=dict)
    agent_token: SecretStr | None = None
    agent_tokens_file: Path | None = None
    agent_loras: bool = False
    loras_listen: str | None = None
    loras_token: SecretStr | None = None
    metrics_token: SecretStr | None = None
    metrics_listen: str | None = None
    temporal_metrics_listen: str | None = None

    operations_active: int = Field(default=100, ge=1)
    operations_active_per_actor: int = Field(default=50, ge=1)
    operations_queued: int = Field(default=1000, ge=0, le=10_000)
    operations_queued_per_actor: int = Field(default=500, ge=0)

    file_roots: Annotated[tuple[Path, ...], NoDecode] = ()
    source_buckets: Annotated[tuple[str, ...], NoDecode] = ()
    source_schemes: Annotated[tuple[str, ...], NoDecode] = SCHEMES
    source_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    source_private_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    source_repositories: Annotated[tuple[str, ...], NoDecode] = ()
    source_credentials: dict[str, str] = Field(default_factory=dict, repr=False)
    source_ca_file: Path | None = None
    source_endpoint: str | None = None
    source_region: str | None = None
    source_max_seconds: float = Field(default=3600.0, gt=0)
    source_stall_seconds: float = Field(default=20.0, gt=0)
    source_max_bytes: int = Field(default=16 * 1024**3, ge=1)
    source_max_files: int = Field(default=1000, ge=1)
    signature_policy: Path | None = None
    uploads: bool = True
    upload_seconds: float = Field(default=24 * 3600.0, ge=1)
    upload_endpoint: str | None = None
    staging_dir: Path = Field(default_factory=lambda: _cache_home() / "staging")
    cache_dir: Path = Field(default_factory=lambda: _cache_home() / "adapters")

    lora_enabled: bool | None = None

    agent_id: str | None = None
    agent_labels: Labels = Field(default_factory=dict, max_length=MAX_LABELS)
    pool: str = "default"
    engines: Annotated[tuple[tuple[str, str], ...], NoDecode] = ()
    engine_kind: EngineKind = EngineKind.VLLM
    engine_token: SecretStr | None = None
    engine_token_file: Path | None = None
    engine_api_key: SecretStr | None = None
    stock_max_loras: int | None = Field(default=None, ge=1)
    stock_max_lora_rank: int = Field(default=512, ge=1)
    stock_device: str = Field(default="gpu", pattern="^(gpu|cpu)$")
    stock_quiet_seconds: float = Field(default=2.0, gt=0, le=30)
    stock_grace_seconds: float = Field(default=30.0, gt=0, le=45)
    cache_max_bytes: int | None = Field(default=None, ge=1)
    cache_max_age_seconds: float | None = Field(default=None, gt=0)
    cache_min_free_bytes: int = Field(default=256 * 1024**2, ge=0)
    cache_free_target_bytes: int = Field(default=0, ge=0)
    cache_verify: str = Field(default="first", pattern="^(always|first|sampled)$")
    cache_sample_share: float = Field(default=0.05, ge=0, le=1)
    cache_link_roots: Annotated[tuple[Path, ...], NoDecode] = ()

    transfer_parts: int = Field(default=4, ge=1, le=16)
    transfer_stall_seconds: float = Field(default=20.0, gt=0)
    transfer_bytes_per_second: int | None = Field(default=None, ge=1024)

    collect_every_seconds: float = Field(default=3600.0, ge=0)
    collect_grace_seconds: float = Field(default=24 * 3600.0, ge=0)
    collect_leftovers_seconds: float = Field(default=24 * 3600.0, ge=0)
    collect_keep_versions: int | None = Field(default=None, ge=1)

    reconcile_foreign: ForeignPolicy = ForeignPolicy.REPORT
    reconcile_foreign_grace_seconds: float = Field(default=300.0, ge=0)
    reconcile_repairs_per_minute: int = Field(default=60, ge=1)
    reconcile_backoff_seconds: float = Field(default=5.0, gt=0)
    reconcile_backoff_max_seconds: float = Field(default=600.0, gt=0)
    reconcile_drain_seconds: float = Field(default=30.0, ge=0, le=24 * 3600)
    reconcile_scan_seconds: float = Field(default=30.0, ge=0)

    agent_lease_seconds: float = Field(default=10.0, gt=0)
    agent_renew_seconds: float = Field(default=2.0, gt=0)

    @field_validator("file_roots", "cache_link_roots", mode="before")
    @classmethod
    def _split_paths(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(Path(part) for part in value.split(os.pathsep) if part)
        return value

    @field_validator(
        "source_buckets",
        "source_schemes",
        "source_hosts",
        "source_private_hosts",
        "source_repositories",
        mode="before",
    )
    @classmethod
    def _split_words(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("engines", mode="before")
    @classmethod
    def _split_engines(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [part.strip().partition("=") for part in value.split(",") if part.strip()]
        if any(not name or not url.startswith(("http://", "https://")) for name, _, url in pairs):
            raise ValueError("engines are given as id=http://host:port, separated by commas")
        return tuple((name, url.rstrip("/")) for name, _, url in pairs)

    @field_validator(
        "api_url", "temporal_ui_url", "object_store_endpoint", "source_endpoint", "upload_endpoint"
    )
    @classmethod
    def _no_trailing_slash(cls, value: str | None) -> str | None:
        return value.rstrip("/") if value else None

    def require(self, name: str) -> Any:
        """The value of a setting that this process cannot do without; secrets come out in plain text.

        Raises:
            LoradockError: `setting_invalid`.
        """
        value = getattr(self, name)
        if value is None or value == "":
            raise LoradockError("setting_invalid", f"LORADOCK_{name.upper()} is not set")
        return value.get_secret_value() if isinstance(value, SecretStr) else value

    def require_engine_token(self) -> str:
        """The extension's bearer token, from the setting or its file.

        Raises:
            LoradockError: `setting_invalid`.
        """
        if self.engine_token_file is None:
            return str(self.require("engine_token"))
        try:
            return self.engine_token_file.read_text().strip()
        except OSError as error:
            raise LoradockError(
                "setting_invalid", f"LORADOCK_ENGINE_TOKEN_FILE cannot be read: {error.strerror}"
            ) from None


def load_settings(**overrides: Any) -> Settings:
    """Read the environment (and `.env`).

    Raises:
        LoradockError: `setting_invalid`, naming the variables and never their values.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        names = ", ".join(
            f"LORADOCK_{str(part['loc'][0]).upper()}: {part['msg']}"
            for part in error.errors(include_input=False)
        )
        raise LoradockError("setting_invalid", names) from None
    except SettingsError as error:
        # Its text and its cause may hold the value: only the field's name is told.
        field = re.search(r'field "(\w+)"', str(error))
        name = f"LORADOCK_{field[1].upper()}" if field else "a setting"
        raise LoradockError("setting_invalid", f"{name}: it is not the JSON that it should be") from None
