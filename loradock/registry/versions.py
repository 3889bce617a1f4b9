"""Versions: one number and one engine id per digest of an adapter, for ever."""

from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import undefer

from loradock.core.base_fit import with_base
from loradock.core.errors import LoradockError
from loradock.core.inspection import InspectionReport
from loradock.core.models import (
    AdapterTraits,
    Failure,
    Manifest,
    RunRef,
    VersionRef,
    VersionState,
)
from loradock.core.requests import ReservedVersion
from loradock.core.signatures import SignatureVerdict
from loradock.registry import adapter_rows, base_models, signatures, tombstones
from loradock.registry.database import Reader, Transaction
from loradock.registry.operations import about
from loradock.registry.pagination import DEFAULT_LIMIT, check_limit, decode_cursor, encode_cursor
from loradock.registry.runs import claim_active
from loradock.registry.tables import AdapterRow, EngineRow, Json, VersionRow
from loradock.registry.views import Page, VersionDetail, VersionView


async def reserve(
    tx: Transaction,
    run: RunRef,
    *,
    adapter: str,
    manifest: Manifest,
    traits: AdapterTraits,
    source_uri: str,
    base_model: str | None,
    labels: dict[str, str],
    actor: str,
    report: InspectionReport | None = None,
    signature: SignatureVerdict | None = None,
) -> ReservedVersion:
    """Bind the digest to a version number and an engine id, before its bytes are stored.

    The same digest is always the same version: a ready one is left as it is, one that failed is begun anew.

    Args:
        base_model: as given by the caller; the adapter keeps the one of its first version that became ready.
        report: what inspection found; it is compared here with what is known of the base model, and kept.
        signature: what the check of the signature found, kept by the rule of `signatures.keep`.

    Raises:
        LoradockError: `adapter_not_found`, `base_model_unknown`, `base_model_mismatch`, and those of `claim_active`.
    """
    operation = await claim_active(tx, run, forward=True)
    owner = await adapter_rows.lock(tx, adapter)
    await tombstones.lift(tx, manifest.digest)
    owner.base_model = await _base_model(tx, owner, base_model)
    checked = await _compared(tx, report, owner.base_model)
    known = select(VersionRow).filter_by(adapter=adapter, digest=manifest.digest)
    row: VersionRow | None = await tx.session.scalar(
        known.options(undefer(VersionRow.report)).with_for_update(key_share=True)
    )
    if row is None or row.state != VersionState.READY:
        facts = {
            **_facts(manifest, traits),
            "report": checked,
            "source_uri": source_uri,
            "labels": labels,
            "operation": run.operation,
            "created_by": actor,
            "created_at": await tx.now(),
        }
        row = _revive(row, facts) if row else await _insert(tx, adapter, manifest.digest, facts)
    elif row.report is None:
        row.report = checked  # it was published before there were reports
    operation.version = row.version
    signatures.keep(tx, row, operation, signature)
    await tx.session.flush()
    return ReservedVersion(ref=version_ref(row), already_published=row.state == VersionState.READY)


async def _base_model(tx: Transaction, adapter: AdapterRow, given: str | None) -> str:
    ready = select(VersionRow.version).filter_by(adapter=adapter.name, state=VersionState.READY).limit(1)
    bound = adapter.base_model is not None and await tx.session.scalar(ready) is not None
    if bound and given is not None and given != adapter.base_model:
        raise LoradockError(
            "base_model_mismatch",
            f"adapter {adapter.name} belongs to base model {adapter.base_model!r}, not {given!r}",
            base_model=adapter.base_model,
        )
    # Until a version is ready a wrong word is not kept for ever: the next publish may say better.
    known = adapter.base_model if bound else given or adapter.base_model
    if known is not None:
        return known
    served = select(EngineRow.base_model).where(EngineRow.base_model.is_not(None)).distinct().limit(2)
    candidates = (await tx.session.scalars(served)).all()
    if len(candidates) != 1 or candidates[0] is None:
        raise LoradockError(
            "base_model_unknown",
            "no engine has told its base model yet"
            if not candidates
            else "engines serve several base models",
        )
    return candidates[0]


async def _compared(tx: Transaction, report: InspectionReport | None, base_model: str) -> Json | None:
    """The report with its comparison with the base model, as it is kept.

    Raises:
        LoradockError: `base_model_mismatch`.
    """
    if report is None:
        return None
    base = await base_models.find(tx, base_model)
    measures, origin = (None, "") if base is None else (base.measures, str(base.origin))
    compared = with_base(report, measures, base_model=base_model, origin=origin)
    return compared.model_dump(mode="json")


async def _insert(tx: Transaction, adapter: str, digest: str, facts: dict[str, Any]) -> VersionRow:
    last = await tx.session.scalar(select(func.max(VersionRow.version)).filter_by(adapter=adapter)) or 0
    row = VersionRow(adapter=adapter, version=last + 1, digest=digest, state=VersionState.PUBLISHING, **facts)
    tx.session.add(row)
    await tx.session.flush()
    return row


def _revive(row: VersionRow, facts: dict[str, Any]) -> VersionRow:
    for name, value in facts.items():
        setattr(row, name, value)
    row.state = VersionState.PUBLISHING
    row.failure = row.retired_at = row.retired_by = None
    return row


def _facts(manifest: Manifest, traits: AdapterTraits) -> dict[str, Any]:
    return {
        "manifest": manifest.model_dump(mode="json"),
        "traits": traits.model_dump(mode="json"),
        "rank": traits.rank,
        "dtype": traits.dtype,
        "target_modules": list(traits.target_modules),
        "size": manifest.total_size,
    }


async def mark_ready(tx: Transaction, run: RunRef, ref: VersionRef, artifact_uri: str) -> None:
    """Note that all bytes of the version are stored. A version that is ready already stays as it is.

    Raises:
        LoradockError: `version_not_found`, and those of `claim_active`.
    """
    operation = await claim_active(tx, run, forward=True)
    row = await _lock(tx, ref)
    if row.state == VersionState.READY:
        return
    row.state = VersionState.READY
    row.artifact_uri = artifact_uri
    row.failure = None
    event = about(operation) | {"version": ref.version}
    tx.audit("version.published", **event, digest=ref.digest, source_uri=row.source_uri)


async def mark_reserved_failed(tx: Transaction, run: RunRef, adapter: str, failure: Failure) -> None:
    """Note why the publish of the version failed that this operation has reserved, if it got so far.

    A ready version is never touched, nor one of another operation.

    Raises:
        LoradockError: those of `claim_active`.
    """
    await claim_active(tx, run)
    reserved = update(VersionRow).where(
        VersionRow.adapter == adapter,
        VersionRow.operation == run.operation,
        VersionRow.state == VersionState.PUBLISHING,
    )
    await tx.session.execute(
        reserved.values(state=VersionState.FAILED, failure=failure.model_dump(mode="json"))
    )


async def _lock(tx: Transaction, ref: VersionRef) -> VersionRow:
    query = select(VersionRow).filter_by(adapter=ref.adapter, version=ref.version, digest=ref.digest)
    row: VersionRow | None = await tx.session.scalar(query.with_for_update(key_share=True))
    if row is None:
        raise not_found(ref.adapter, ref.version)
    return row


async def require(tx: Reader, adapter: str, version: int) -> VersionRow:
    """The version's row.

    Raises:
        LoradockError: `adapter_not_found`, `version_not_found`.
    """
    row: VersionRow | None = await tx.session.get(VersionRow, (adapter, version))
    if row is None:
        await adapter_rows.require(tx, adapter)
        raise not_found(adapter, version)
    return row


async def require_ready(tx: Reader, adapter: str, version: int) -> VersionRow:
    """The row of a version that may be used.

    Raises:
        LoradockError: `adapter_not_found`, `version_not_found`, `version_not_ready`.
    """
    row = await require(tx, adapter, version)
    if row.state != VersionState.READY:
        raise LoradockError("version_not_ready", f"{adapter}@{version} is {row.state}")
    return row


def not_found(adapter: str, version: int) -> LoradockError:
    """`version_not_found`."""
    return LoradockError("version_not_found", f"adapter {adapter} has no version {version}")


async def get_version(tx: Reader, adapter: str, version: int) -> VersionDetail:
    """A version.

    Raises:
        LoradockError: `adapter_not_found`, `version_not_found`.
    """
    row = await require(tx, adapter, version)
    found = await tx.session.scalar(select(VersionRow.report).filter_by(adapter=adapter, version=version))
    report = None if found is None else InspectionReport.model_validate(found)
    return VersionDetail(**_view(row).model_dump(), report=report)


async def list_versions(
    tx: Reader, adapter: str, *, limit: int = DEFAULT_LIMIT, cursor: str | None = None
) -> Page[VersionView]:
    """An adapter's versions, newest first.

    Raises:
        LoradockError: `adapter_not_found`, `invalid_request`.
    """
    await adapter_rows.require(tx, adapter)
    query = select(VersionRow).filter_by(adapter=adapter).order_by(VersionRow.version.desc())
    if cursor is not None:
        (last,) = decode_cursor(cursor, int)
        query = query.where(VersionRow.version < last)
    rows = (await tx.session.scalars(query.limit(check_limit(limit) + 1))).all()
    items = tuple(_view(row) for row in rows[:limit])
    return Page(items=items, next=encode_cursor(items[-1].version) if len(rows) > limit else None)


def version_ref(row: VersionRow) -> VersionRef:
    """What tells the version from any other."""
    return VersionRef(adapter=row.adapter, version=row.version, digest=row.digest, int_id=row.int_id)


def _view(row: VersionRow) -> VersionView:
    return VersionView(
        adapter=row.adapter,
        version=row.version,
        served_name=version_ref(row).served_name,
        digest=row.digest,
        int_id=row.int_id,
        state=VersionState(row.state),
        rank=row.rank,
        dtype=row.dtype,
        target_modules=tuple(row.target_modules),
        size=row.size,
        source_uri=row.source_uri,
        artifact_uri=row.artifact_uri,
        labels=row.labels,
        manifest=Manifest.model_validate(row.manifest),
        traits=AdapterTraits.model_validate(row.traits),
        failure=None if row.failure is None else Failure.model_validate(row.failure),
        operation=row.operation,
        created_at=row.created_at,
        created_by=row.created_by,
        retired_at=row.retired_at,
        retired_by=row.retired_by,
        signature=signatures.record_of(row),
    )
