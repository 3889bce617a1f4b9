"""ScanFleet: the reconciler's backstop, over all engines. Started by a schedule."""

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from activities.interface.reconcile import SCAN_FLEET, ScanInput
    from loradock.core.models import Model
    from workflows.calls import REGISTRY, call


class ScanResult(Model):
    """What a scan found: how many engines it compared, and how many of them differ."""

    engines: int
    differing: int


@workflow.defn(name="ScanFleet")
class ScanFleet:
    """Compare the engines, part after part, by what is reported of them; those that differ come into the queue."""

    @workflow.run
    async def run(self) -> ScanResult:
        """Scan once."""
        engines = differing = 0
        given = ScanInput()
        while True:
            found = await call(SCAN_FLEET, given, REGISTRY, summary=f"from {given.after or 'the first'} on")
            engines, differing = engines + found.engines, differing + len(found.differing)
            if found.next is None:
                return ScanResult(engines=engines, differing=differing)
            given = ScanInput(after=found.next)
