"""What all tests share: the embedded servers as fixtures (tests/fixtures)."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.fixtures.infra", "tests.system.vllm_stack"]

_TESTS = Path(__file__).parent

# How fast examples are drawn tells of the machine, not of the code: shared ones are slow at times.
settings.register_profile("shared-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared-machine")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say which tests belong to one worker: those that share a stack or a real engine; else each file by itself.

    The longest groups come first, so that the workers end at about the same time.
    """
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
    order = ("engine", "system")
    items.sort(key=lambda item: order.index(group) if (group := _group(item)) in order else len(order))


def _group(item: pytest.Item) -> str:
    if item.get_closest_marker("engine") is not None:
        return "engine"
    path = item.path.relative_to(_TESTS)
    return "system" if path.parts[0] == "system" else str(path)
