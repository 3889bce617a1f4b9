"""From a request to an operation: look up its key, settle what was left open, keep it, check it, start it.

The key is looked up before anything is settled: what an alias names, or which pool is meant, may be something else when a
request is sent again. The operation is kept first and checked in the same transaction: a request that is sent twice finds
its operation before a check can say that there is nothing left to do, and a request that fails a check leaves nothing
behind. Then it is started, or waits in the queue.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from api import base_models, uploads
from api.dependencies import ApiDependencies
from api.placement import choose_load_pool, choose_unload_pool, resolve_version
from api.schemas import LoadBody, PublishBody, UnloadBody
from api.starting import start
from loradock.core.models import OperationKind
from loradock.core.requests import LoadRequest, PublishRequest, ThenLoad, UnloadRequest
from loradock.core.settings import Settings
from loradock.core.uris import UPLOAD_SCHEME, parse_upload_uri
from loradock.registry import admission, operations, placement, retrying, unloading
from loradock.registry.admission import Limits
from loradock.registry.database import Reader, Transaction
from loradock.registry.idempotency import KeyUse
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

    async def settle(tx: Transaction) -> PublishRequest:
        return request if upload is None else await uploads.settled(tx, upload, actor, request)

    return await _once(parts, _Sent(actor, key, OperationKind.PUBLISH, _told(body, adapter=adapter)), settle)


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
    sent = _Sent(actor, key, OperationKind.LOAD, _told(body, adapter=adapter, plan=plan))
    return await _once(parts, sent, lambda tx: load_request(tx, parts.settings, adapter, body, plan))


async def submit_unload(
    parts: ApiDependencies, actor: str, key: str | None, adapter: str, body: UnloadBody
) -> OperationView:
    """Keep an unload and start it.

    Raises:
        LoradockError: everything that can be told at once: unknown adapter, version, pool or engine; not loaded; takes
            traffic; `adapter_busy`, `idempotency_key_reused`.
    """

    async def settle(tx: Transaction) -> UnloadRequest:
        return UnloadRequest(
            adapter=adapter,
            version=None if body.version is None else await resolve_version(tx, adapter, body.version),
            pool=await choose_unload_pool(tx, adapter, body.pool, parts.settings),
            engines=body.engines,
            drain_seconds=body.drain,
            force=body.force,
        )

    return await _once(parts, _Sent(actor, key, OperationKind.UNLOAD, _told(body, adapter=adapter)), settle)


async def submit_retry(parts: ApiDependencies, actor: str, key: str | None, operation: str) -> OperationView:
    """Do again what failed of an operation, as an operation of its own.

    Raises:
        LoradockError: `operation_not_found`, `operation_not_retryable`, and those of the request that it comes to.
    """
    sent = _Sent(actor, key, "retry", {"operation": operation})
    return await _once(parts, sent, lambda tx: retrying.retry_request(tx, operation), retry_of=operation)


@dataclass(frozen=True, slots=True)
class _Sent:
    """A call as it was sent.

    Attributes:
        key: its Idempotency-Key, if it has one.
        told: what it says, before anything is settled that it leaves open.
    """

    actor: str
    key: str | None
    what: str
    told: dict[str, Any]

    @property
    def key_use(self) -> KeyUse | None:
        """What the key is to stand for."""
        if self.key is None:
            return None
        sent_hash = operations.request_hash(self.what, self.told)
        return KeyUse(actor=self.actor, key=self.key, sent_hash=sent_hash)


def _told(body: BaseModel, **beside: str | None) -> dict[str, Any]:
    """What a body says; not what it leaves to defaults: a later release may have more fields."""
    return {**body.model_dump(mode="json", exclude_unset=True), "beside": beside}


async def _once(
    parts: ApiDependencies,
    sent: _Sent,
    settle: Callable[[Transaction], Awaitable[Request]],
    *,
    retry_of: str | None = None,
) -> OperationView:
    """The operation that the call's key stands for; for a new call one for what is settled now. It is started."""
    use = sent.key_use
    async with parts.database.transaction() as tx:
        operation = None if use is None else await operations.operation_of_key(tx, use)
        if operation is None:
            request = await settle(tx)
            new = operations.NewOperation.of(request, sent.actor, use)
            new = new.model_copy(update={"retry_of": retry_of})
            operation = await _keep(tx, parts, new, request)
    return await start(parts, operation)


async def _keep(
    tx: Transaction, parts: ApiDependencies, new: operations.NewOperation, request: Request
) -> OperationView:
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
    if new.retry_of is not None:
        await retrying.check_timely(tx, new.retry_of)
    if upload is not None:
        await uploads.bind(tx, upload.session, new.id)
    if await admission.enter(tx, new.id, new.actor, Limits.of(parts.settings)):
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
