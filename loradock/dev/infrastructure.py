"""The stack's servers: Postgres, Temporal and the object store, each embedded unless one was given from outside."""

import asyncio
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from loradock.dev.dev_file import ObjectStoreInfo
from loradock.dev.options import StackOptions
from loradock.dev.ports import PortPool
from loradock.dev.postgres import EmbeddedPostgres
from loradock.dev.search_attributes import search_attribute_types
from loradock.dev.seaweed import REGION, EmbeddedStore
from loradock.dev.supervisor import Supervisor
from loradock.dev.temporal import temporal_spec

_DATABASE = "loradock"
_BUCKET = "loradock"
_SOURCE_BUCKET = "sources"
_TEMPORAL_PORTS = ("temporal", "temporal-ui", "temporal-http", "temporal-metrics")


@dataclass(frozen=True, slots=True)
class TemporalPlace:
    """Where Temporal is; `ui` is None when nobody said where its UI is."""

    address: str
    ui: str | None


@dataclass(frozen=True, slots=True)
class StorePlace:
    """Where the object store is.

    Attributes:
        aws: credentials of the embedded store as environment variables; None for a store from outside.
        source_buckets: buckets that may be published from, separated by commas.
    """

    info: ObjectStoreInfo
    aws: dict[str, str] | None = field(repr=False)
    source_buckets: str


async def start_postgres(options: StackOptions, ports: PortPool, supervisor: Supervisor) -> str:
    """A running Postgres with our database in it; returns its address."""
    if options.given("database_url"):
        return str(options.settings.require("database_url"))
    server = EmbeddedPostgres(options.state / "postgres", ports.take("postgres"))
    await asyncio.to_thread(server.prepare)
    ports.release("postgres")
    await supervisor.start(server.spec())
    return await asyncio.to_thread(server.create_database, _DATABASE)


async def start_temporal(options: StackOptions, ports: PortPool, supervisor: Supervisor) -> TemporalPlace:
    """A running Temporal that knows our search attributes; one from outside is left as it is."""
    if options.given("temporal_address"):
        return TemporalPlace(options.settings.temporal_address, options.settings.temporal_ui_url)
    port, ui, http, metrics = (ports.take(name) for name in _TEMPORAL_PORTS)
    spec = temporal_spec(
        folder=options.state / "temporal",
        port=port,
        ui_port=ui,
        http_port=http,
        metrics_port=metrics,
        search_attributes=search_attribute_types(),
    )
    ports.release(*_TEMPORAL_PORTS)
    await supervisor.start(spec)
    return TemporalPlace(f"127.0.0.1:{port}", f"http://127.0.0.1:{ui}")


async def start_store(options: StackOptions, ports: PortPool, supervisor: Supervisor) -> StorePlace:
    """A running S3 with our buckets; one from outside, or a folder, is left as it is."""
    settings = options.settings
    if options.given("object_store"):
        uri = str(settings.object_store).rstrip("/")
        info = ObjectStoreInfo(
            endpoint=settings.object_store_endpoint,
            bucket=urlsplit(uri).netloc,
            uri=uri,
            region=settings.object_store_region,
        )
        return StorePlace(info, None, ",".join(settings.source_buckets))
    store = EmbeddedStore(options.state / "seaweedfs", ports)
    await supervisor.start(store.spec())
    await asyncio.to_thread(store.create_bucket, _BUCKET)
    await asyncio.to_thread(store.create_bucket, _SOURCE_BUCKET)
    info = ObjectStoreInfo(
        endpoint=store.endpoint,
        bucket=_BUCKET,
        uri=f"s3://{_BUCKET}",
        region=REGION,
        source_bucket=_SOURCE_BUCKET,
        access_key_id=store.credentials.access_key_id,
        secret_access_key=store.credentials.secret_access_key.get_secret_value(),
    )
    return StorePlace(info, store.aws_environment, ",".join({_SOURCE_BUCKET, *settings.source_buckets}))
