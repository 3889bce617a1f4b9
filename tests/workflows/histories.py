"""Saves a history of each workflow, for the replay tests:

    python -m tests.workflows.histories HOST:PORT [reconcile|collect|long]

`long` needs a server that finds a history long early: `--dynamic-config-value limit.historyCount.suggestContinueAsNew=30`.
Run it against a dev server after a workflow's commands have changed on purpose, and say so in the commit. Histories of
versions that may still be running are kept beside the new ones.
"""

import asyncio
import json
import sys
import uuid
from pathlib import Path
from typing import Any

from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.contrib.pydantic import pydantic_data_converter

from loradock.core.ids import LIFECYCLE_QUEUE
from loradock.core.models import OperationKind
from tests.workflows.conftest import Bench
from tests.workflows.world import DIGEST, World
from worker import search_attributes
from workflows.collect_garbage import CollectInput
from workflows.inputs import RecoverInput

FOLDER = Path(__file__).parent / "histories"

KINDS = (OperationKind.PUBLISH, OperationKind.LOAD, OperationKind.UNLOAD)


async def save(client: Client) -> list[str]:
    """Run each story well, failing, and cancelled, and save the histories of all its workflows."""
    await search_attributes.register(client)
    bench = Bench(client)
    FOLDER.mkdir(exist_ok=True)
    saved: list[str] = []
    for kind in KINDS:
        for ending in ("succeeds", "fails", "is-cancelled"):
            world = World()
            if kind is OperationKind.UNLOAD:
                world.serve()
            saved += await _run(bench, world, kind, ending)
    saved += await _run(
        bench, World(), OperationKind.PUBLISH, "succeeds-upload", uri=f"upload://up-{'0' * 32}"
    )
    saved += [*await _recover(bench), *await save_collections(bench)]
    return [*saved, *await save_reconciliations(bench), *await save_wide(bench)]


async def save_wide(bench: Bench) -> list[str]:
    """Operations in batches: two of three engines each."""
    saved: list[str] = []
    for kind in (OperationKind.LOAD, OperationKind.UNLOAD):
        for ending in ("succeeds", "fails", "is-cancelled"):
            world = World(tuple(f"engine-{number}" for number in range(1, 7)), batch_size=3, agents=2)
            if kind is OperationKind.UNLOAD:
                world.serve()
            saved += await _run(bench, world, kind, ending, prefix="wide-")
    return [*saved, *await _recover(bench, wide=True)]


async def save_reconciliations(bench: Bench) -> list[str]:
    """ReconcileEngine with one adapter missing and one left over, well, failing, and cancelled; and ScanFleet."""
    saved = []
    for ending in ("succeeds", "fails", "is-cancelled"):
        world = World()
        world.state.engines["engine-1"]["leftover@1"] = "op-earlier"
        there = world.hang("load_adapter", times=1) if ending == "is-cancelled" else None
        if ending == "fails":
            world.fail("load_adapter", code="engine_error")
        async with bench.workers(world):
            handle = await bench.reconcile("engine-1")
            if there is not None:
                await there.wait()
                await handle.cancel()
            try:
                await handle.result()
            except WorkflowFailureError as error:
                assert ending == "is-cancelled", error
        saved.append(await _save(bench.client, handle.id, f"reconcile-{ending}"))
    async with bench.workers(World()):
        handle = await bench.client.start_workflow(
            "ScanFleet", id=f"scan-{uuid.uuid4().hex}", task_queue=LIFECYCLE_QUEUE
        )
        await handle.result()
    return [*saved, await _save(bench.client, handle.id, "scan-fleet")]


async def save_long(bench: Bench) -> list[str]:
    """ReconcileEngine with a repair that lasts while causes come, until its history is long."""
    world = World()
    there = world.hang("download_adapter", times=1)
    async with bench.workers(world):
        handle = await bench.reconcile("engine-1")
        await there.wait()
        for _ in range(4):
            await handle.signal("look_again")
            await waits_for_its_repair(handle)
        world.released.set()
        await handle.result()
    return [await _save(bench.client, handle.id, "reconcile-long")]


async def waits_for_its_repair(handle: WorkflowHandle[Any, Any]) -> None:
    """Return when the workflow waits for nothing but one activity."""
    async with asyncio.timeout(30):
        while True:
            found = (await handle.describe()).raw_description
            if len(found.pending_activities) == 1 and not found.HasField("pending_workflow_task"):
                return
            await asyncio.sleep(0.02)


async def save_collections(bench: Bench) -> list[str]:
    """CollectGarbage, and one that cannot see to everything."""
    saved = []
    for ending in ("succeeds", "fails"):
        world = World()
        world.state.stored.add(DIGEST)
        if ending == "fails":
            world.fail("collect_cache", engine="engine-2", code="disk_error")
            world.fail("delete_artifact", code="store_denied")
        async with bench.workers(world):
            handle = await bench.client.start_workflow(
                "CollectGarbage",
                CollectInput(),
                id=f"collect-{uuid.uuid4().hex}",
                task_queue=LIFECYCLE_QUEUE,
            )
            await handle.result()
        saved.append(await _save(bench.client, handle.id, f"collect-{ending}"))
    return saved


async def _recover(bench: Bench, *, wide: bool = False) -> list[str]:
    world = World(("engine-1", "engine-2", "engine-3"), batch_size=2) if wide else World()
    operation = f"op-{uuid.uuid4().hex}"
    async with bench.workers(world):
        handle = await bench.client.start_workflow(
            "RecoverOperation",
            RecoverInput(operation=operation, actor="tester"),
            id=f"op/{operation}/recover",
            task_queue=LIFECYCLE_QUEUE,
        )
        await handle.result()
    return [await _save(bench.client, handle.id, "wide-recover-load" if wide else "recover-load")]


async def _run(
    bench: Bench, world: World, kind: OperationKind, ending: str, *, prefix: str = "", **changes: str
) -> list[str]:
    step = {"publish": "upload_artifact", "load": "load_adapter", "unload": "unload_adapter"}[kind]
    engine = None if kind is OperationKind.PUBLISH else "engine-2"
    there = None
    if ending == "fails":
        world.fail(step, engine=engine, code="engine_error")
    if ending == "is-cancelled":
        there = world.hang(step, engine=engine, times=1)
    async with bench.workers(world):
        handle = await bench.start(kind, **changes)
        if there is not None:
            await there.wait()
            await handle.cancel()
        try:
            await handle.result()
        except WorkflowFailureError as error:
            assert not ending.startswith("succeeds"), error
    return [await _save(bench.client, handle.id, f"{prefix}{kind}-{ending}")] + [
        await _save(bench.client, child, f"{prefix}{kind}-{ending}-{number}")
        for number, child in enumerate(await _children(bench.client, handle.id), start=1)
    ]


async def _children(client: Client, parent: str) -> list[str]:
    history = await client.get_workflow_handle(parent).fetch_history()
    started = [event.child_workflow_execution_started_event_attributes for event in history.events]
    return [one.workflow_execution.workflow_id for one in started if one.workflow_execution.workflow_id]


async def _save(client: Client, workflow: str, name: str) -> str:
    history = await client.get_workflow_handle(workflow).fetch_history()
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(_scrub(json.loads(history.to_json())), indent=1) + "\n")
    return path.name


def _scrub(node: Any) -> Any:
    """Without what tells of the machine: process identities and stack traces."""
    if isinstance(node, dict):
        return {key: _scrub(value) for key, value in node.items() if key not in {"identity", "stackTrace"}}
    return [_scrub(one) for one in node] if isinstance(node, list) else node


async def main() -> None:
    client = await Client.connect(
        sys.argv[1], data_converter=pydantic_data_converter, identity="loradock-tests"
    )
    parts = {"reconcile": save_reconciliations, "collect": save_collections, "long": save_long}
    names = await parts[sys.argv[2]](Bench(client)) if sys.argv[2:] else await save(client)
    for name in names:
        print(name)


if __name__ == "__main__":
    asyncio.run(main())
