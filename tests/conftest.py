"""What all tests share: the embedded servers as fixtures (tests/fixtures)."""

pytest_plugins = ["tests.fixtures.infra"]
