"""What comes after an operation: kept in the transaction that ends it, so that no crash can cut the chain.

The relay starts it like any other operation that was committed.
"""

from collections.abc import Awaitable, Callable
from typing import Final

from loradock.core.errors import LoradockError
from loradock.core.models import Failure
from loradock.core.requests import LoadRequest, OperationResult, ThenLoad, UnloadRequest
from loradock.registry import adapter_rows, engines, operations, placement, unloading
from loradock.registry.database import Transaction
from loradock.registry.tables import OperationRow

REPLACED_DRAIN_SECONDS: Final = 300.0
"""How long the requests of a replaced version may go on: it gets no new ones and is in nobody's way meanwhile."""


async def load_published(
    tx: Transaction, publish: OperationRow, then: ThenLoad, version: int
) -> OperationResult:
    """Ask for the load that is to follow a publish.

    Returns:
        A result of which only `next` or `next_failed` is set.
    """

    async def ask() -> str:
        pool = then.pool or await _only_pool(tx, publish.adapter)
        request = LoadRequest(adapter=publish.adapter, version=version, pool=pool, replace=then.replace)
        return await _submit(tx, publish, request, lambda: placement.check_load(tx, request))

    return await _tried(tx, ask)


async def unload_replaced(tx: Transaction, load: OperationRow, pool: str, version: int) -> OperationResult:
    """Ask for the unload of every version of the adapter but the one that has just replaced them; its lock is free again.

    Returns:
        A result of which only `next` or `next_failed` is set, and neither when nothing else is loaded.
    """

    async def ask() -> str:
        request = UnloadRequest(
            adapter=load.adapter, pool=pool, keep_version=version, drain_seconds=REPLACED_DRAIN_SECONDS
        )
        return await _submit(tx, load, request, lambda: unloading.check_unload(tx, request))

    result = await _tried(tx, ask)
    nothing_there = result.next_failed is not None and result.next_failed.code == "version_not_loaded"
    return OperationResult() if nothing_there else result


async def _submit(
    tx: Transaction,
    after: OperationRow,
    request: LoadRequest | UnloadRequest,
    check: Callable[[], Awaitable[object]],
) -> str:
    submitted = await operations.submit(tx, operations.NewOperation.of(request, after.requested_by))
    if submitted.created:
        await check()
    return submitted.operation.id


async def _tried(tx: Transaction, ask: Callable[[], Awaitable[str]]) -> OperationResult:
    """What was done is done, whether or not the next thing can be begun."""
    try:
        async with tx.savepoint():
            return OperationResult(next=await ask())
    except LoradockError as error:
        if error.code == "database_unavailable":
            raise
        return OperationResult(next_failed=Failure.of(error))


async def _only_pool(tx: Transaction, adapter: str) -> str:
    base_model = (await adapter_rows.require(tx, adapter)).base_model or ""
    pools = await engines.pools_of_base_model(tx, base_model)
    if not pools:
        raise LoradockError("no_engine_alive", f"no engine serves base model {base_model}")
    if len(pools) > 1:
        raise LoradockError(
            "pool_ambiguous",
            f"base model {base_model} is served by the pools {', '.join(pools)[:500]}",
            pools=pools,
        )
    return pools[0]
