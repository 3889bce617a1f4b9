"""The models that cross rooms: strict, immutable, and the same after a journey as JSON."""

from typing import Any

import pytest
from pydantic import ValidationError

from loradock.core.ids import (
    child_workflow_id,
    host_engine_queue,
    host_io_queue,
    new_operation_id,
    workflow_id,
)
from loradock.core.models import (
    ACTIVE_STATES,
    Manifest,
    ManifestFile,
    Model,
    OperationState,
    StepReport,
    StepState,
    VersionRef,
    utc_now,
)
from loradock.core.requests import EngineReport, LeaseRenewal, LoadRequest, PublishRequest, UnloadRequest

DIGEST = "sha256:" + "0" * 64
REF = VersionRef(adapter="acme/greeter", version=3, digest=DIGEST, int_id=7)


def test_a_model_neither_changes_nor_takes_what_it_does_not_know() -> None:
    with pytest.raises(ValidationError):
        REF.version = 4  # type: ignore[misc]
    with pytest.raises(ValidationError):
        VersionRef(adapter="a", version=1, digest=DIGEST, int_id=1, more=True)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "model",
    [
        REF,
        Manifest(digest=DIGEST, files=(ManifestFile(path="a", size=3, sha256="0" * 64),), left_out=("b",)),
        StepReport(
            name="load", engine="e0", state=StepState.RUNNING, started_at=utc_now(), detail={"bytes": 3}
        ),
        PublishRequest(adapter="greeter", uri="file:///x", labels={"run": "7"}),
        LoadRequest(adapter="greeter", version=1, pool="default", engines=("e0",)),
        UnloadRequest(adapter="greeter", pool="default"),
    ],
)
def test_a_model_is_the_same_after_a_journey_as_json(model: Model) -> None:
    assert type(model).model_validate_json(model.model_dump_json()) == model


@pytest.mark.parametrize(
    "digest", ["", "sha256:", "0" * 64, "sha256:" + "0" * 63, "sha256:" + "G" * 64, DIGEST + "\n"]
)
def test_a_digest_has_one_form(digest: str) -> None:
    with pytest.raises(ValidationError):
        VersionRef(adapter="a", version=1, digest=digest, int_id=1)


def test_the_states_that_hold_a_lock_are_those_that_go_on() -> None:
    assert {state for state in OperationState if state.active} == ACTIVE_STATES
    assert {state.value for state in OperationState if not state.active} == {
        "succeeded", "failed", "rolled_back", "aborted",
    }  # fmt: skip


def test_a_manifest_knows_its_size() -> None:
    files = tuple(ManifestFile(path=name, size=5, sha256="0" * 64) for name in ("a", "b"))
    assert Manifest(digest=DIGEST, files=files).total_size == 10
    assert REF.served_name == "acme/greeter@3"


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": 0}, {"adapter": "a b"}, {"pool": "a/b"}, {"engines": ()}, {"min_ready": 0}, {"policy": "some"},
        {"engines": ("e 0",)},
    ],
)  # fmt: skip
def test_a_load_that_cannot_be_meant_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LoadRequest(**{"adapter": "greeter", "version": 1, "pool": "default", **wrong})


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan"), 10**9])
def test_a_drain_has_bounds(seconds: float) -> None:
    with pytest.raises(ValidationError):
        UnloadRequest(adapter="greeter", pool="default", drain_seconds=seconds)


def test_a_reachable_engine_tells_its_life_and_base() -> None:
    told: dict[str, Any] = {"engine": "e0", "url": "http://x", "kind": "vllm"}
    EngineReport(**told, reachable=False)
    with pytest.raises(ValidationError):
        EngineReport(**told, reachable=True)
    with pytest.raises(ValidationError):
        LeaseRenewal(agent="a", instance="12345678", pool="p", agent_version="1", engines=())


def test_operation_ids_are_new_sort_by_time_and_fit_into_a_url() -> None:
    ids = [new_operation_id() for _ in range(200)]
    assert len(set(ids)) == len(ids)
    assert sorted(ids) == ids
    assert all(name.replace("-", "").isalnum() and name.startswith("op-") for name in ids)


def test_temporal_names_follow_from_ids() -> None:
    assert workflow_id("op-1") == "op/op-1"
    assert child_workflow_id("op-1", "load", "e0") == "op/op-1/load/e0"
    assert {host_io_queue("h"), host_engine_queue("h")} == {"host-h-io", "host-h-engine"}
