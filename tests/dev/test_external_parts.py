"""What exists already is used instead of the embedded part, and left alone."""

from pathlib import Path

import pytest

from loradock.core.settings import load_settings
from loradock.dev.child import Child
from loradock.dev.engines import simulated_spec
from loradock.dev.files import write_private
from loradock.dev.options import EngineKind, StackOptions
from loradock.dev.ports import PortPool
from loradock.dev.postgres import EmbeddedPostgres
from loradock.dev.stack import Stack
from loradock.dev.vllm_process import extension_folder
from tests.dev.processes import alive

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
TOKEN = "token-of-the-existing-engine"


async def test_existing_servers_and_engines_are_used_and_left_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    database_url: str,
    embedded_postgres: EmbeddedPostgres,
    temporal_dev_server: str,
) -> None:
    ports = PortPool()
    port = ports.take("engine")
    ports.release()
    write_private(tmp_path / "token", TOKEN)
    spec = simulated_spec("mine", port, "some-base", tmp_path / "token", extension_folder(tmp_path))
    engine = Child(spec, tmp_path / "engine.log")
    engine.start()
    try:
        engine.wait_ready()
        store = tmp_path / "store"
        store.mkdir()
        for name, value in {
            "DATABASE_URL": database_url,
            "TEMPORAL_ADDRESS": temporal_dev_server,
            "OBJECT_STORE": f"file://{store}",
            "ENGINES": f"mine=http://127.0.0.1:{port}",
            "ENGINE_TOKEN": TOKEN,
            "ENGINE_KIND": "simulated",
        }.items():
            monkeypatch.setenv(f"LORADOCK_{name}", value)
        options = StackOptions(
            project=tmp_path, engine_kind=EngineKind.SIMULATED, settings=load_settings(_env_file=None)
        )
        async with Stack(options, lambda _: None) as stack:
            assert set(stack.supervisor.names) == {"api", "orchestrator", "agent-1"}
            assert stack.info.database_url == database_url
            assert stack.info.temporal_address == temporal_dev_server
            assert stack.info.object_store.uri == f"file://{store}"
            assert [(one.id, one.base_model) for one in stack.info.engines] == [("mine", "some-base")]
            pids = [stack.supervisor.pid(name) for name in stack.supervisor.names]
        assert not [pid for pid in pids if alive(pid)]
        assert engine.running
        assert embedded_postgres.answers()
    finally:
        engine.stop()
