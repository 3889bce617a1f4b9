"""`/v1/loras` as the seed system's clients and its operator use it."""

import concurrent.futures
from pathlib import Path

import httpx
import pytest
from blake3 import blake3

from loradock.engines.simulated.answers import simulated_text
from tests.system.conftest import MakeAdapter
from tests.system.running import Document, RunningStack, eventually

pytestmark = pytest.mark.slow


def seed_id(name: str) -> int:
    return max(1, int.from_bytes(blake3(name.encode()).digest(length=8), "big") & 0x7FFFFFFF)


def post(stack: RunningStack, name: str, folder: Path) -> httpx.Response:
    body = {"lora_name": name, "source": {"uri": folder.as_uri()}, "unknown_field": 1}
    return stack.request("POST", "/v1/loras", body)


def served(stack: RunningStack, name: str) -> dict[str, set[int]]:
    """The versions of the adapter that each engine serves by its card."""
    found: dict[str, set[int]] = {engine: set() for engine in stack.engines}
    for card in stack.items(f"/v1/cards?adapter={name}&state=serving"):
        found[card["engine"]].add(card["version"])
    return found


def weights(stack: RunningStack, name: str) -> dict[int, int]:
    (deployment,) = stack.items(f"/v1/deployments?adapter={name}")
    return {one["version"]: one["weight"] for one in deployment["versions"]}


def test_a_post_publishes_and_loads_and_answers_when_every_engine_serves(
    stack: RunningStack, make: MakeAdapter, name: str
) -> None:
    folder = make()
    answer = post(stack, name, folder)
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "success",
        "message": f"LoRA adapter '{name}' loaded successfully",
        "lora_name": name,
        "lora_id": seed_id(name),
    }
    digest = stack.get(f"/v1/adapters/{name}/versions/1")["digest"]
    for engine in stack.engines:
        assert stack.answer(engine, f"{name}@1", "Hello") == simulated_text(digest, "Hello")
    listed = stack.get("/v1/loras")
    assert listed["loras"][name] == seed_id(name)
    assert listed["count"] == len(listed["loras"])
    again = post(stack, name, folder).json()
    assert again == {**answer.json(), "message": f"LoRA adapter '{name}' already loaded"}
    assert served(stack, name) == {engine: {1} for engine in stack.engines}


def test_the_same_name_with_other_weights_is_a_new_version_that_takes_over_in_one_moment(
    stack: RunningStack, make: MakeAdapter, name: str
) -> None:
    post(stack, name, make())
    answer = post(stack, name, make("second"))
    assert answer.json()["message"] == f"LoRA adapter '{name}' loaded successfully"
    assert all(2 in versions for versions in served(stack, name).values())
    assert weights(stack, name)[2] == 100
    gone = {engine: {2} for engine in stack.engines}
    eventually(lambda: served(stack, name) == gone or None, "the first version is still loaded")
    eventually(lambda: weights(stack, name) == {2: 100} or None, "the first version is still wanted")
    kinds = [one["kind"] for one in stack.items(f"/v1/operations?adapter={name}")]
    assert sorted(kinds) == ["load", "load", "publish", "publish", "unload"]


def test_weights_change_hands_in_the_transaction_that_routes_the_new_version(
    stack: RunningStack, make: MakeAdapter, name: str
) -> None:
    post(stack, name, make())
    stack.faults("engine-1", load_seconds=1.0)
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        replacing = threads.submit(post, stack, name, make("second"))
        seen: list[Document] = []
        while not replacing.done():
            seen += stack.items(f"/v1/deployments?adapter={name}")
        assert replacing.result().status_code == 200
    mixes = [{one["version"]: one["weight"] for one in deployment["versions"]} for deployment in seen]
    assert {tuple(sorted(mix.items())) for mix in mixes} <= {((1, 100),), ((1, 0), (2, 100)), ((2, 100),)}


def test_a_delete_unloads_from_every_engine(stack: RunningStack, make: MakeAdapter, name: str) -> None:
    name = f"acme/{name}"
    assert post(stack, name, make()).status_code == 200
    answer = stack.request("DELETE", f"/v1/loras/{name}")
    assert (answer.status_code, answer.json()["message"]) == (
        200,
        f"LoRA adapter '{name}' unloaded successfully",
    )
    assert [stack.held(engine) for engine in stack.engines] == [set(), set()]
    assert name not in stack.get("/v1/loras")["loras"]
    again = stack.request("DELETE", f"/v1/loras/{name}")
    assert again.status_code == 404
    assert (again.json()["status"], again.json()["lora_name"]) == ("error", name)


def test_ten_hosts_posts_at_once_are_one_publish_and_one_load(
    stack: RunningStack, make: MakeAdapter, name: str
) -> None:
    folder = make()
    with concurrent.futures.ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(lambda _: post(stack, name, folder), range(10)))
    assert {answer.status_code for answer in answers} == {200}
    assert [one["version"] for one in stack.items(f"/v1/adapters/{name}/versions")] == [1]
    assert served(stack, name) == {engine: {1} for engine in stack.engines}


def test_what_cannot_be_served_is_said_in_the_seeds_words_and_nothing_is_listed(
    stack: RunningStack, make: MakeAdapter, name: str
) -> None:
    missing = post(stack, name, Path(stack.stack.options.project) / "nowhere")
    assert missing.status_code == 422
    assert (missing.json()["status"], missing.json()["code"]) == ("error", "source_not_found")
    ranked = post(stack, name, make("ranked", rank=64))
    assert (ranked.status_code, ranked.json()["code"]) == (422, "rank_too_high")
    assert name not in stack.get("/v1/loras")["loras"]
    assert [stack.held(engine) for engine in stack.engines] == [set(), set()]


def test_an_engine_that_refuses_leaves_the_old_version_serving(
    stack: RunningStack, make: MakeAdapter, name: str
) -> None:
    post(stack, name, make())
    stack.faults("engine-2", load_error="Error while deserializing header: header too large")
    refused = post(stack, name, make("second"))
    assert (refused.status_code, refused.json()["code"]) == (422, "adapter_corrupt")
    assert weights(stack, name) == {1: 100}
    assert served(stack, name) == {engine: {1} for engine in stack.engines}
    stack.faults()
    # The failed chain left nothing behind: the same call again goes through.
    assert post(stack, name, make("second")).status_code == 200
