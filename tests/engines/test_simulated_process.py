"""The simulated engine as a process of its own."""

import os
import subprocess
import sys
import time

import httpx
import pytest

from loradock.dev.ports import PortPool

TOKEN = "token-of-the-simulated-process"


def command(port: int) -> list[str]:
    options = ["--port", str(port), "--base-model", "tiny", "--max-loras", "2", "--max-lora-rank", "8"]
    return [sys.executable, "-m", "loradock.engines.simulated", *options]


def environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LORADOCK_")}
    return {**kept, **changes}


def test_it_serves_until_it_is_told_to_end() -> None:
    ports = PortPool()
    port = ports.take("simulated")
    ports.release()
    process = subprocess.Popen(command(port), env=environment(LORADOCK_EXTENSION_TOKEN=TOKEN))
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            while True:
                try:
                    assert client.get("/health").status_code == 200
                    break
                except httpx.ConnectError:
                    assert process.poll() is None
                    time.sleep(0.05)
            state = client.get("/loradock/v1/state", headers={"authorization": f"Bearer {TOKEN}"}).json()
        assert (state["base_model"], state["max_loras"], state["max_lora_rank"]) == ("tiny", 2, 8)
        assert state["engine"]["kind"] == "simulated"
        process.terminate()
        process.wait(10)
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.parametrize("module", [("loradock.engines.simulated",), ("loradock", "simulated-engine")])
def test_it_refuses_to_start_without_a_token(module: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *module, "--port", "1"],
        env=environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "LORADOCK_EXTENSION_TOKEN" in done.stderr
