"""The examples of deploy/ name settings that exist, options that the commands have, and parse as what they are."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from loradock.cli.main import app
from loradock.core.settings import Settings

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())
EXTENSION = {"LORADOCK_EXTENSION_TOKEN", "LORADOCK_EXTENSION_TOKEN_FILE"}


def manifests() -> Iterator[Any]:
    for path in DEPLOY.rglob("*.yaml"):
        yield from yaml.safe_load_all(path.read_text())


def commands() -> Iterator[list[str]]:
    """Every `loradock …` that the examples run."""
    for path in DEPLOY.rglob("*.service"):
        text = path.read_text().replace("\\\n", " ")
        for line in re.findall(r"^ExecStart(?:Pre)?=\S*/loradock (.*)$", text, re.MULTILINE):
            yield line.split()
    for manifest in manifests():
        yield from _containers(manifest)


def _containers(node: Any) -> Iterator[list[str]]:
    if isinstance(node, dict):
        if node.get("image") == "loradock" and (command := node.get("args") or node.get("command")):
            yield command
        for value in node.values():
            yield from _containers(value)
    elif isinstance(node, list):
        for value in node:
            yield from _containers(value)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_setting_that_an_example_names_exists(path: Path) -> None:
    known = {f"LORADOCK_{name.upper()}" for name in Settings.model_fields} | EXTENSION
    assert set(re.findall(r"LORADOCK_[A-Z0-9_]+", path.read_text())) <= known


def test_every_command_that_an_example_runs_exists_with_its_options() -> None:
    group: Any = get_command(app)
    seen = list(commands())
    assert {command[0] for command in seen} >= {"api", "orchestrator", "agent", "migrate", "temporal-setup"}
    for name, *arguments in seen:
        options = {option for parameter in group.commands[name].params for option in parameter.opts}
        used = {argument for argument in arguments if argument.startswith("--")}
        assert used <= options, name


def test_the_agent_and_the_engine_share_the_cache_and_only_the_agent_writes() -> None:
    (pod,) = [one for one in manifests() if one.get("kind") == "StatefulSet"]
    vllm, agent = pod["spec"]["template"]["spec"]["containers"]
    mounts = {one["name"]: one for one in vllm["volumeMounts"]}
    assert mounts["cache"] == {"name": "cache", "mountPath": "/cache", "readOnly": True}
    assert agent["volumeMounts"] == [{"name": "cache", "mountPath": "/cache"}]
    assert {"name": "LORADOCK_CACHE_DIR", "value": "/cache"} in agent["env"]


def test_where_others_read_metrics_a_token_is_asked_for_and_the_port_is_the_one_that_is_told() -> None:
    pods = [
        one["spec"]["template"] for one in manifests() if one.get("kind") in {"Deployment", "StatefulSet"}
    ]
    assert len(pods) == 3
    for pod in pods:
        port = pod["metadata"]["annotations"]["prometheus.io/port"]
        (ours,) = [one for one in pod["spec"]["containers"] if one["image"] == "loradock"]
        names = {one["name"]: one.get("value") for one in ours["env"]}
        assert "LORADOCK_METRICS_TOKEN" in names
        assert int(port) in {one["containerPort"] for one in ours["ports"]}
        assert names.get("LORADOCK_METRICS_LISTEN", "0.0.0.0:8400") == f"0.0.0.0:{port}"
