"""Activities of a host agent: its cache and its engines."""

from typing import Final

from activities.interface.common import ActivitySpec
from loradock.core.models import (
    Model,
    RunRef,
    StepReport,
    VersionRef,
)
from loradock.core.requests import (
    EngineTarget,
)


class HostInput(Model):
    """Any work of a host agent for one engine."""

    run: RunRef
    ref: VersionRef
    target: EngineTarget


class DownloadedAdapter(Model):
    """An artifact in the host's cache, pinned for the engine.

    Attributes:
        path: folder on the host; carries the digest.
    """

    path: str
    outcome: str
    step: StepReport


class LoadAdapterInput(Model):
    """Loads a downloaded adapter into an engine and proves that it answers.

    Attributes:
        path: folder on the host.
        undo: it is loaded again to put an unload back.
    """

    run: RunRef
    ref: VersionRef
    target: EngineTarget
    path: str
    undo: bool = False


class LoadedAdapter(Model):
    """An adapter that answers on an engine.

    Attributes:
        outcome: `loaded` or `already_loaded`.
    """

    outcome: str
    steps: tuple[StepReport, ...]


class UnloadAdapterInput(Model):
    """Drains an adapter and removes it from an engine, checked.

    Attributes:
        own_only: only what this operation loaded.
        cut_requests: cut what still runs when the drain is over.
    """

    run: RunRef
    ref: VersionRef
    target: EngineTarget
    drain_seconds: float
    own_only: bool = False
    cut_requests: bool = False


class UnloadedAdapter(Model):
    """What became of an adapter on an engine.

    Attributes:
        outcome: `unloaded`, `not_loaded`, `not_owned` or `engine_gone`.
    """

    outcome: str
    steps: tuple[StepReport, ...]


class HostDone(Model):
    """A host's step without further result."""

    step: StepReport


DOWNLOAD_ADAPTER: Final = ActivitySpec("download_adapter", HostInput, DownloadedAdapter)
RELEASE_ADAPTER: Final = ActivitySpec("release_adapter", HostInput, HostDone)
LOAD_ADAPTER: Final = ActivitySpec("load_adapter", LoadAdapterInput, LoadedAdapter)
UNLOAD_ADAPTER: Final = ActivitySpec("unload_adapter", UnloadAdapterInput, UnloadedAdapter)
RESUME_ADAPTER: Final = ActivitySpec("resume_adapter", HostInput, HostDone)
