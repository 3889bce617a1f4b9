"""Runs that are under way survive a new version of the code: every saved history replays, and a change is noticed."""

from pathlib import Path

import pytest
from temporalio import workflow
from temporalio.client import WorkflowHistory
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Replayer

from worker.temporal import workflow_runner
from workflows.inputs import PublishInput
from workflows.registered import WORKFLOWS

HISTORIES = sorted((Path(__file__).parent / "histories").glob("*.json"))


def replayer(workflows: list[type]) -> Replayer:
    return Replayer(
        workflows=workflows, data_converter=pydantic_data_converter, workflow_runner=workflow_runner()
    )


def test_every_workflow_and_ending_has_a_saved_history() -> None:
    names = {path.stem for path in HISTORIES}
    wanted = {
        f"{kind}-{ending}"
        for kind in ("publish", "load", "unload", "wide-load", "wide-unload")
        for ending in ("succeeds", "fails", "is-cancelled")
    }
    wanted |= {f"reconcile-{ending}" for ending in ("succeeds", "fails", "is-cancelled", "long")}
    wanted |= {"publish-succeeds-upload", "recover-load", "collect-succeeds", "collect-fails", "scan-fleet"}
    assert wanted | {"wide-recover-load"} <= names


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
async def test_a_saved_history_replays(path: Path) -> None:
    history = WorkflowHistory.from_json(f"replay-{path.stem}", path.read_text())
    await replayer(list(WORKFLOWS)).replay_workflow(history)


@workflow.defn(name="PublishVersion")
class ChangedPublish:
    """PublishVersion with a timer that it did not have when the history was saved."""

    @workflow.run
    async def run(self, given: PublishInput) -> None:
        await workflow.sleep(1)


async def test_a_changed_workflow_does_not_replay() -> None:
    path = next(path for path in HISTORIES if path.stem == "publish-succeeds")
    history = WorkflowHistory.from_json("replay-changed", path.read_text())
    with pytest.raises(workflow.NondeterminismError):
        await replayer([ChangedPublish]).replay_workflow(history)
