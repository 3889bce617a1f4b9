"""An operation that is stopped in its middle, by us or in Temporal: it ends, and everything is as it was."""

import pytest

from tests.system.conftest import MakeAdapter
from tests.system.middle import Middle, in_the_middle, version_states
from tests.system.running import RunningStack, Snapshot, eventually

pytestmark = pytest.mark.slow


def check_put_back(stack: RunningStack, middle: Middle) -> None:
    """What served serves, nothing more does, nothing is published, and nobody's answer was cut."""
    before, after = middle.before, stack.snapshot()
    assert (after.engines, serving(after)) == (before.engines, serving(before))
    assert version_states(stack, middle.loading) == ["ready", "ready"]
    for engine in stack.engines:
        for model in (f"{middle.loading}@1", f"{middle.unloading}@1"):
            assert stack.complete(engine, model, "Hello").status_code == 200, (engine, model)
        assert stack.complete(engine, f"{middle.loading}@2", "Hello").status_code == 404
    assert middle.stream.complete, "a request that was running was cut"
    check_not_published(stack, middle)


def serving(snapshot: Snapshot) -> set[tuple[object, ...]]:
    return {card for card in snapshot.cards if card[3] == "serving"}


def check_not_published(stack: RunningStack, middle: Middle) -> None:
    (version,) = stack.items(f"/v1/adapters/{middle.publishing}/versions")
    assert (version["version"], version["state"]) == (1, "failed")
    assert middle.publish in version["failure"]["message"]
    problem = stack.refuse("POST", f"/v1/adapters/{middle.publishing}/load", {"version": 1})
    assert (problem["status"], problem["code"]) == (409, "version_not_ready")


def check_again(stack: RunningStack, middle: Middle) -> None:
    """The same once more comes to its good end."""
    again = stack.publish(middle.publishing, middle.folder)
    assert (again["version"], again["result"]["already_published"]) == (1, False)
    stack.load(middle.publishing, 1)
    stack.load(middle.loading, 2)
    stack.unload(middle.unloading)


def test_all_aborted_through_the_api(stack: RunningStack, make: MakeAdapter, name: str) -> None:
    with in_the_middle(stack, make, name) as middle:
        for operation in middle.operations:
            assert stack.request("POST", f"/v1/operations/{operation}/abort").status_code == 202
    for operation in middle.operations:
        done = stack.ended(operation)
        assert (done["state"], done["error"]["code"]) == ("aborted", "operation_cancelled"), done
        assert not done["repairs_pending"]
        audited = [event for event in stack.audited(operation) if event[0].startswith(("op", done["kind"]))]
        assert audited == [
            ("operation.requested", "ok"),
            ("operation.abort_requested", "ok"),
            (f"{done['kind']}.aborted", "operation_cancelled"),
        ]
        assert stack.refuse("POST", f"/v1/operations/{operation}/abort")["code"] == "operation_ended"
    check_put_back(stack, middle)
    check_again(stack, middle)


def test_all_cancelled_in_temporal_again_and_again(stack: RunningStack, make: MakeAdapter, name: str) -> None:
    with in_the_middle(stack, make, name) as middle:
        for operation in middle.operations * 3:
            stack.do(stack.workflow(operation).cancel())
    for operation in middle.operations:
        done = stack.ended(operation)
        assert (done["state"], done["error"]["code"]) == ("aborted", "operation_cancelled"), done
    check_put_back(stack, middle)
    check_again(stack, middle)


def test_all_terminated_in_temporal(stack: RunningStack, make: MakeAdapter, name: str) -> None:
    with in_the_middle(stack, make, name) as middle:
        for operation in middle.operations:
            stack.do(stack.workflow(operation).terminate("by the test"))
    for operation in middle.operations:
        done = stack.ended(operation)
        assert (done["state"], done["error"]["code"]) == ("failed", "workflow_terminated"), done
        assert not done["repairs_pending"]
        audited = stack.audited(operation)
        assert ("operation.taken_over", "ok") in audited
        assert audited[-1] == (f"{done['kind']}.failed", "workflow_terminated")
    check_put_back(stack, middle)
    check_again(stack, middle)


def test_one_engines_part_of_a_load_terminated_in_temporal(
    stack: RunningStack, make: MakeAdapter, name: str
) -> None:
    stack.publish(name, make())
    before = stack.snapshot()
    stack.faults(load_seconds=1.5)
    operation = stack.begin(f"/v1/adapters/{name}/load", {"version": 1})["id"]
    eventually(lambda: stack.step_runs(operation, "load", "engine-2"), "no middle")
    child = f"LoradockOperation = '{operation}' AND LoradockEngine = 'engine-2'"
    (workflow,) = eventually(lambda: stack.workflows(child), "the child is not seen in Temporal")
    stack.do(stack.temporal.get_workflow_handle(workflow).terminate("by the test"))
    done = stack.ended(operation)
    assert (done["state"], done["error"]["code"]) == ("failed", "workflow_terminated")
    after = stack.snapshot()
    assert (after.engines, after.cards) == (before.engines, before.cards)
    stack.load(name, 1)
