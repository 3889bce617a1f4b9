"""Identifiers made by us, and the Temporal names that follow from them."""

import uuid_utils


def new_operation_id() -> str:
    """A fresh operation id: sorts by time (UUIDv7), safe in URLs."""
    return f"op-{uuid_utils.uuid7().hex}"


REPAIR_PREFIX = "repair-"


def new_repair_id() -> str:
    """A fresh id of a repair: stands where an operation's id does, in calls to engines and in the audit."""
    return f"{REPAIR_PREFIX}{uuid_utils.uuid7().hex}"


def is_repair(operation: str) -> bool:
    """Whether an id is a repair's, which has no row and no steps that anybody waits for."""
    return operation.startswith(REPAIR_PREFIX)


def reconcile_workflow_id(engine: str) -> str:
    """The id of the one workflow that repairs an engine."""
    return f"reconcile/{engine}"


def new_upload_id() -> str:
    """A fresh upload session's id, made as an operation's."""
    return f"up-{uuid_utils.uuid7().hex}"


def workflow_id(operation: str) -> str:
    """The id of an operation's workflow."""
    return f"op/{operation}"


def child_workflow_id(operation: str, step: str, engine: str) -> str:
    """The id of a child that works on one engine: one per operation, step and engine."""
    return f"op/{operation}/{step}/{engine}"


LIFECYCLE_QUEUE = "lifecycle"
"""The orchestrators' task queue."""


TRANSFER_QUEUE = "lifecycle-io"
"""The orchestrators' task queue for what moves bytes: many slow transfers must not keep a commit or an undo waiting."""


def host_io_queue(agent: str) -> str:
    """The queue on which one host's agent downloads: it outlives the process, as the cache does."""
    return f"host-{agent}-io"


def host_engine_queue(agent: str) -> str:
    """The queue on which one host's agent calls its engines."""
    return f"host-{agent}-engine"
