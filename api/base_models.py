"""Which base model a publish is for: what can be told before anything is read. The registry decides in the end."""

from loradock.core.errors import LoradockError
from loradock.core.requests import PublishRequest
from loradock.registry import adapter_rows, adapters, engines
from loradock.registry.database import Reader


async def check_publish(tx: Reader, request: PublishRequest) -> None:
    """See that the base model is known and is the adapter's own.

    Raises:
        LoradockError: `base_model_mismatch`, `base_model_unknown`.
    """
    known = (await adapter_rows.require(tx, request.adapter)).base_model
    if request.base_model is None:
        if known is None and len(served := await _served(tx)) != 1:
            reason = (
                "engines serve several base models" if served else "no engine has told its base model yet"
            )
            raise LoradockError("base_model_unknown", reason)
    elif known not in (None, request.base_model) and await _has_ready_version(tx, request.adapter):
        raise LoradockError(
            "base_model_mismatch",
            f"adapter {request.adapter} belongs to base model {known!r}",
            base_model=known,
        )


async def _has_ready_version(tx: Reader, adapter: str) -> bool:
    """Until a version is ready, a wrong base model may still be put right."""
    return (await adapters.get_adapter(tx, adapter)).latest_version is not None


async def _served(tx: Reader) -> set[str]:
    """Base models of all engines; two are enough to know."""
    found: set[str] = set()
    cursor = None
    while len(found) < 2:
        page = await engines.list_engines(tx, limit=500, cursor=cursor)
        found.update(engine.base_model for engine in page.items if engine.base_model is not None)
        cursor = page.next
        if cursor is None:
            break
    return found
