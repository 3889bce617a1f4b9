"""One stack with two simulated engines for all tests of this folder; every test leaves it whole and empty."""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loradock.core.settings import load_settings
from loradock.dev.simulated_model import write_adapter
from tests.artifacts.signers import make_key
from tests.system.checks import check_whole, wait_quiet
from tests.system.running import IMPORTS, RunningStack, options

_seeds = itertools.count(1000)
_names = itertools.count(1)

MakeAdapter = Callable[..., Path]


def clean_environment(patch: pytest.MonkeyPatch) -> None:
    """No setting of the person who runs the tests reaches the stack, and its processes find our code."""
    for name in tuple(os.environ):
        if name.startswith(("LORADOCK_", "AWS_")):
            patch.delenv(name)
    patch.setenv("PYTHONPATH", IMPORTS)


@pytest.fixture(scope="session")
def signature_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stack's signature policy, which asks for nothing of adapters whose names do not say so; the key lies beside it."""
    folder = tmp_path_factory.mktemp("policy")
    make_key(folder / "release.key")
    policy = folder / "signatures.toml"
    policy.write_text(
        "".join(
            f'[[rules]]\nadapters = "{name}-*"\npolicy = "{name}"\nkeys = ["release.pub"]\n'
            for name in ("require", "warn")
        )
    )
    return policy


@pytest.fixture(scope="session")
def session_stack(tmp_path_factory: pytest.TempPathFactory, signature_policy: Path) -> Iterator[RunningStack]:
    """The running stack, about ten seconds after the first test asked for it."""
    with pytest.MonkeyPatch.context() as patch:
        clean_environment(patch)
        patch.setenv("LORADOCK_SIGNATURE_POLICY", str(signature_policy))
        # What fails on purpose is tried again soon, and what nobody told is found soon.
        patch.setenv("LORADOCK_RECONCILE_BACKOFF_SECONDS", "0.5")
        patch.setenv("LORADOCK_RECONCILE_BACKOFF_MAX_SECONDS", "2")
        patch.setenv("LORADOCK_RECONCILE_SCAN_SECONDS", "3")
        settings = load_settings(_env_file=None, file_roots=(tmp_path_factory.getbasetemp(),))
        stack = RunningStack(options(tmp_path_factory.mktemp("system"), settings=settings))
        try:
            stack.start()
        except BaseException:
            stack.stop()
            raise
    yield stack
    stack.stop()


@pytest.fixture
def stack(session_stack: RunningStack) -> Iterator[RunningStack]:
    """The running stack with no adapter loaded; afterwards all of it must fit together."""
    yield session_stack
    session_stack.repair()
    wait_quiet(session_stack)
    try:
        check_whole(session_stack)
    finally:
        empty(session_stack)


@pytest.fixture
def untouched(session_stack: RunningStack) -> Iterator[RunningStack]:
    """The running stack, in which the test must not even begin anything: no row more, no event, no staged file."""
    tables = ("operations", "operation_steps", "audit_events", "adapters", "versions", "cards")
    counts = f"SELECT {', '.join(f'(SELECT count(*) FROM {table})' for table in tables)}"
    before = session_stack.rows(counts)
    yield session_stack
    assert session_stack.rows(counts) == before
    assert session_stack.staged() == frozenset()


def empty(stack: RunningStack) -> None:
    """Unload everything."""
    for deployment in stack.items("/v1/deployments"):
        if deployment["versions"]:
            stack.unload(deployment["adapter"], pool=deployment["pool"])
    assert [stack.held(engine) for engine in stack.engines] == [set() for _ in stack.engines]
    assert stack.rows("SELECT * FROM cards") == []


@pytest.fixture
def make(tmp_path: Path) -> MakeAdapter:
    """Makes a folder with an adapter of weights that no other has."""

    def write(name: str = "adapter", *, rank: int = 8, **more: object) -> Path:
        folder = tmp_path / name
        write_adapter(folder, seed=next(_seeds), rank=rank, modules=("q_proj", "v_proj"), **more)  # type: ignore[arg-type]
        return folder

    return write


@pytest.fixture
def name() -> str:
    """An adapter's name that no other test has."""
    return f"adapter-{next(_names)}"
