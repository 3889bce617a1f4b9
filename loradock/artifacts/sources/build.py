"""Making the sources from settings."""

import ssl
from collections.abc import Callable
from hashlib import sha256
from threading import Lock
from typing import TYPE_CHECKING
from urllib.parse import SplitResult

from loradock.artifacts.bandwidth import Bandwidth
from loradock.artifacts.protocol import OnRetry, Source
from loradock.artifacts.s3 import S3Keys, s3_client
from loradock.artifacts.sources.archive import ArchiveLimits
from loradock.artifacts.sources.credentials import SourceCredentials, read_aws_keys
from loradock.artifacts.sources.custom import as_source, check_scheme, load_installed
from loradock.artifacts.sources.file import FileSource
from loradock.artifacts.sources.https import HttpsSource
from loradock.artifacts.sources.hub import HubSource, hub_client, hub_endpoint, hub_offline
from loradock.artifacts.sources.places import AllowedPlaces
from loradock.artifacts.sources.registry import SourceSet
from loradock.artifacts.sources.s3 import S3Source
from loradock.artifacts.sources.spool import Spool
from loradock.artifacts.sources.steady import Patience
from loradock.artifacts.sources.web import WebClient, WebRules
from loradock.core.errors import LoradockError
from loradock.core.settings import Settings
from loradock.core.uris import SCHEMES

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client


def build_sources(
    settings: Settings, bandwidth: Bandwidth | None = None, on_retry: OnRetry | None = None
) -> SourceSet:
    """The sources of all schemes that the settings allow; each denies every place that they do not name.

    Args:
        bandwidth: a limit on what is read from networks.
        on_retry: told of reads that are tried again.

    Raises:
        LoradockError: `setting_invalid`.
    """
    makers: dict[str, Callable[[_Parts], Source]] = {"file": _file, "s3": _s3, "hf": _hub, "https": _https}
    parts = _Parts(settings, bandwidth, on_retry)
    sources: dict[str, Source] = {}
    for scheme in settings.source_schemes:
        if scheme in SCHEMES:
            sources[scheme] = makers[scheme](parts)
        else:
            loaded = load_installed(check_scheme(scheme))
            sources[scheme] = as_source(loaded, parts.spool, max_files=settings.source_max_files)
    return SourceSet(sources)


def chosen_region(settings: Settings) -> str | None:
    """The store's region when somebody set it; else the AWS variables decide."""
    return settings.object_store_region if "object_store_region" in settings.model_fields_set else None


class _Parts:
    """What several sources share."""

    def __init__(self, settings: Settings, bandwidth: Bandwidth | None, on_retry: OnRetry | None) -> None:
        self.settings = settings
        self.spool = Spool(settings.staging_dir)
        self.patience = Patience(
            stall_seconds=settings.source_stall_seconds, bandwidth=bandwidth, on_retry=on_retry
        )
        self.credentials = SourceCredentials(settings.source_credentials)

    def tls(self) -> ssl.SSLContext:
        """Verifies by the system's certificates, or by those of the setting."""
        try:
            return ssl.create_default_context(cafile=self.settings.source_ca_file)
        except (OSError, ssl.SSLError) as error:
            raise LoradockError(
                "setting_invalid", f"LORADOCK_SOURCE_CA_FILE cannot be used: {type(error).__name__}"
            ) from None


def _file(parts: _Parts) -> Source:
    return FileSource(parts.settings.file_roots, max_files=parts.settings.source_max_files)


def _s3(parts: _Parts) -> Source:
    settings = parts.settings
    clients = _S3Clients(settings, parts.credentials)
    return S3Source(
        clients.make(None),
        settings.source_buckets,
        max_files=settings.source_max_files,
        client_for=clients.for_address,
        patience=parts.patience,
    )


def _https(parts: _Parts) -> Source:
    settings = parts.settings
    places = AllowedPlaces(settings.source_hosts, fold_case=True)

    def allows(url: SplitResult) -> bool:
        return places.allows(f"{url.netloc}{url.path}") or places.allows(f"{url.hostname}{url.path}")

    rules = WebRules(allows, private_hosts=tuple(host.lower() for host in settings.source_private_hosts))
    return HttpsSource(
        WebClient(rules, stall_seconds=settings.source_stall_seconds, tls=parts.tls()),
        parts.spool,
        ArchiveLimits(max_files=settings.source_max_files, max_bytes=settings.source_max_bytes),
        token_for=parts.credentials.token_for,
        patience=parts.patience,
    )


def _hub(parts: _Parts) -> Source:
    settings = parts.settings
    endpoint = hub_endpoint()
    return HubSource(
        AllowedPlaces(settings.source_repositories),
        hub_client(endpoint, stall_seconds=settings.source_stall_seconds, tls=parts.tls()),
        endpoint=endpoint,
        offline=hub_offline(),
        max_files=settings.source_max_files,
        token_for=parts.credentials.token_for,
        patience=parts.patience,
    )


class _S3Clients:
    """One client per secret: making one takes long."""

    def __init__(self, settings: Settings, credentials: SourceCredentials) -> None:
        self._settings, self._credentials = settings, credentials
        self._clients: dict[str, tuple[str, S3Client]] = {}
        self._lock = Lock()

    def for_address(self, uri: str) -> "S3Client | None":
        """The client for an address with credentials of its own; made anew when its secret has changed."""
        name = self._credentials.name_for(uri)
        if name is None:
            return None
        keys, mark = _keys(name)
        with self._lock:
            known = self._clients.get(name)
            if known is None or known[0] != mark:
                known = self._clients[name] = (mark, self.make(keys))
            return known[1]

    def make(self, keys: S3Keys | None) -> "S3Client":
        """A client for sources."""
        settings = self._settings
        return s3_client(
            endpoint=settings.source_endpoint,
            region=settings.source_region or chosen_region(settings),
            path_style=settings.s3_path_style,
            allow_http=settings.s3_allow_http,
            stall_seconds=settings.source_stall_seconds,
            keys=keys,
        )


def _keys(name: str) -> tuple[S3Keys, str]:
    """The credentials behind a name, and a mark that changes with them."""
    kind, _, where = name.partition(":")
    if kind == "profile":
        return S3Keys(profile=where), ""
    found = read_aws_keys(name)
    token = found.session_token.get_secret_value() if found.session_token else ""
    secrets = (found.access_key_id.get_secret_value(), found.secret_access_key.get_secret_value(), token)
    keys = S3Keys(found.access_key_id, found.secret_access_key, found.session_token)
    return keys, sha256("\0".join(secrets).encode()).hexdigest()
