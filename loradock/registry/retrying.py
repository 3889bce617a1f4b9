"""Doing again what failed of an operation, and nothing else."""

from sqlalchemy import select

from loradock.core.errors import LoradockError
from loradock.core.models import CardState, OperationKind, OperationState
from loradock.core.requests import LoadRequest, OperationResult, PublishRequest, UnloadRequest
from loradock.registry import deployments
from loradock.registry.database import Reader
from loradock.registry.operations import not_found
from loradock.registry.tables import CardRow, OperationRow, OperationStepRow


async def retry_request(tx: Reader, operation: str) -> PublishRequest | LoadRequest | UnloadRequest:
    """What to ask for so that an operation that has ended is done again where it failed.

    A load comes to the engines alone that do not serve the version now, and were planned (when all of it was put back) or
    left to be repaired (`best_effort`). A publish or unload is asked for as it was.

    Raises:
        LoradockError: `operation_not_found`, `operation_not_retryable`.
    """
    row = await _ended(tx, operation)
    await _check_timely(tx, row)
    if row.kind == OperationKind.LOAD:
        return await _load(tx, row)
    if row.state == OperationState.SUCCEEDED:
        raise _not_retryable(row, "it succeeded")
    if row.kind == OperationKind.PUBLISH:
        return PublishRequest.model_validate(row.request)
    return UnloadRequest.model_validate(row.request)


async def check_timely(tx: Reader, operation: str) -> None:
    """See once more, now that the retry is kept and holds the lock, that nothing came in between which it would undo.

    Raises:
        LoradockError: `operation_not_found`, `operation_not_retryable`.
    """
    await _check_timely(tx, await _ended(tx, operation))


async def _ended(tx: Reader, operation: str) -> OperationRow:
    row: OperationRow | None = await tx.session.get(OperationRow, operation)
    if row is None:
        raise not_found(operation)
    if OperationState(row.state).active:
        raise _not_retryable(row, f"it is still {row.state}")
    return row


async def _check_timely(tx: Reader, row: OperationRow) -> None:
    """What was meant when it was asked for must not hit what came to be served later."""
    if row.kind == OperationKind.UNLOAD:
        await _check_unload(tx, row, UnloadRequest.model_validate(row.request))
    elif row.kind == OperationKind.LOAD and row.request.get("replace"):
        others = sorted((await _loaded_since(tx, row)).keys() - {row.version})
        if others:
            raise _not_retryable(
                row, f"version {others[-1]} was loaded since, and would lose its traffic to it"
            )


async def _check_unload(tx: Reader, row: OperationRow, request: UnloadRequest) -> None:
    since = await _loaded_since(tx, row)
    meant = (
        since.keys() - {request.keep_version} if request.version is None else since.keys() & {request.version}
    )
    for version in sorted(meant, reverse=True):
        if request.engines is None or since[version] & set(request.engines):
            raise _not_retryable(row, f"version {version} was loaded since, and would go with it")
    keep = request.keep_version
    if keep is not None and not await _serving(tx, request.adapter, keep, request.pool):
        raise _not_retryable(row, f"version {keep}, which was to stay, does not serve there now")


async def _loaded_since(tx: Reader, row: OperationRow) -> dict[int, set[str]]:
    """Versions that loads have brought since the operation's end, with the engines."""
    load = OperationRow
    query = select(load.version, load.result).where(
        load.adapter == row.adapter,
        load.pool == row.pool,
        load.kind == OperationKind.LOAD,
        load.state == OperationState.SUCCEEDED,
        load.ended_at > row.ended_at,
    )
    found: dict[int, set[str]] = {}
    for version, result in await tx.session.execute(query):
        found.setdefault(version or 0, set()).update(OperationResult.model_validate(result or {}).engines)
    return found


async def _serving(tx: Reader, adapter: str, version: int, pool: str) -> set[str]:
    """The engines that serve the version now."""
    query = select(CardRow.engine).filter_by(adapter=adapter, version=version, pool=pool)
    return set(await tx.session.scalars(query.where(CardRow.state == CardState.SERVING)))


async def _load(tx: Reader, row: OperationRow) -> LoadRequest:
    request = LoadRequest.model_validate(row.request).model_copy(update={"plan": None})
    planned = await _left_to_do(tx, row) if row.state == OperationState.SUCCEEDED else await _planned(tx, row)
    if not planned and row.state != OperationState.SUCCEEDED:
        return request  # it failed before it came to any engine
    serving = await _serving(tx, request.adapter, request.version, request.pool)
    missing = tuple(sorted(planned - serving))
    if not missing:
        raise _not_retryable(row, "no engine of it failed that does not serve the version by now")
    least = max(1, min(request.min_ready - len(serving), len(missing)))
    return request.model_copy(update={"only": missing, "min_ready": least})


async def _planned(tx: Reader, row: OperationRow) -> set[str]:
    step = OperationStepRow
    query = select(step.engine).where(step.operation == row.id, step.engine != "").distinct()
    return set(await tx.session.scalars(query))


async def _left_to_do(tx: Reader, row: OperationRow) -> set[str]:
    """What a load of `best_effort` could not reach, as far as it is wanted still."""
    failed = set(OperationResult.model_validate(row.result or {}).failed_engines)
    wanted = (await deployments.version_rows(tx, row.adapter, row.pool or "")).get(row.version or 0)
    if wanted is None:
        return set()
    return failed if wanted.engines is None else failed & set(wanted.engines)


def _not_retryable(row: OperationRow, why: str) -> LoradockError:
    return LoradockError(
        "operation_not_retryable",
        f"operation {row.id} ({row.kind}) cannot be retried: {why}",
        operation=row.id,
    )
