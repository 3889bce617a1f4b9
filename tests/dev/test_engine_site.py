"""The processes that an engine starts by itself end with it, also after a kill -9 that nobody announces to them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from loradock.dev.vllm_process import extension_folder

ENGINE = """
import multiprocessing, os, sys, threading, time

def core():
    print(os.getpid(), flush=True)
    time.sleep(60)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    children = []
    def start():
        child = context.Process(target=core)
        child.start()
        children.append(child)
    # From a thread that ends: a death signal would follow the thread, not the process.
    starter = threading.Thread(target=start)
    starter.start()
    starter.join()
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_what_an_engine_has_started_ends_with_it(tmp_path: Path, method: str) -> None:
    script = tmp_path / "engine.py"
    script.write_text(ENGINE)
    env = {**os.environ, "PYTHONPATH": str(extension_folder(tmp_path)), "PYTHONUNBUFFERED": "1"}
    engine = subprocess.Popen(
        [sys.executable, "-P", str(script), method], env=env, stdout=subprocess.PIPE, text=True
    )
    try:
        assert engine.stdout is not None
        lines = {engine.stdout.readline().strip(), engine.stdout.readline().strip()}
        (core,) = (int(line) for line in lines if line != "ready")
        time.sleep(1.5)
        assert _runs(core), "it lives as long as its parent does, though the thread that started it is gone"
        engine.send_signal(signal.SIGKILL)
        engine.wait(10)
        deadline = time.monotonic() + 10
        while _runs(core):
            assert time.monotonic() < deadline, "the core outlived its engine"
            time.sleep(0.1)
    finally:
        engine.kill()
        engine.wait(10)
        engine.stdout.close()  # type: ignore[union-attr]


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
