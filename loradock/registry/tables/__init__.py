"""The tables. What a constraint can keep true, a constraint keeps true."""

from loradock.registry.tables.adapters import (
    INT_IDS,
    AdapterRow,
    AliasRow,
    ArtifactTombstoneRow,
    BaseModelRow,
    VersionRow,
)
from loradock.registry.tables.audit import AuditEventRow
from loradock.registry.tables.base import Base, Json
from loradock.registry.tables.deployments import CardRow, DeploymentRow, DeploymentVersionRow
from loradock.registry.tables.fleet import AgentRow, EngineRow, LeaseKeepingRow
from loradock.registry.tables.operations import (
    ACTIVE,
    FENCING_EPOCHS,
    QUEUED,
    IdempotencyKeyRow,
    OperationRow,
    OperationStepRow,
    OperationTargetRow,
)
from loradock.registry.tables.reconciliation import DriftRow, PastReconciliationsRow, ReconciliationRow
from loradock.registry.tables.uploads import UploadRow

__all__ = [
    "ACTIVE",
    "FENCING_EPOCHS",
    "INT_IDS",
    "QUEUED",
    "AdapterRow",
    "AgentRow",
    "AliasRow",
    "ArtifactTombstoneRow",
    "AuditEventRow",
    "Base",
    "BaseModelRow",
    "CardRow",
    "DeploymentRow",
    "DeploymentVersionRow",
    "DriftRow",
    "EngineRow",
    "IdempotencyKeyRow",
    "Json",
    "LeaseKeepingRow",
    "OperationRow",
    "OperationStepRow",
    "OperationTargetRow",
    "PastReconciliationsRow",
    "ReconciliationRow",
    "UploadRow",
    "VersionRow",
]
