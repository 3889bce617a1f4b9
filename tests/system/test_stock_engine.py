"""A stack whose engine is a stock vLLM: the story of an adapter, with what the engine cannot promise said on the way."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from loradock.core.promises import EnginePromise
from loradock.core.settings import load_settings
from loradock.dev.child import Child, ChildSpec
from loradock.dev.ports import PortPool
from loradock.dev.probes import http_answers
from loradock.engines.simulated.answers import simulated_text
from tests.dev.processes import PROJECT
from tests.system.checks import check_audit, check_versions, wait_quiet
from tests.system.conftest import MakeAdapter, clean_environment
from tests.system.running import Document, RunningStack, eventually, options

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

ENGINE = "stock-1"


class StockStack(RunningStack):
    """A running stack with one stock engine that is not its own."""

    engine: Child

    def listed(self) -> dict[str, str]:
        """The adapters that the engine lists, with their paths."""
        models = httpx.get(f"{self.engine_url(ENGINE)}/v1/models", trust_env=False).json()["data"]
        return {model["id"]: model["root"] for model in models if model["parent"] is not None}

    def served(self) -> set[str]:
        """The names to which traffic may go."""
        return {card["served_name"] for card in self.items("/v1/cards?state=serving")}


@contextmanager
def stack_with(spec: ChildSpec, folder: Path, *roots: Path) -> Iterator[StockStack]:
    """The engine's process, and a stack beside it."""
    child = Child(spec, folder / "engine.log")
    child.start()
    try:
        child.wait_ready()
        with pytest.MonkeyPatch.context() as patch:
            clean_environment(patch)
            for name, value in {
                "ENGINES": f"{ENGINE}=http://127.0.0.1:{spec.command[spec.command.index('--port') + 1]}",
                "ENGINE_KIND": "stock-vllm",
                "STOCK_QUIET_SECONDS": "0.5",
                "RECONCILE_BACKOFF_SECONDS": "0.5",
                "RECONCILE_SCAN_SECONDS": "3",
            }.items():
                patch.setenv(f"LORADOCK_{name}", value)
            settings = load_settings(_env_file=None, file_roots=roots)
            stack = StockStack(options(folder, settings=settings))
            stack.engine = child
            try:
                stack.start()
                yield stack
            finally:
                stack.stop()
    finally:
        child.stop()


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StockStack]:
    folder, ports = tmp_path_factory.mktemp("stock-stack"), PortPool()
    port = ports.take("engine")
    ports.release()
    module = (sys.executable, "-m", "loradock.engines.simulated", "--stock", "--port", str(port))
    spec = ChildSpec(
        name="engine",
        command=(*module, "--base-model", "tiny-base", "--max-loras", "3", "--token-seconds", "0.01"),
        env={"PYTHONPATH": f"{PROJECT}:{PROJECT / 'vllm_extension'}"},
        ready=lambda: http_answers(f"http://127.0.0.1:{port}/health"),
    )
    with stack_with(spec, folder, tmp_path_factory.getbasetemp()) as stack:
        yield stack


@pytest.fixture
def stack(simulated: StockStack) -> Iterator[StockStack]:
    """The stack with nothing loaded, and quiet afterwards."""
    yield simulated
    for deployment in simulated.items("/v1/deployments"):
        if deployment["versions"]:
            simulated.unload(deployment["adapter"])
    wait_quiet(simulated)
    assert simulated.listed() == {}
    check_versions(simulated)
    check_audit(simulated)


def details(operation: Document) -> dict[str, Document]:
    return {step["name"]: step["detail"] for step in operation["steps"]}


def test_an_adapter_from_its_publish_to_its_end(stack: StockStack, make: MakeAdapter, name: str) -> None:
    (engine,) = stack.items("/v1/engines")
    assert (engine["kind"], engine["status"]) == ("stock-vllm", "alive")
    assert set(engine["missing_promises"]) == {str(promise) for promise in EnginePromise}
    digests: dict[int, str | None] = {0: None}

    def check(*versions: int) -> None:
        """These serve, each with its own weights, and the base with its."""
        assert stack.served() == set(stack.listed()) == {f"{name}@{number}" for number in versions}
        for number in (0, *versions):
            model = f"{name}@{number}" if number else engine["base_model"]
            assert stack.answer(ENGINE, model, "Hello") == simulated_text(digests[number], "Hello")

    for number in (1, 2):
        digest = digests[number] = stack.publish(name, make(f"v{number}"))["result"]["digest"]
        loaded = stack.load(name, number)
        assert "residency_check" in details(loaded)["load"]["unkept"]
        assert stack.listed()[f"{name}@{number}"].endswith(digest.replace(":", "-"))
    check(1, 2)

    unloaded = stack.succeed(f"/v1/adapters/{name}/unload", {"version": 1, "force": True, "drain": "10s"})
    assert "true_unload" in unloaded["result"]["note"]
    assert {"true_unload", "residency_check"} <= set(details(unloaded)["remove"]["unkept"])
    assert details(unloaded)["release"]["outcome"] == "released"
    assert stack.complete(ENGINE, f"{name}@1", "Hello").status_code == 404
    check(2)
    stack.load(name, 1)
    check(1, 2)

    before = stack.get(f"/v1/engines/{ENGINE}")["incarnation"]
    stack.engine.stop()
    eventually(lambda: not stack.served(), "the dead engine has traffic")
    stack.engine.start()
    stack.engine.wait_ready()
    eventually(lambda: len(stack.served()) == 2, "it does not serve again", stack.describe)
    assert stack.get(f"/v1/engines/{ENGINE}")["incarnation"] != before
    wait_quiet(stack)
    check(1, 2)


def test_a_load_that_fails_is_put_back_and_the_name_is_not_there(
    stack: StockStack, make: MakeAdapter, name: str
) -> None:
    stack.publish(name, make(rank=32))  # above the engine's highest, which it does not tell
    done = stack.run(f"/v1/adapters/{name}/load", {"version": 1})
    assert (done["state"], done["error"]["code"]) == ("failed", "rank_too_high")
    assert not done["repairs_pending"]
    assert (stack.listed(), stack.rows("SELECT * FROM cards")) == ({}, [])


def test_an_agent_killed_in_the_middle_of_a_load_leaves_nothing_unknown(
    stack: StockStack, make: MakeAdapter, name: str
) -> None:
    stack.publish(name, make())
    set_faults(stack, load_seconds=2.0)
    operation = stack.begin(f"/v1/adapters/{name}/load", {"version": 1})
    eventually(lambda: stack.step_runs(operation["id"], "load", ENGINE), "it does not load")
    stack.kill("agent-1")
    stack.restart("agent-1")
    done = stack.ended(operation["id"])
    wait_quiet(stack)
    set_faults(stack)
    wanted = {f"{name}@1"} if done["state"] == "succeeded" else set()
    assert stack.served() == set(stack.listed()) == wanted, done
    assert stack.get(f"/v1/engines/{ENGINE}")["drift"] == []


def test_other_weights_that_somebody_put_under_a_name_are_replaced(
    stack: StockStack, make: MakeAdapter, name: str
) -> None:
    digest = stack.publish(name, make())["result"]["digest"]
    stack.load(name, 1)
    served = f"{name}@1"
    elsewhere = shutil.copytree(make("other"), make("place") / f"sha256-{'5a' * 32}")
    by_hand(stack, "unload", lora_name=served)
    by_hand(stack, "load", lora_name=served, lora_path=str(elsewhere))
    assert stack.answer(ENGINE, served, "Hi") != simulated_text(digest, "Hi")
    eventually(
        lambda: (
            stack.listed().get(served, "").endswith(digest.replace(":", "-")) and stack.served() == {served}
        ),
        "the right weights do not come back",
        lambda: str(stack.get(f"/v1/engines/{ENGINE}")),
    )
    assert stack.answer(ENGINE, served, "Hi") == simulated_text(digest, "Hi")


def test_a_strange_adapter_is_reported_and_left_alone(
    stack: StockStack, make: MakeAdapter, name: str
) -> None:
    by_hand(stack, "load", lora_name=f"{name}@7", lora_path=str(make()))
    by_hand(stack, "load", lora_name="sql", lora_path=str(make("sql")))

    def shown() -> bool:
        engine = stack.get(f"/v1/engines/{ENGINE}")
        kinds = {one["served_name"]: one["kind"] for one in engine["drift"]}
        return kinds == {f"{name}@7": "foreign"} and any("sql" in said for said in engine["limitations"])

    eventually(shown, "nobody sees it", lambda: str(stack.get(f"/v1/engines/{ENGINE}")))
    assert set(stack.listed()) == {f"{name}@7", "sql"}
    for strange in (f"{name}@7", "sql"):
        by_hand(stack, "unload", lora_name=strange)
    eventually(lambda: not stack.get(f"/v1/engines/{ENGINE}")["drift"], "it is still shown")


def by_hand(stack: StockStack, verb: str, **body: Any) -> None:
    """A change past the service: vLLM's own routes are open."""
    url = f"{stack.engine_url(ENGINE)}/v1/{verb}_lora_adapter"
    httpx.post(url, json=body, trust_env=False).raise_for_status()


def set_faults(stack: StockStack, **faults: object) -> None:
    url = f"{stack.engine_url(ENGINE)}/simulated/faults"
    httpx.put(url, json=faults, trust_env=False).raise_for_status()
