"""Activities of the reconciler."""

from typing import Final

from activities.interface.common import ActivitySpec, Done
from loradock.core.models import Failure, Model
from loradock.core.reconcile import EngineObservation, Look, Looked, Made, Repair, Scanned
from loradock.core.requests import EngineTarget


class BeginLookInput(Model):
    """Begins a look at an engine."""

    engine: str


class ObserveInput(Model):
    """Asks an engine what it holds; done by its agent."""

    target: EngineTarget


class CompareInput(Model):
    """Compares what an engine holds with what is wanted, and begins repairs.

    Attributes:
        run_id: of the workflow's run.
        under_way: names on which it works already.
    """

    look: Look
    seen: EngineObservation
    run_id: str
    under_way: tuple[str, ...] = ()


class MakeGoodInput(Model):
    """Lets traffic follow repairs of one engine that are done."""

    repairs: tuple[Repair, ...]


class NoteFailedInput(Model):
    """Keeps why a repair failed."""

    repair: Repair
    failure: Failure


class EndLookInput(Model):
    """Ends a look.

    Attributes:
        waits: something differs that an active operation holds.
        failure: why the look got nowhere.
    """

    look: Look
    waits: bool
    failure: Failure | None
    run_id: str


class EndedLook(Model):
    """How a look ended.

    Attributes:
        as_wanted: nothing is left to repair.
    """

    as_wanted: bool


class ScanInput(Model):
    """Compares engines, by id from `after` on, by what is reported of them."""

    after: str = ""
    limit: int = 200


BEGIN_LOOK: Final = ActivitySpec("begin_look", BeginLookInput, Look)
OBSERVE_ENGINE: Final = ActivitySpec("observe_engine", ObserveInput, EngineObservation)
COMPARE_ENGINE: Final = ActivitySpec("compare_engine", CompareInput, Looked)
MAKE_GOOD: Final = ActivitySpec("make_repairs_good", MakeGoodInput, Made)
NOTE_FAILED: Final = ActivitySpec("note_failed_repair", NoteFailedInput, Done)
END_LOOK: Final = ActivitySpec("end_look", EndLookInput, EndedLook)
SCAN_FLEET: Final = ActivitySpec("scan_fleet", ScanInput, Scanned)
