"""From a request to an operation: settle what was left open, keep it, check it, start it.

The operation is kept first and checked in the same transaction: a request that is sent twice finds its operation
before a check can say that there is nothing left to do, and a request that fails a check leaves nothing behind.
"""

from collections.abc import Awaitable, Callable

from api import base_models
from api.dependencies import ApiDependencies
from api.placement import choose_load_pool, choose_unload_pool, resolve_version
from api.schemas import LoadBody, PublishBody, UnloadBody
from api.starting import start
from loradock.core.requests import LoadRequest, PublishRequest, ThenLoad, UnloadRequest
from loradock.core.settings import Settings
from loradock.registry import operations, placement, unloading
from loradock.registry.database import Reader, Transaction
from loradock.registry.views import OperationView

Check = Callable[[], Awaitable[object]]


async def submit_publish(
    parts: ApiDependencies,
    actor: str,
    key: str | None,
    adapter: str,
    body: PublishBody,
    *,
    then: ThenLoad | None = None,
) -> OperationView:
    """Keep a publish and start it.

    Args:
        then: what is to follow when it has succeeded.

    Raises:
        LoradockError: `base_model_mismatch`, `base_model_unknown`, `adapter_busy`, `idempotency_key_reused`.
    """
    request = PublishRequest(
        adapter=adapter,
        uri=body.source.uri,
        base_model=body.base_model,
        expect_digest=body.expect_digest,
        labels=body.labels,
        then=then,
    )
    async with parts.database.transaction() as tx:
        operation = await _keep(tx, actor, key, request, lambda: base_models.check_publish(tx, request))
    return await start(parts, operation)


async def load_request(
    tx: Reader, settings: Settings, adapter: str, body: LoadBody, plan: str | None = None
) -> LoadRequest:
    """A load with everything settled that was left open.

    Args:
        plan: the etag of the plan that it must be.

    Raises:
        LoradockError: `adapter_not_found`, `alias_not_found`, `pool_ambiguous`.
    """
    return LoadRequest(
        adapter=adapter,
        version=await resolve_version(tx, adapter, body.version),
        pool=await choose_load_pool(tx, adapter, body.pool, settings),
        engines=None if body.engines is None else tuple(dict.fromkeys(body.engines)),
        labels=body.labels,
        replicas=None if body.replicas == "all" else body.replicas,
        policy=body.policy,
        min_ready=body.min_ready,
        plan=plan,
    )


async def submit_load(
    parts: ApiDependencies,
    actor: str,
    key: str | None,
    adapter: str,
    body: LoadBody,
    *,
    plan: str | None = None,
) -> OperationView:
    """Keep a load and start it.

    Args:
        plan: the etag of the plan that it must be.

    Raises:
        LoradockError: everything that can be told at once: unknown adapter, version, pool or engine; version not ready;
            rank; base model; slots; no engine alive; `plan_outdated`, `adapter_busy`, `idempotency_key_reused`.
    """
    async with parts.database.transaction() as tx:
        request = await load_request(tx, parts.settings, adapter, body, plan)
        operation = await _keep(tx, actor, key, request, lambda: placement.check_load(tx, request))
    return await start(parts, operation)


async def submit_unload(
    parts: ApiDependencies, actor: str, key: str | None, adapter: str, body: UnloadBody
) -> OperationView:
    """Keep an unload and start it.

    Raises:
        LoradockError: everything that can be told at once: unknown adapter, version, pool or engine; not loaded; takes
            traffic; `adapter_busy`, `idempotency_key_reused`.
    """
    async with parts.database.transaction() as tx:
        version = None if body.version is None else await resolve_version(tx, adapter, body.version)
        request = UnloadRequest(
            adapter=adapter,
            version=version,
            pool=await choose_unload_pool(tx, adapter, body.pool, parts.settings),
            engines=body.engines,
            drain_seconds=body.drain,
            force=body.force,
        )
        operation = await _keep(tx, actor, key, request, lambda: unloading.check_unload(tx, request))
    return await start(parts, operation)


async def _keep(
    tx: Transaction,
    actor: str,
    key: str | None,
    request: PublishRequest | LoadRequest | UnloadRequest,
    check: Check,
) -> OperationView:
    submitted = await operations.submit(tx, operations.NewOperation.of(request, actor, key))
    if submitted.created:
        await check()
    return submitted.operation
