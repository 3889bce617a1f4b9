"""Print pip's settings as exports for uv, which reads no pip configuration. Run with the Python whose pip is meant.

A setting that uv was given itself (UV_…) wins. Values may hold credentials: they are only ever printed for `eval`.
"""

import ast
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping


def pip_settings() -> dict[str, list[str]]:
    """What pip would use for `pip install`."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    return parse_settings(subprocess.run(command, capture_output=True, text=True, check=False).stdout)


def parse_settings(listing: str) -> dict[str, list[str]]:
    """The lines of `pip config list`: environment over [install] over [global]; lists are split at blanks, as pip does."""
    found: dict[str, dict[str, list[str]]] = {}
    for line in listing.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        try:
            found.setdefault(section, {})[name] = str(ast.literal_eval(value)).split()
        except (SyntaxError, ValueError):
            continue
    return {**found.get("global", {}), **found.get("install", {}), **found.get(":env:", {})}


def uv_settings(pip: Mapping[str, list[str]]) -> dict[str, str]:
    """The same for uv. As pip does, uv then takes the best match of all indexes; the locks' hashes keep that safe."""
    settings = {
        "UV_DEFAULT_INDEX": "".join(pip.get("index-url", [])[:1]),
        "UV_INDEX": " ".join(pip.get("extra-index-url", [])),
        "UV_FIND_LINKS": ",".join(pip.get("find-links", [])),
        "UV_INSECURE_HOST": " ".join(pip.get("trusted-host", [])),
        "SSL_CERT_FILE": "".join(pip.get("cert", [])[:1]),
        "ALL_PROXY": "".join(pip.get("proxy", [])[:1]),
    }
    if pip.get("no-index", ["false"])[0].lower() in {"1", "true", "yes", "on"}:
        settings["UV_NO_INDEX"] = "1"
    return {name: value for name, value in settings.items() if value}


if __name__ == "__main__":
    for variable, setting in uv_settings(pip_settings()).items():
        if not os.environ.get(variable):
            print(f"export {variable}={shlex.quote(setting)}")  # noqa: T201
