"""Build hook: the package's dependencies are the lines of app.in, so they are written in one place."""

from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class AppDependencies(MetadataHookInterface):
    """Fills `project.dependencies` from requirements/app.in."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Add `dependencies` to the project's metadata."""
        lines = Path(self.root, "requirements", "app.in").read_text().splitlines()
        metadata["dependencies"] = [line for line in lines if line.strip() and not line.startswith("#")]
