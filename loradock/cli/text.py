"""Values as people read them: ages, durations, sizes, names. What comes from outside is made printable first."""

from datetime import UTC, datetime
from typing import Final

_UNITS: Final = ("B", "kB", "MB", "GB", "TB")
_MINUTE, _HOUR, _DAY = 60.0, 3600.0, 86400.0


def clean(value: object) -> str:
    """Text that cannot steer the terminal: control characters become a mark, None nothing."""
    text = "" if value is None else str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


def size(count: object) -> str:
    """Bytes in a unit of 1000."""
    if not isinstance(count, int | float):
        return ""
    number = float(count)
    for unit in _UNITS:
        if number < 1000 or unit == _UNITS[-1]:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"
        number /= 1000
    raise AssertionError("the last unit takes everything")


def duration(seconds: float | None) -> str:
    """A length of time, as exact as its length deserves."""
    if seconds is None:
        return ""
    seconds = max(seconds, 0.0)
    if seconds < 10:
        return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
    for limit, length, unit in ((2 * _MINUTE, 1.0, "s"), (2 * _HOUR, _MINUTE, "min"), (2 * _DAY, _HOUR, "h")):
        if seconds < limit:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds // _DAY:.0f} d"


def moment(value: object) -> datetime | None:
    """A time of the API; None for anything else."""
    if not isinstance(value, str):
        return None
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def age(value: object, now: datetime | None = None) -> str:
    """How long ago a time of the API is: `12s`, `3m`, `5h`, `2d`."""
    at = moment(value)
    if at is None:
        return ""
    seconds = max(0.0, ((now or datetime.now(UTC)) - at).total_seconds())
    if seconds < _MINUTE:
        return f"{seconds:.0f}s"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE:.0f}m"
    if seconds < 2 * _DAY:
        return f"{seconds // _HOUR:.0f}h"
    return f"{seconds // _DAY:.0f}d"


def between(start: object, end: object, now: datetime | None = None) -> float | None:
    """Seconds from one time of the API to another, or until now while there is no end."""
    began, ended = moment(start), moment(end)
    if began is None:
        return None
    return ((ended or now or datetime.now(UTC)) - began).total_seconds()


def short_digest(value: object) -> str:
    """Enough of a digest to tell versions apart."""
    return clean(value)[: len("sha256:") + 12]


def target(document: dict[str, object]) -> str:
    """`adapter@version`, or the adapter alone where no version is known."""
    name, version = clean(document.get("adapter")), document.get("version")
    return f"{name}@{clean(version)}" if version else name
