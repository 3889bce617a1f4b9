"""From a request to an operation: settle what was left open, keep it, check it, start it.

The operation is kept first and checked in the same transaction: a request that is sent twice finds its operation
before a check can say that there is nothing left to do, and a request that fails a check leaves nothing behind.
"""

from collections.abc import Awaitable, Callable

from api import base_models, uploads
from api.dependencies import ApiDependencies
from api.placement import choose_load_pool, choose_unload_pool, resolve_version
from api.schemas import LoadBody, PublishBody, UnloadBody
from api.starting import start
from loradock.core.requests import LoadRequest, PublishRequest, ThenLoad, UnloadRequest
from loradock.core.uris import UPLOAD_SCHEME
from loradock.registry import operations, placement, unloading
from loradock.registry.database import Transaction
from loradock.registry.views import OperationView

Check = Callable[[str], Awaitable[object]]
"""What is told at once, in the transaction that keeps the operation, whose id it is given."""


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
        LoradockError: `base_model_mismatch`, `base_model_unknown`, `adapter_busy`, `idempotency_key_reused`; of an upload
            `upload_not_found`, `upload_expired`, `upload_ended`, `upload_incomplete`, `digest_mismatch`.
    """
    request = PublishRequest(
        adapter=adapter,
        uri=body.source.uri,
        base_model=body.base_model,
        expect_digest=body.expect_digest,
        labels=body.labels,
        then=then,
    )
    upload = uploads.named_by(request.uri)

    async def check(operation: str) -> None:
        await base_models.check_publish(tx, request)
        if upload is not None:
            await uploads.bind(tx, upload, operation)

    async with parts.database.transaction() as tx:
        if upload is not None:
            request = await uploads.settled(tx, upload, actor, request)
        # Sent again from its folder, it comes by another session; it is the same request all the same.
        same = {"uri": f"{UPLOAD_SCHEME}://"} if upload is not None else {}
        operation = await _keep(tx, actor, key, request, check=check, same=same)
    return await start(parts, operation)


async def submit_load(
    parts: ApiDependencies, actor: str, key: str | None, adapter: str, body: LoadBody
) -> OperationView:
    """Keep a load and start it.

    Raises:
        LoradockError: everything that can be told at once: unknown adapter, version, pool or engine; version not ready;
            rank; base model; no engine alive; `adapter_busy`, `idempotency_key_reused`.
    """
    async with parts.database.transaction() as tx:
        version = await resolve_version(tx, adapter, body.version)
        request = LoadRequest(
            adapter=adapter,
            version=version,
            pool=await choose_load_pool(tx, adapter, body.pool, parts.settings),
            engines=body.engines,
            policy=body.policy,
            min_ready=body.min_ready,
        )
        operation = await _keep(tx, actor, key, request, check=lambda _: placement.check_load(tx, request))
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
        operation = await _keep(tx, actor, key, request, check=lambda _: unloading.check_unload(tx, request))
    return await start(parts, operation)


async def _keep(
    tx: Transaction,
    actor: str,
    key: str | None,
    request: PublishRequest | LoadRequest | UnloadRequest,
    *,
    check: Check,
    same: dict[str, str] | None = None,
) -> OperationView:
    """Keep a request.

    Args:
        same: what stands in place of fields that would tell two requests for the same apart.
    """
    new = operations.NewOperation.of(request, actor, key)
    if same:
        alike = operations.request_hash(new.kind, new.request | same)
        new = new.model_copy(update={"request_hash": alike})
    submitted = await operations.submit(tx, new)
    if submitted.created:
        await check(submitted.operation.id)
    return submitted.operation
