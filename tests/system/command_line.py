"""`loradock …` as a person runs it."""

import json
import subprocess
import sys
from typing import Any

from tests.dev.processes import environment
from tests.system.running import IMPORTS, RunningStack


class Cli:
    """`loradock …` in a process of its own, told where the API is by the environment."""

    def __init__(self, stack: RunningStack) -> None:
        self._info = stack.stack.info
        self._folder = stack.stack.options.project

    def run(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        told = {
            "LORADOCK_API_URL": self._info.api,
            "LORADOCK_API_TOKEN": self._info.token,
            "PYTHONPATH": IMPORTS,
            "COLUMNS": "160",
            **env,
        }
        command = [sys.executable, "-m", "loradock", *arguments]
        return subprocess.run(
            command,
            env=environment(**told),
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def ok(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout

    def json(self, *arguments: str, code: int = 0) -> Any:
        done = self.run(*arguments, "--json")
        assert done.returncode == code, done.stderr
        document = json.loads(done.stdout)
        if code:
            assert f"[{document.get('code') or document['error']['code']}]" in done.stderr
        return document
