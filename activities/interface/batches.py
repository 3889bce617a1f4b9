"""Activities on a batch of a wide operation's engines; and the combined ones on each engine's host."""

from typing import Final

from pydantic import Field

from activities.interface.common import ActivitySpec, Done
from activities.interface.hosts import LoadedAdapter, UnloadAdapterInput, UnloadedAdapter
from loradock.core.batches import EngineBatch
from loradock.core.models import Failure, Model, RunRef, StepReport, VersionRef
from loradock.core.requests import EngineTarget


class BatchInput(Model):
    """Takes a batch of the operation's plan.

    Attributes:
        number: 0, 1, 2 …
    """

    run: RunRef
    number: int


class StageCardsInput(Model):
    """Writes the cards of a batch's verified loads in one transaction, and what became of every engine.

    Attributes:
        loaded: engines that answer under the name.
        failed: the others, with the code of each.
    """

    run: RunRef
    number: int
    pool: str
    loaded: tuple[str, ...]
    failed: dict[str, str] = Field(default_factory=dict)
    steps: tuple[StepReport, ...] = ()


class StagedCards(Model):
    """Engines whose card could not be staged, and why: they are not what they were any more."""

    failed: dict[str, Failure] = Field(default_factory=dict)


class RetractCardsInput(Model):
    """Takes back the cards that the operation staged for a batch's engines.

    Attributes:
        engines: these only; None is the whole batch.
    """

    run: RunRef
    number: int
    engines: tuple[str, ...] | None = None


class MarkCardsLostInput(Model):
    """Declares cards of a batch lost, which could not be put back.

    Attributes:
        items: by `BatchItem.key`, the code of each; None is the whole batch, for `reason`.
    """

    run: RunRef
    number: int
    items: dict[str, str] | None = None
    reason: str = "internal_error"


class NoteStepsInput(Model):
    """Keeps what a batch's steps reported."""

    run: RunRef
    steps: tuple[StepReport, ...]


class LoadOnEngineWork(Model):
    """All that a load does on one engine's host: download, add_lora, verify.

    Attributes:
        undo: it is loaded again to put an unload back.
    """

    run: RunRef
    ref: VersionRef
    target: EngineTarget
    undo: bool = False


TAKE_BATCH: Final = ActivitySpec("take_batch", BatchInput, EngineBatch)
STAGE_CARDS: Final = ActivitySpec("stage_cards", StageCardsInput, StagedCards)
RETRACT_CARDS: Final = ActivitySpec("retract_cards", RetractCardsInput, Done)
MARK_CARDS_LOST: Final = ActivitySpec("mark_cards_lost", MarkCardsLostInput, Done)
NOTE_STEPS: Final = ActivitySpec("note_steps", NoteStepsInput, Done)
LOAD_ON_ENGINE: Final = ActivitySpec("load_on_engine", LoadOnEngineWork, LoadedAdapter)
UNLOAD_FROM_ENGINE: Final = ActivitySpec("unload_from_engine", UnloadAdapterInput, UnloadedAdapter)
