"""What all tests share: the embedded servers as fixtures (tests/fixtures)."""

import functools
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

pytest_plugins = ["tests.fixtures.infra", "tests.system.vllm_stack"]

_TESTS = Path(__file__).parent

# How fast examples are drawn tells of the machine, not of the code: shared ones are slow at times.
settings.register_profile("shared-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared-machine")


class _Groups(LoadScopeScheduling):  # type: ignore[misc]
    """Tests that share a stack or a real engine are one worker's; every other file is dealt out by itself."""

    def _split_scope(self, nodeid: str) -> str:
        return _group(nodeid.partition("::")[0])


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> _Groups:
    return _Groups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest groups first, so that the workers end at about the same time."""
    order = ("engine", "system")
    groups = [_group(item.nodeid.partition("::")[0]) for item in items]
    places = [order.index(group) if group in order else len(order) for group in groups]
    items[:] = [item for _, item in sorted(zip(places, items, strict=True), key=lambda pair: pair[0])]


@functools.cache
def _group(file: str) -> str:
    if "pytest.mark.engine" in (_TESTS.parent / file).read_text():
        return "engine"
    return "system" if file.startswith("tests/system/") else file
