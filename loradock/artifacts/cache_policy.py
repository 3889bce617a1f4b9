"""What a host's cache may hold, how far it trusts it, and how it fills it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from loradock.artifacts.transfer import TransferOptions


class VerifyPolicy(StrEnum):
    """When files that are there and look as they did are hashed all the same."""

    ALWAYS = "always"
    FIRST = "first"
    """Never again after they were fetched, unless they look changed or the host was started anew."""
    SAMPLED = "sampled"


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """The limits of one cache.

    Attributes:
        verify: see `VerifyPolicy`.
        sample_share: of the uses that are verified when `sampled`, 0 to 1.
        max_bytes: of all adapters together, None for no limit.
        max_age_seconds: an adapter unused for so long is evicted, None for never.
        min_free_bytes: of the disk; a download that would leave less is refused.
        free_target_bytes: of the disk; eviction begins when less is free.
        link_roots: folders whose files nobody ever changes: taken by hard link from a folder store below them.
        transfer: how files are fetched.
    """

    verify: VerifyPolicy = VerifyPolicy.FIRST
    sample_share: float = 0.05
    max_bytes: int | None = None
    max_age_seconds: float | None = None
    min_free_bytes: int = 0
    free_target_bytes: int = 0
    link_roots: Sequence[Path] = ()
    transfer: TransferOptions = field(default_factory=lambda: TransferOptions(durable=False))
