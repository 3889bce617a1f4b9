"""How wide an operation may be, and the batches in which a wide one goes over its engines.

Up to `CHILD_PER_ENGINE_UP_TO` engines an operation's plan travels with its workflow, and each engine has a child of its
own. The plan of a wider one stays in the registry; children take it from there, a batch each, so that no payload and no
history grows with the fleet.
"""

from typing import Final

from loradock.core.models import Model, VersionRef
from loradock.core.requests import EngineTarget

CHILD_PER_ENGINE_UP_TO: Final = 50

BATCH_SIZE: Final = 100

MAX_ENGINES: Final = 2000
"""Engines of one load."""

MAX_CARDS: Final = 10_000
"""Cards of one unload, which may take several versions from each engine."""


class BatchItem(Model):
    """One version on one engine, in the life that it was planned for."""

    target: EngineTarget
    ref: VersionRef

    @property
    def key(self) -> str:
        """Tells the item from all others of its operation."""
        return f"{self.target.engine}@{self.ref.version}"


class EngineBatch(Model):
    """A part of a wide operation's plan."""

    items: tuple[BatchItem, ...]


def batches_of(items: int) -> int:
    """How many batches so many items make; 0 when they are few enough for a child each."""
    return 0 if items <= CHILD_PER_ENGINE_UP_TO else -(-items // BATCH_SIZE)
