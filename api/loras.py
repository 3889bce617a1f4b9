"""The seed system's `/v1/loras` on our operations: a name is published, loaded and, when it was served before, replaced.

A POST is a publish that is followed by a load which takes all the traffic, which is followed by the unload of what it
replaced. Each is an operation of its own, kept in the transaction that ends the one before: whoever gives up waiting, the
chain goes on. The same POST again waits for it, and then has the source read once more: it may hold other bytes by now.
"""

import asyncio
from typing import Final

from blake3 import blake3

from api.dependencies import ApiDependencies
from api.schemas import DEFAULT_DRAIN_SECONDS, LoraBody, LoraChanged, Loras, PublishBody, Source, UnloadBody
from api.starting import start
from api.submission import submit_publish, submit_unload
from api.waiting import read_operation, wait_for_end
from loradock.core.errors import LoradockError
from loradock.core.models import CardState, Failure, OperationState
from loradock.core.requests import OperationResult, ThenLoad
from loradock.registry import adapter_rows, cards, deployments
from loradock.registry.views import OperationView

ANSWER_SECONDS: Final = 280.0
"""How long a call waits for the end; after that the same call again goes on waiting."""


def lora_id(name: str) -> int:
    """The number that the seed system gives a name: 31 bits of the first 8 bytes of its BLAKE3, never 0."""
    return int.from_bytes(blake3(name.encode()).digest()[:8], "big") & 0x7FFFFFFF or 1


async def serve(parts: ApiDependencies, actor: str, body: LoraBody) -> LoraChanged:
    """Have the source's weights served under the name, and come back when they are.

    Raises:
        LoradockError: everything that a publish or load can be refused with or fail with; `not_ready` when it has not
            ended in time.
    """
    clock = asyncio.get_running_loop()
    deadline = clock.time() + ANSWER_SECONDS
    published = await _publish(parts, actor, body, deadline)
    published = await _succeeded(parts, published, deadline - clock.time())
    following = await _following(parts, published)
    loaded = await _succeeded(parts, following, deadline - clock.time())
    if (replaced := _result(loaded).next) is not None:
        await start(parts, await read_operation(parts, replaced))
    how = "already loaded" if await _served_before(parts, loaded, published) else "loaded successfully"
    return _changed(body.lora_name, how)


async def remove(parts: ApiDependencies, actor: str, name: str) -> LoraChanged:
    """Unload every version of the name from every pool, and come back when all are gone.

    Requests that outlast the drain are cut: the seed's clients know no way to ask again.

    Raises:
        LoradockError: `adapter_not_found`, `version_not_loaded`, and what an unload can be refused with or fail with;
            `not_ready` when it has not ended in time.
    """
    async with parts.database.read() as reader:
        await adapter_rows.require(reader, name)
        found = await deployments.of_adapter(reader, name)
    pools = [deployment.pool for deployment in found if deployment.versions]
    if not pools:
        raise LoradockError("version_not_loaded", f"LoRA adapter '{name}' is not loaded")
    begun = [
        await submit_unload(
            parts, actor, None, name, UnloadBody(pool=pool, drain=DEFAULT_DRAIN_SECONDS, force=True)
        )
        for pool in pools
    ]
    for operation in begun:
        await _succeeded(parts, operation, ANSWER_SECONDS)
    return _changed(name, "unloaded successfully")


async def listing(parts: ApiDependencies, agent: str | None = None) -> Loras:
    """The names that are served now, everywhere or by one agent's engines."""
    async with parts.database.read() as reader:
        names = await cards.served_adapters(reader, agent=agent)
    return Loras(loras={name: lora_id(name) for name in names}, count=len(names))


async def _publish(parts: ApiDependencies, actor: str, body: LoraBody, deadline: float) -> OperationView:
    """A publish that reads the source as it is now, or later.

    One of the same source that has begun may have read other bytes: it is waited for, and followed by one of our own, or
    by one that another caller who waited has asked for.
    """
    publish = PublishBody(source=Source(uri=body.source.uri), base_model=body.base_model)
    then = ThenLoad(pool=body.pool, replace=True)
    while True:
        try:
            return await submit_publish(parts, actor, None, body.lora_name, publish, then=then)
        except LoradockError as error:
            if error.code != "adapter_busy":
                raise
            in_the_way = await read_operation(parts, error.details["operation"])
            if in_the_way.request.get("uri") != publish.source.uri:
                raise
        await _ended(parts, in_the_way, deadline - asyncio.get_running_loop().time())


async def _succeeded(parts: ApiDependencies, operation: OperationView, seconds: float) -> OperationView:
    ended = await _ended(parts, operation, seconds)
    if ended.state is not OperationState.SUCCEEDED:
        raise _as_error(ended.error, f"operation {ended.id} ended as {ended.state}", ended.id)
    return ended


async def _ended(parts: ApiDependencies, operation: OperationView, seconds: float) -> OperationView:
    ended = await wait_for_end(parts, operation, seconds)
    if ended.state.active:
        raise LoradockError(
            "not_ready",
            f"operation {ended.id} is still {ended.state}; send the same call again to go on waiting",
            operation=ended.id,
        )
    return ended


async def _following(parts: ApiDependencies, published: OperationView) -> OperationView:
    result = _result(published)
    if result.next is None:
        raise _as_error(result.next_failed, "the load was not begun", published.id)
    return await start(parts, await read_operation(parts, result.next))


def _result(operation: OperationView) -> OperationResult:
    return OperationResult.model_validate(operation.result or {})


def _as_error(failure: Failure | None, otherwise: str, operation: str) -> LoradockError:
    if failure is None:
        return LoradockError("operation_cancelled", otherwise, operation=operation)
    return LoradockError(failure.code, failure.message, **{**failure.details, "operation": operation})


async def _served_before(parts: ApiDependencies, loaded: OperationView, published: OperationView) -> bool:
    """Whether every card of the version stood before the call."""
    async with parts.database.read() as reader:
        page = await cards.list_cards(reader, adapter=loaded.adapter, pool=loaded.pool, limit=500)
    mine = [card for card in page.items if card.version == loaded.version and card.state is CardState.SERVING]
    return bool(mine) and all(card.since < published.created_at for card in mine)


def _changed(name: str, how: str) -> LoraChanged:
    return LoraChanged(message=f"LoRA adapter '{name}' {how}", lora_name=name, lora_id=lora_id(name))
