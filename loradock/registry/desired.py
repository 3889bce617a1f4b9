"""What is wanted on an engine: the one place that says so."""

from collections.abc import Collection

from sqlalchemy import any_, or_, select

from loradock.core.models import Model, VersionRef, VersionState
from loradock.core.signatures import SignatureRecord
from loradock.registry.database import Reader
from loradock.registry.signatures import record_of
from loradock.registry.tables import AdapterRow, DeploymentVersionRow, EngineRow, VersionRow
from loradock.registry.versions import version_ref


class WantedVersion(Model):
    """A version that an engine is to serve.

    Attributes:
        ready: whether it can be loaded: published, and not deleted since.
        signature: what is known of its signature.
    """

    ref: VersionRef
    rank: int
    ready: bool
    signature: SignatureRecord | None = None


async def wanted_on(tx: Reader, engines: Collection[str]) -> dict[str, list[WantedVersion]]:
    """What deployments want on each of these engines, what takes most traffic first.

    A deployment that names no engines means every engine of its pool, of the adapter's base model.
    """
    wanted, version = DeploymentVersionRow, VersionRow
    query = (
        select(EngineRow.id, version)
        .join(wanted, wanted.pool == EngineRow.pool)
        .join(version, (version.adapter == wanted.adapter) & (version.version == wanted.version))
        .join(AdapterRow, AdapterRow.name == wanted.adapter)
        .where(EngineRow.id.in_(engines), AdapterRow.base_model == EngineRow.base_model)
        .where(or_(wanted.engines.is_(None), EngineRow.id == any_(wanted.engines)))
        .order_by(EngineRow.id, wanted.weight.desc(), wanted.adapter, wanted.version)
    )
    found: dict[str, list[WantedVersion]] = {engine: [] for engine in engines}
    for engine, row in await tx.session.execute(query):
        ready = row.state == VersionState.READY
        known = record_of(row)
        wanted_here = WantedVersion(ref=version_ref(row), rank=row.rank, ready=ready, signature=known)
        found[engine].append(wanted_here)
    return found
