"""The whole stack, as a process of its own: it comes up, says where it is, and leaves nothing behind however it ends."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from loradock.dev.options import StackOptions
from loradock.dev.stack import Stack
from loradock.metrics.catalog import Process, metrics_of
from tests.dev.processes import alive, environment, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
PARTS = {
    "postgres", "temporal", "seaweedfs", "engine-1", "engine-2", "migrate", "api", "orchestrator", "agent-1", "agent-2",
}  # fmt: skip

DEV = """
import sys
from pathlib import Path
from rich.console import Console
from loradock.core.errors import LoradockError
from loradock.dev.options import EngineKind, StackOptions
from loradock.dev.run import run_dev
try:
    options = StackOptions(engine_kind=EngineKind.SIMULATED, project=Path(sys.argv[1]), restart_crashed=True)
    sys.exit(run_dev(options, Console()))
except LoradockError as error:
    sys.exit(f"{error}")
"""


class DevProcess:
    """`loradock dev` with simulated engines in a folder."""

    def __init__(self, project: Path) -> None:
        self.root = project / ".loradock"
        self.output = project / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", DEV, str(project)],
                env=environment(HOME=str(project)),
                cwd=project,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_up(self) -> dict[str, Any]:
        def up() -> bool:
            assert self.process.poll() is None, self.output.read_text()
            return (self.root / "dev.json").exists()

        assert wait_until(up, 180), self.output.read_text()
        content: dict[str, Any] = json.loads((self.root / "dev.json").read_text())
        return content

    def pids(self) -> dict[str, int]:
        records = json.loads((self.root / "dev" / "processes.json").read_text())
        return {name: entry["pid"] for name, entry in records.items()}


@contextlib.contextmanager
def dev(project: Path) -> Iterator[DevProcess]:
    stack = DevProcess(project)
    try:
        yield stack
    finally:
        if stack.process.poll() is None:
            stack.process.terminate()
            try:
                stack.process.wait(30)
            except subprocess.TimeoutExpired:
                stack.process.kill()
        stack.process.wait()


def assert_metrics(info: dict[str, Any]) -> None:
    """Every part shows the metrics that the catalog says it has."""
    assert set(info["metrics"]) == {"api", "orchestrator", "agent-1", "agent-2"}
    for part, url in info["metrics"].items():
        process = Process(part.partition("-")[0])
        page = httpx.get(url, headers={"Authorization": f"Bearer {info['token']}"})
        found = list(text_string_to_metric_families(page.raise_for_status().text))
        names = {f"{one.name}_total" if one.type == "counter" else one.name for one in found}
        assert {spec.name for spec in metrics_of(process)} <= names, part
    assert httpx.get(info["metrics"]["api"]).status_code == 401


def test_it_comes_up_serves_heals_and_stops_without_a_trace(tmp_path: Path) -> None:
    with dev(tmp_path) as stack:
        info = stack.wait_up()
        engines = httpx.get(f"{info['api']}/v1/engines", headers={"Authorization": f"Bearer {info['token']}"})
        assert {item["id"] for item in engines.json()["items"]} >= {"engine-1", "engine-2"}
        assert httpx.get(info["temporal_ui"]).status_code == 200
        assert all(Path(folder).is_dir() for folder in info["adapters"].values())
        assert [engine["kind"] for engine in info["engines"]] == ["simulated", "simulated"]
        pids = stack.pids()
        assert set(pids) == PARTS
        assert_metrics(info)

        addresses = (stack.root / "dev.json").read_bytes()
        os.kill(pids["engine-1"], signal.SIGKILL)
        again = re.compile(
            r"engine-1 +crashed .* it is started again in .*engine-1 +ready .*started again$", re.S | re.M
        )
        assert wait_until(lambda: bool(again.search(stack.output.read_text())), 60), stack.output.read_text()
        assert (stack.root / "dev.json").read_bytes() == addresses
        assert httpx.get(f"{info['engines'][0]['url']}/health").status_code == 200
        pids = {**pids, "engine-1 of before": pids["engine-1"], **stack.pids()}
        assert pids["engine-1"] != pids["engine-1 of before"]

        stack.process.send_signal(signal.SIGINT)
        assert stack.process.wait(30) == 0
        assert not [name for name, pid in pids.items() if alive(pid)]
        assert not (stack.root / "dev.json").exists()
        lines = stack.output.read_text().splitlines()
        assert lines
        assert all(line.startswith("[simulated engine]") for line in lines)


def test_after_kill_9_nothing_runs_and_the_next_one_comes_up_at_the_same_addresses(tmp_path: Path) -> None:
    with dev(tmp_path) as first:
        before = first.wait_up()
        pids = first.pids()
        assert alive(pids["postgres"])
        first.process.kill()
        first.process.wait()
        assert wait_until(lambda: not any(alive(pid) for pid in pids.values()), 15)
    with dev(tmp_path) as second:
        # The old file of addresses is gone before the new stack is up.
        assert wait_until(lambda: not (second.root / "dev.json").exists(), 30)
        after = second.wait_up()
    assert {key: before[key] for key in ("api", "token", "temporal_ui", "database_url")} == {
        key: after[key] for key in ("api", "token", "temporal_ui", "database_url")
    }


def test_a_second_one_in_the_same_folder_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    with dev(tmp_path) as stack:
        info = stack.wait_up()
        done = subprocess.run(
            [sys.executable, "-c", DEV, str(tmp_path)],
            env=environment(HOME=str(tmp_path)),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert f"already running in {tmp_path} (pid {stack.process.pid})" in done.stderr
        assert (stack.root / "dev.json").exists()
        assert httpx.get(f"{info['api']}/readyz").status_code == 200


def test_a_signal_while_it_starts_stops_it_cleanly(tmp_path: Path) -> None:
    with dev(tmp_path) as stack:
        records = stack.root / "dev" / "processes.json"
        assert wait_until(records.exists, 60)
        pids = stack.pids()
        stack.process.send_signal(signal.SIGTERM)
        assert stack.process.wait(30) == 0
        assert not [name for name, pid in pids.items() if alive(pid)]
        assert not (stack.root / "dev.json").exists()


async def test_without_vllm_it_says_what_to_do_and_never_falls_back(tmp_path: Path) -> None:
    options = StackOptions(project=tmp_path, engine_environment=tmp_path / "none")
    events: list[object] = []
    with pytest.raises(Exception, match=r"make \.venv-engine.*--engine simulated") as caught:
        async with Stack(options, events.append):
            pass
    assert getattr(caught.value, "code", "") == "engine_environment_missing"
    assert not events
    # The folder is free again.
    with pytest.raises(Exception, match=r"make \.venv-engine"):
        async with Stack(options, events.append):
            pass
