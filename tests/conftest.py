"""What all tests share: the embedded servers as fixtures (tests/fixtures)."""

from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.fixtures.infra", "tests.system.vllm_stack"]

# How fast examples are drawn tells of the machine, not of the code: shared ones are slow at times.
settings.register_profile("shared-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared-machine")
