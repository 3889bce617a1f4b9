"""The search attributes of every workflow, in one list. They are plain text in Temporal: never a secret."""

from typing import Final

from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes

OPERATION: Final = SearchAttributeKey.for_keyword("LoradockOperation")
KIND: Final = SearchAttributeKey.for_keyword("LoradockKind")
ADAPTER: Final = SearchAttributeKey.for_keyword("LoradockAdapter")
VERSION: Final = SearchAttributeKey.for_int("LoradockVersion")
POOL: Final = SearchAttributeKey.for_keyword("LoradockPool")
ENGINE: Final = SearchAttributeKey.for_keyword("LoradockEngine")
PHASE: Final = SearchAttributeKey.for_keyword("LoradockPhase")
ACTOR: Final = SearchAttributeKey.for_keyword("LoradockActor")

ALL: Final = (OPERATION, KIND, ADAPTER, VERSION, POOL, ENGINE, PHASE, ACTOR)


def typed(
    *,
    kind: str,
    actor: str,
    operation: str | None = None,
    adapter: str | None = None,
    version: int | None = None,
    pool: str | None = None,
    engine: str | None = None,
) -> TypedSearchAttributes:
    """The attributes that a workflow starts with; those that are None are left out."""
    pairs: list[SearchAttributePair[str] | SearchAttributePair[int]] = [
        SearchAttributePair(KIND, kind),
        SearchAttributePair(ACTOR, actor),
        SearchAttributePair(PHASE, "starting"),
    ]
    if operation is not None:
        pairs.append(SearchAttributePair(OPERATION, operation))
    if adapter is not None:
        pairs.append(SearchAttributePair(ADAPTER, adapter))
    if version is not None:
        pairs.append(SearchAttributePair(VERSION, version))
    if pool is not None:
        pairs.append(SearchAttributePair(POOL, pool))
    if engine is not None:
        pairs.append(SearchAttributePair(ENGINE, engine))
    return TypedSearchAttributes(pairs)
