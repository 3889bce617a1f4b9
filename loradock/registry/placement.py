"""Where a load goes: which engines may take the version."""

from collections.abc import Sequence

from sqlalchemy import select

from loradock.core.base_config import BaseConfig
from loradock.core.base_fit import check_fit
from loradock.core.batches import MAX_ENGINES
from loradock.core.errors import LoradockError
from loradock.core.inspection import BaseOrigin, InspectionReport
from loradock.core.models import RunRef
from loradock.core.requests import EngineTarget, LoadPlan, LoadPolicy, LoadRequest
from loradock.registry import adapter_rows, engines
from loradock.registry.database import Reader, Transaction
from loradock.registry.runs import claim_active
from loradock.registry.tables import EngineRow, VersionRow
from loradock.registry.versions import require_ready, version_ref


async def plan_load(tx: Transaction, run: RunRef, request: LoadRequest) -> LoadPlan:
    """Choose the engines.

    Raises:
        LoradockError: as `check_load` and `claim_active`.
    """
    await claim_active(tx, run, forward=True)
    return await check_load(tx, request)


async def check_load(tx: Reader, request: LoadRequest) -> LoadPlan:
    """See that the request can be met now, and by which engines.

    Raises:
        LoradockError: `adapter_not_found`, `version_not_found`, `version_not_ready`, `pool_not_found`,
            `engine_not_found`, `engine_lost`, `no_engine_alive`, `base_model_mismatch`, `rank_too_high`,
            `not_enough_engines`, `too_many_engines`.
    """
    version = await require_ready(tx, request.adapter, request.version)
    candidates = await _candidates(tx, request)
    base_model = await _check_base_model(tx, request, candidates)
    await _check_measures(tx, version, candidates)
    fitting = _fitting(version, candidates, request.policy)
    if request.policy is LoadPolicy.BEST_EFFORT and len(fitting) < request.min_ready:
        raise LoradockError(
            "not_enough_engines",
            f"{request.min_ready} engines are asked for, {len(fitting)} can take the version",
        )
    if len(fitting) > MAX_ENGINES:
        raise LoradockError(
            "too_many_engines",
            f"{len(fitting)} engines of pool {request.pool} would be loaded; one load takes up to {MAX_ENGINES}",
        )
    return LoadPlan(
        ref=version_ref(version),
        pool=request.pool,
        base_model=base_model,
        targets=tuple(
            EngineTarget(engine=row.id, agent=row.agent, incarnation=row.incarnation or "") for row in fitting
        ),
    )


async def _candidates(tx: Reader, request: LoadRequest) -> list[EngineRow]:
    """The engines of the pool, or those named, that are alive, by id."""
    query = select(EngineRow, engines.is_alive()).where(EngineRow.pool == request.pool).order_by(EngineRow.id)
    found = {row.id: (row, alive) for row, alive in await tx.session.execute(query)}
    if not found:
        raise engines.pool_not_found(request.pool)
    for name in request.engines or ():
        if name not in found:
            raise LoradockError("engine_not_found", f"pool {request.pool} has no engine {name}", engine=name)
        if not found[name][1]:
            raise engines.lost(found[name][0])
    named = set(request.engines or found)
    candidates = [row for name, (row, alive) in found.items() if alive and name in named]
    if not candidates:
        raise LoradockError("no_engine_alive", f"no engine of pool {request.pool} is alive")
    return candidates


async def _check_base_model(tx: Reader, request: LoadRequest, candidates: Sequence[EngineRow]) -> str:
    adapter = await adapter_rows.require(tx, request.adapter)
    for row in candidates:
        if row.base_model != adapter.base_model:
            raise LoradockError(
                "base_model_mismatch",
                f"adapter {adapter.name} is for {adapter.base_model!r}, engine {row.id} serves {row.base_model!r}",
                engine=row.id,
            )
    return adapter.base_model or ""


async def _check_measures(tx: Reader, version: VersionRow, candidates: Sequence[EngineRow]) -> None:
    """Compare the version with what each engine tells of its own base: a name alone may stand for another model.

    A version that was found to fit a config registered by hand is left to that: a person knows better than an engine.
    """
    told = {row.id: row.base_config for row in candidates if row.base_config is not None}
    key = {"adapter": version.adapter, "version": version.version}
    found = await tx.session.scalar(select(VersionRow.report).filter_by(**key)) if told else None
    if found is None:
        return
    report = InspectionReport.model_validate(found)
    if report.base.checked and report.base.origin == BaseOrigin.REGISTERED:
        return
    for engine, measures in told.items():
        try:
            check_fit(report.modules, BaseConfig.model_validate(measures))
        except LoradockError as error:
            raise LoradockError(
                error.code, f"engine {engine}: {error.message}", engine=engine, **error.details
            ) from None


def _fitting(version: VersionRow, candidates: Sequence[EngineRow], policy: LoadPolicy) -> list[EngineRow]:
    fitting = [row for row in candidates if row.max_lora_rank >= version.rank]
    if not fitting or (policy is LoadPolicy.ALL and len(fitting) < len(candidates)):
        row = next(row for row in candidates if row.max_lora_rank < version.rank)
        raise LoradockError(
            "rank_too_high",
            f"rank {version.rank} is above engine {row.id}'s highest, {row.max_lora_rank}",
            engine=row.id,
            rank=version.rank,
            max_lora_rank=row.max_lora_rank,
        )
    return fitting
