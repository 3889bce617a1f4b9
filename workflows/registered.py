"""All workflows, as a worker registers them and a replay needs them."""

from typing import Final

from workflows.collect_garbage import CollectGarbage
from workflows.load_adapter import LoadAdapter
from workflows.load_on_engine import LoadOnEngine
from workflows.load_on_engines import LoadOnEngines
from workflows.publish_version import PublishVersion
from workflows.reconcile_engine import ReconcileEngine
from workflows.recover_operation import RecoverOperation
from workflows.scan_fleet import ScanFleet
from workflows.unload_adapter import UnloadAdapter
from workflows.unload_from_engine import UnloadFromEngine
from workflows.unload_from_engines import UnloadFromEngines

WORKFLOWS: Final = (
    PublishVersion,
    LoadAdapter,
    LoadOnEngine,
    LoadOnEngines,
    UnloadAdapter,
    UnloadFromEngine,
    UnloadFromEngines,
    RecoverOperation,
    CollectGarbage,
    ReconcileEngine,
    ScanFleet,
)
