"""A migrated database for the parts of the orchestrator that need one."""

from tests.registry.conftest import database, registry_url, template, world

__all__ = ["database", "registry_url", "template", "world"]
