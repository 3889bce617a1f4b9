"""A migrated database for the activities that need one."""

from tests.registry.conftest import database, registry_url, template

__all__ = ["database", "registry_url", "template"]
