"""One stack on a real vLLM for every test that needs one: it takes about a minute to start."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from loradock.core.settings import load_settings
from loradock.dev.engine_environment import EngineEnvironment
from loradock.dev.options import EngineKind
from loradock.dev.samples import Samples
from tests.system.conftest import clean_environment
from tests.system.running import RunningStack, options


@pytest.fixture(scope="session")
def vllm_stack(
    tmp_path_factory: pytest.TempPathFactory, engine_environment: EngineEnvironment, tiny_model: Samples
) -> Iterator[RunningStack]:
    """A stack with one real engine that serves the tiny base; whoever uses it leaves it empty."""
    project = tmp_path_factory.mktemp("vllm-stack")
    (project / ".loradock").mkdir()
    (project / ".loradock" / "samples").symlink_to(tiny_model.folder)
    with pytest.MonkeyPatch.context() as patch:
        clean_environment(patch)
        roots = (tmp_path_factory.getbasetemp(), tiny_model.folder)
        stack = RunningStack(
            options(
                project,
                engine_kind=EngineKind.VLLM,
                engines=1,
                engine_environment=engine_environment.folder,
                settings=load_settings(_env_file=None, file_roots=roots),
            )
        )
        try:
            stack.start()
        except BaseException:
            stack.stop()
            raise
    pids = stack.pids()
    yield stack
    pids |= stack.pids()
    stack.stop()
    assert not [name for name, pid in pids.items() if Path(f"/proc/{pid}/cmdline").exists()]
