"""`.loradock/dev.json`: where everything of the running stack is, for people, scripts and the CLI."""

from pathlib import Path

from pydantic import Field

from loradock.core.models import Model
from loradock.dev.files import write_private


class ObjectStoreInfo(Model):
    """The stack's object store; without `endpoint` it is AWS itself or a folder."""

    endpoint: str | None
    bucket: str
    uri: str
    region: str
    source_bucket: str | None = None
    access_key_id: str | None = None
    secret_access_key: str | None = Field(default=None, repr=False)


class EngineInfo(Model):
    """An engine of the stack; `kind` is `vllm` or `simulated`."""

    id: str
    url: str
    kind: str
    base_model: str


class DevInfo(Model):
    """All addresses, none with a trailing slash.

    Attributes:
        adapters: folders of the sample adapters by name, each with other weights for the tiny base.
        metrics: what Prometheus reads, by part; the API's needs the token.
    """

    api: str
    token: str = Field(repr=False)
    temporal_ui: str | None
    temporal_address: str
    database_url: str = Field(repr=False)
    object_store: ObjectStoreInfo
    engines: tuple[EngineInfo, ...]
    base_model_dir: str | None
    adapters: dict[str, str]
    metrics: dict[str, str]

    def write(self, path: Path) -> None:
        """Write the file, for its owner's eyes only: it holds secrets."""
        write_private(path, self.model_dump_json(indent=2) + "\n")
