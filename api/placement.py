"""Settling what a load or unload left open: which version an alias means, and which pool is meant."""

from loradock.core.errors import LoradockError
from loradock.core.settings import Settings
from loradock.registry import adapter_rows, aliases, deployments, engines
from loradock.registry.database import Reader


async def resolve_version(tx: Reader, adapter: str, version: int | str) -> int:
    """The number of a version that is given by number or alias. A number's existence is checked later.

    Raises:
        LoradockError: `adapter_not_found`, `alias_not_found`.
    """
    if isinstance(version, int):
        return version
    return (await aliases.get_alias(tx, adapter, version)).version


async def choose_load_pool(tx: Reader, adapter: str, given: str | None, settings: Settings) -> str:
    """The pool of a load: the given one, else the only one that serves the adapter's base model, else the setting's.

    Raises:
        LoradockError: `adapter_not_found`, `pool_ambiguous` (details: `pools`).
    """
    base_model = (await adapter_rows.require(tx, adapter)).base_model
    if given is not None:
        return given
    pools = [] if base_model is None else await engines.pools_of_base_model(tx, base_model)
    return _only(pools, f"base model {base_model}") or settings.pool


async def choose_unload_pool(tx: Reader, adapter: str, given: str | None, settings: Settings) -> str:
    """The pool of an unload: the given one, else the only one with versions of the adapter, else as for a load.

    Raises:
        LoradockError: `adapter_not_found`, `pool_ambiguous` (details: `pools`).
    """
    if given is None:
        deployed = await deployments.of_adapter(tx, adapter)
        found = _only([item.pool for item in deployed if item.versions], f"adapter {adapter}")
        if found is not None:
            return found
    return await choose_load_pool(tx, adapter, given, settings)


def _only(pools: list[str], what: str) -> str | None:
    if len(pools) > 1:
        raise LoradockError(
            "pool_ambiguous", f"{what} is served by the pools {', '.join(pools)[:500]}", pools=pools
        )
    return pools[0] if pools else None
