"""Where a load goes: which engines may take the version, and which of them are to."""

import json
from collections.abc import Sequence

from sqlalchemy import select

from loradock.core.base_config import BaseConfig
from loradock.core.base_fit import check_fit
from loradock.core.batches import MAX_ENGINES
from loradock.core.errors import LoradockError
from loradock.core.inspection import BaseOrigin, InspectionReport
from loradock.core.models import RunRef
from loradock.core.requests import LoadPlan, LoadRequest
from loradock.registry import adapter_rows
from loradock.registry.candidates import Candidate, survey
from loradock.registry.database import Reader, Transaction
from loradock.registry.decision import Decision, hindrance, pick
from loradock.registry.runs import claim_active
from loradock.registry.tables import VersionRow
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
            `engine_not_found`, `engine_lost`, `no_engine_alive`, `no_engine_matches`, `base_model_mismatch`,
            `rank_too_high`, `no_free_slot`, `not_enough_engines`, `too_many_engines`, `plan_outdated`, and those of
            `check_fit`.
    """
    decision = await decide(tx, request)
    decision.check()
    plan = decision.load_plan()
    if len(plan.targets) > MAX_ENGINES:
        raise LoradockError(
            "too_many_engines",
            f"{len(plan.targets)} engines of pool {request.pool} would be loaded; one load takes up to {MAX_ENGINES}",
        )
    return plan


async def decide(tx: Reader, request: LoadRequest) -> Decision:
    """Decide where the load goes; the decision tells why it cannot be begun, if it cannot.

    Raises:
        LoradockError: `adapter_not_found`, `version_not_found`, `version_not_ready`, `pool_not_found`,
            `engine_not_found`.
    """
    version = await require_ready(tx, request.adapter, request.version)
    base_model = (await adapter_rows.require(tx, request.adapter)).base_model
    candidates = await survey(tx, request, version)
    hindrances = await _misfits(tx, version, [one for one in candidates if one.alive])
    for one in candidates:
        if (error := hindrance(version, base_model, one)) is not None:
            hindrances[one.row.id] = error
    return Decision(
        request=request,
        version=version,
        ref=version_ref(version),
        base_model=base_model or "",
        candidates=candidates,
        hindrances=hindrances,
        chosen=pick(request, candidates, hindrances),
    )


async def _misfits(
    tx: Reader, version: VersionRow, candidates: Sequence[Candidate]
) -> dict[str, LoradockError]:
    """Engines whose base the weights do not fit, by what each tells of its own: a name alone may stand for another model.

    A version that was found to fit a config registered by hand is left to that: a person knows better than an engine.
    """
    told = {one.row.id: one.row.base_config for one in candidates if one.row.base_config is not None}
    key = {"adapter": version.adapter, "version": version.version}
    found = await tx.session.scalar(select(VersionRow.report).filter_by(**key)) if told else None
    if found is None:
        return {}
    report = InspectionReport.model_validate(found)
    if report.base.checked and report.base.origin == BaseOrigin.REGISTERED:
        return {}
    errors: dict[str, LoradockError | None] = {}
    misfits = {}
    for engine, measures in told.items():
        same = json.dumps(measures, sort_keys=True)  # engines of one pool tell the same: it is looked at once
        if same not in errors:
            errors[same] = _misfit(report, BaseConfig.model_validate(measures))
        if (error := errors[same]) is not None:
            misfits[engine] = LoradockError(
                error.code, f"engine {engine}: {error.message}", engine=engine, **error.details
            )
    return misfits


def _misfit(report: InspectionReport, measures: BaseConfig) -> LoradockError | None:
    try:
        check_fit(report.modules, measures)
    except LoradockError as error:
        return error
    return None
