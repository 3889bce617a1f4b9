"""What names a version: as long as anything does, neither the version nor its bytes may go."""

from sqlalchemy import ColumnElement, and_, exists, or_, select

from loradock.core.errors import LoradockError
from loradock.core.models import ACTIVE_STATES
from loradock.registry.database import Transaction
from loradock.registry.tables import (
    AliasRow,
    CardRow,
    DeploymentVersionRow,
    OperationRow,
    VersionRow,
)


def is_named() -> ColumnElement[bool]:
    """SQL, of a `VersionRow`: an alias, a card, a deployment or an active operation names the version."""
    return or_(*(exists().where(where) for _, where in _namers()))


def _namers() -> list[tuple[str, ColumnElement[bool]]]:
    pairs = [
        (name, and_(row.adapter == VersionRow.adapter, row.version == VersionRow.version))
        for name, row in (
            ("an alias", AliasRow),
            ("an engine's card", CardRow),
            ("a deployment", DeploymentVersionRow),
            ("an active operation", OperationRow),
        )
    ]
    name, operation = pairs.pop()
    return [*pairs, (name, and_(operation, OperationRow.state.in_(ACTIVE_STATES)))]


async def check_unnamed(tx: Transaction, adapter: str, version: int) -> None:
    """See that nothing names the version.

    Raises:
        LoradockError: `version_in_use`, saying what does.
    """
    for name, where in _namers():
        query = select(exists().where(where, VersionRow.adapter == adapter, VersionRow.version == version))
        if await tx.session.scalar(query):
            raise LoradockError("version_in_use", f"{name} names {adapter}@{version}")
