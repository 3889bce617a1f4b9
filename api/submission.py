"""From a request to an operation: settle what was left open, keep it, check it, start it.

The operation is kept first and checked in the same transaction: a request that is sent twice finds its operation
before a check can say that there is nothing left to do, and a request that fails a check leaves nothing behind. Then it
is started, or waits in the queue.
"""

from api import base_models, uploads
from api.dependencies import ApiDependencies
from api.placement import choose_load_pool, choose_unload_pool, resolve_version
from api.schemas import LoadBody, PublishBody, UnloadBody
from api.starting import start
from loradock.core.requests import LoadRequest, PublishRequest, ThenLoad, UnloadRequest
from loradock.core.settings import Settings
from loradock.core.uris import UPLOAD_SCHEME, parse_upload_uri
from loradock.registry import admission, operations, placement, retrying, unloading
from loradock.registry.admission import Limits
from loradock.registry.database import Reader, Transaction
from loradock.registry.views import OperationView

Request = PublishRequest | LoadRequest | UnloadRequest


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
    async with parts.database.transaction() as tx:
        if upload is not None:
            request = await uploads.settled(tx, upload, actor, request)
        operation = await _keep(tx, parts, actor, key, request)
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
        operation = await _keep(tx, parts, actor, key, request)
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
        operation = await _keep(tx, parts, actor, key, request)
    return await start(parts, operation)


async def submit_retry(parts: ApiDependencies, actor: str, key: str | None, operation: str) -> OperationView:
    """Do again what failed of an operation, as an operation of its own.

    Raises:
        LoradockError: `operation_not_found`, `operation_not_retryable`, and those of the request that it comes to.
    """
    async with parts.database.transaction() as tx:
        # What is left to do changes with the retry itself: the key is looked up before.
        known = None if key is None else await operations.operation_of_key(tx, actor, key)
        if known is not None and known.retry_of == operation:
            kept = known
        else:
            request = await retrying.retry_request(tx, operation)
            kept = await _keep(tx, parts, actor, key, request, retry_of=operation)
    return await start(parts, kept)


async def _keep(
    tx: Transaction,
    parts: ApiDependencies,
    actor: str,
    key: str | None,
    request: Request,
    *,
    retry_of: str | None = None,
) -> OperationView:
    new = operations.NewOperation.of(request, actor, key).model_copy(update={"retry_of": retry_of})
    # Settled, or of a retry: the address may name the stored bytes too, which callers cannot write.
    upload = parse_upload_uri(request.uri) if isinstance(request, PublishRequest) else None
    if upload is not None:
        # Sent again from its folder, it comes by another session; it is the same request all the same.
        alike = operations.request_hash(new.kind, new.request | {"uri": f"{UPLOAD_SCHEME}://"})
        new = new.model_copy(update={"request_hash": alike})
    submitted = await operations.submit(tx, new)
    if not submitted.created:
        return submitted.operation
    await _check(tx, request)
    if upload is not None:
        await uploads.bind(tx, upload.session, new.id)
    if await admission.enter(tx, new.id, actor, Limits.of(parts.settings)):
        return submitted.operation
    return await operations.get_operation(tx, new.id)


async def _check(tx: Transaction, request: Request) -> None:
    """See that the request can be met, as far as that can be told at once."""
    match request:
        case PublishRequest():
            await base_models.check_publish(tx, request)
        case LoadRequest():
            await placement.check_load(tx, request)
        case UnloadRequest():
            await unloading.check_unload(tx, request)
