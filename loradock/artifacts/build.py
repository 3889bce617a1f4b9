"""Making the parts from settings: the only place that knows both."""

from pathlib import Path
from typing import TYPE_CHECKING

from loradock.artifacts.bandwidth import Bandwidth
from loradock.artifacts.cache import HostCache
from loradock.artifacts.cache_policy import CachePolicy, VerifyPolicy
from loradock.artifacts.cache_upkeep import CacheUpkeep
from loradock.artifacts.protocol import ObjectStore, OnRetry
from loradock.artifacts.s3 import s3_client
from loradock.artifacts.sources.address import BucketFolder, bucket_folder, file_path, parse_address
from loradock.artifacts.sources.build import build_sources, chosen_region
from loradock.artifacts.sources.registry import SourceSet
from loradock.artifacts.sources.steady import Patience
from loradock.artifacts.sources.upload import UploadSource
from loradock.artifacts.staging import Staging
from loradock.artifacts.store import ArtifactStore
from loradock.artifacts.stores.folder import FolderStore
from loradock.artifacts.stores.s3 import S3Store
from loradock.artifacts.transfer import TransferOptions
from loradock.artifacts.uploads.folder import FolderUploads
from loradock.artifacts.uploads.s3 import S3Uploads
from loradock.core.errors import LoradockError
from loradock.core.settings import Settings
from loradock.core.uploads import UploadPlace
from loradock.core.uris import UPLOAD_SCHEME

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client


def open_sources(settings: Settings, bandwidth: Bandwidth | None = None) -> SourceSet:
    """All sources that this service reads.

    Args:
        bandwidth: a limit on what is read from networks.

    Raises:
        LoradockError: `setting_invalid`.
    """
    return build_sources(settings, bandwidth)


def open_objects(settings: Settings, bandwidth: Bandwidth | None = None) -> ObjectStore:
    """The object store that `LORADOCK_OBJECT_STORE` names.

    Args:
        bandwidth: a limit on what is sent to it.

    Raises:
        LoradockError: `setting_invalid`.
    """
    place = _store_place(settings)
    if isinstance(place, Path):
        return FolderStore(place)
    return S3Store(
        _store_client(settings, settings.object_store_endpoint),
        place.bucket,
        place.prefix,
        stall_seconds=settings.transfer_stall_seconds,
        bandwidth=bandwidth,
    )


def open_store(settings: Settings, objects: ObjectStore | None = None) -> ArtifactStore:
    """The artifact store of this service.

    Args:
        objects: the object store, when it is open already.

    Raises:
        LoradockError: `setting_invalid`.
    """
    return ArtifactStore(objects or open_objects(settings), str(settings.require("object_store")))


def open_uploads(settings: Settings) -> UploadPlace | None:
    """Where the API lets uploads go, None when it takes none.

    Raises:
        LoradockError: `setting_invalid`.
    """
    if not settings.uploads or settings.object_store is None:
        return None
    place = _store_place(settings)
    if isinstance(place, Path):
        return FolderUploads(FolderStore(place), max_bytes=settings.source_max_bytes)
    public = settings.upload_endpoint
    return S3Uploads(
        _store_client(settings, settings.object_store_endpoint),
        place.bucket,
        place.prefix,
        max_bytes=settings.source_max_bytes,
        public=_store_client(settings, public) if public else None,
    )


def open_staging(
    settings: Settings,
    uploaded: ObjectStore | None = None,
    bandwidth: Bandwidth | None = None,
    on_retry: OnRetry | None = None,
) -> Staging:
    """The orchestrator's staging folder, fed by all sources.

    Args:
        uploaded: the object store that uploads go to; without it there are none.
        bandwidth: a limit on what is read from networks.
        on_retry: told of reads that are tried again.

    Raises:
        LoradockError: `setting_invalid`.
    """
    sources = build_sources(settings, bandwidth, on_retry)
    if uploaded is not None:
        patience = Patience(stall_seconds=settings.source_stall_seconds, on_retry=on_retry)
        sources.add(UPLOAD_SCHEME, UploadSource(uploaded, patience))
    return Staging(
        settings.staging_dir,
        sources,
        max_bytes=settings.source_max_bytes,
        max_seconds=settings.source_max_seconds,
    )


def _store_place(settings: Settings) -> Path | BucketFolder:
    address = str(settings.require("object_store"))
    try:
        scheme = parse_address(address).scheme
        if scheme == "file":
            return Path(file_path(address))
        if scheme == "s3":
            return bucket_folder(address)
    except LoradockError as error:
        raise LoradockError("setting_invalid", f"LORADOCK_OBJECT_STORE: {error.message}") from None
    raise LoradockError("setting_invalid", "LORADOCK_OBJECT_STORE is neither s3:// nor file://")


def _store_client(settings: Settings, endpoint: str | None) -> "S3Client":
    return s3_client(
        endpoint=endpoint,
        region=chosen_region(settings),
        path_style=settings.s3_path_style,
        allow_http=settings.s3_allow_http,
    )


def open_cache(settings: Settings, on_retry: OnRetry | None = None) -> HostCache:
    """The host's cache over the artifact store.

    Args:
        on_retry: told of reads that are tried again.

    Raises:
        LoradockError: `setting_invalid`.
    """
    policy = cache_policy(settings, on_retry)
    return HostCache(settings.cache_dir.expanduser().resolve(), open_store(settings), policy)


def open_upkeep(settings: Settings) -> CacheUpkeep:
    """Care for the host's cache, without any store."""
    return CacheUpkeep(settings.cache_dir.expanduser().resolve(), cache_policy(settings))


def cache_policy(settings: Settings, on_retry: OnRetry | None = None) -> CachePolicy:
    """The limits of the host's cache."""
    return CachePolicy(
        verify=VerifyPolicy(settings.cache_verify),
        sample_share=settings.cache_sample_share,
        max_bytes=settings.cache_max_bytes,
        max_age_seconds=settings.cache_max_age_seconds,
        min_free_bytes=settings.cache_min_free_bytes,
        free_target_bytes=settings.cache_free_target_bytes,
        link_roots=settings.cache_link_roots,
        transfer=TransferOptions(
            parts=settings.transfer_parts,
            bandwidth=open_bandwidth(settings),
            durable=False,
            on_retry=on_retry,
        ),
    )


def open_bandwidth(settings: Settings) -> Bandwidth | None:
    """The limit that all transfers of a process share, None without one."""
    rate = settings.transfer_bytes_per_second
    return None if rate is None else Bandwidth(rate)
