"""What each workflow is started with, one model each. Changes must stay readable by runs under way."""

from loradock.core.models import Model, RunRef, VersionRef
from loradock.core.requests import EngineTarget, LoadRequest, PublishRequest, UnloadRequest


class OperationStart(Model):
    """The operation behind a workflow.

    Attributes:
        operation: operation id; the workflow's id is `op/<operation>`.
        epoch: the fencing epoch that the operation was given.
        actor: who asked.
    """

    operation: str
    epoch: int
    actor: str


class PublishInput(Model):
    """Input of PublishVersion."""

    start: OperationStart
    request: PublishRequest


class LoadInput(Model):
    """Input of LoadAdapter."""

    start: OperationStart
    request: LoadRequest


class UnloadInput(Model):
    """Input of UnloadAdapter."""

    start: OperationStart
    request: UnloadRequest


class RecoverInput(Model):
    """Input of RecoverOperation: the operation whose own workflow is gone."""

    operation: str
    actor: str


class ReconcileInput(Model):
    """Input of ReconcileEngine."""

    engine: str


class LoadOnEngineInput(Model):
    """Input of LoadOnEngine.

    Attributes:
        run: the operation's run, not the child's.
        restore: put back what an unload took away: the card goes on serving by the caller's own transaction.
    """

    run: RunRef
    actor: str
    target: EngineTarget
    ref: VersionRef
    pool: str
    restore: bool = False


class UnloadFromEngineInput(Model):
    """Input of UnloadFromEngine.

    Attributes:
        own_only: take away only what this operation loaded: the undo of a load.
        cut_requests: requests that outlast the drain are cut; else the unload fails with `drain_timeout`.
        bounded: give up on a host that does not answer instead of waiting for it (undo).
    """

    run: RunRef
    actor: str
    target: EngineTarget
    ref: VersionRef
    pool: str
    drain_seconds: float = 0.0
    own_only: bool = False
    cut_requests: bool = False
    bounded: bool = False


class LoadOnEnginesInput(Model):
    """Input of LoadOnEngines.

    Attributes:
        run: the operation's run, not the child's.
        number: of the batch: 0, 1, 2 …
        what: for people, e.g. the served name.
        all_or_nothing: when one engine fails, the whole batch is put back and fails.
        restore: put back what an unload took away: cards go on serving by the caller's own transaction, and those of
            engines that cannot be brought back are lost.
    """

    run: RunRef
    actor: str
    number: int
    adapter: str
    what: str
    pool: str
    all_or_nothing: bool = False
    restore: bool = False


class UnloadFromEnginesInput(Model):
    """Input of UnloadFromEngines; the last four as in `UnloadFromEngineInput`.

    Attributes:
        number: of the batch: 0, 1, 2 …
        what: for people, e.g. the served name.
    """

    run: RunRef
    actor: str
    number: int
    adapter: str
    what: str
    pool: str
    drain_seconds: float = 0.0
    own_only: bool = False
    cut_requests: bool = False
    bounded: bool = False
