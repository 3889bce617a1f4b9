"""How every process logs: one line per event to stderr, for people by default and as JSON where a collector reads it.

Nothing here looks for secrets: whoever logs must not log them.
"""

import json as json_module
import logging
import os
import sys
from datetime import UTC, datetime
from typing import Final

from loradock.core.errors import LoradockError

LEVEL_VARIABLE: Final = "LORADOCK_LOG_LEVEL"
LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR")

_CHATTY: Final = (
    "httpx",
    "httpcore",
    "botocore",
    "boto3",
    "urllib3",
    "s3transfer",
    "asyncio",
    "alembic.runtime",
)
"""Libraries whose INFO is about themselves: they are heard from WARNING up, unless the level is DEBUG."""


def configure_logging(process: str, json: bool = False) -> None:
    """Set up this process's logging; a second call replaces the first.

    Args:
        process: the process's name (`api`, `orchestrator`, `agent` …), on every line.
        json: one JSON object per line: `time` (ISO 8601, UTC), `level`, `process`, `logger`, `message`, `exception`.

    Raises:
        LoradockError: `setting_invalid` when LORADOCK_LOG_LEVEL is no level.
    """
    level = os.environ.get(LEVEL_VARIABLE, "").strip().upper() or "INFO"
    if level not in LEVELS:
        raise LoradockError("setting_invalid", f"{LEVEL_VARIABLE} is one of {', '.join(LEVELS)}")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter(process) if json else _LineFormatter(process))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    for name in _CHATTY:
        logging.getLogger(name).setLevel("DEBUG" if level == "DEBUG" else "WARNING")


class _LineFormatter(logging.Formatter):
    """`12:30:01.250 INFO  api api.server: ready`; the lines of a traceback follow as they are."""

    def __init__(self, process: str) -> None:
        name = process.replace("%", "%%")
        super().__init__(f"%(asctime)s.%(msecs)03d %(levelname)-7s {name} %(name)s: %(message)s", "%H:%M:%S")


class _JsonFormatter(logging.Formatter):
    """One JSON object per record, whatever the message holds."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json_module.dumps(line, ensure_ascii=False, default=str)
