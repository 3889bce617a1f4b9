"""Values as people read them."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loradock.cli import text

NOW = datetime(2026, 1, 2, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (135_400, "135 kB"),
        (84_000_000, "84.0 MB"),
        (5e15, "5000 TB"),
        ("x", ""),
    ],
)
def test_sizes(count: object, shown: str) -> None:
    assert text.size(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, ""), (-1, "0 ms"), (0.012, "12 ms"), (1.54, "1.5 s"), (42, "42 s"), (119, "119 s"), (120, "2 min"),
        (7199, "119 min"), (7200, "2 h"), (86400 * 3, "3 d"),
    ],
)  # fmt: skip
def test_durations(seconds: float | None, shown: str) -> None:
    assert text.duration(seconds) == shown


@pytest.mark.parametrize(
    ("at", "shown"),
    [
        ("2026-01-02T11:59:48Z", "12s"), ("2026-01-02T11:57:00+00:00", "3m"), ("2026-01-02T09:00:00Z", "3h"),
        ("2025-12-30T12:00:00Z", "3d"), ("2026-01-02T13:00:00+02:00", "1h"), ("2026-01-03T12:00:00Z", "0s"),
        ("never", ""), (None, ""),
    ],
)  # fmt: skip
def test_ages(at: object, shown: str) -> None:
    assert text.age(at, NOW) == shown


@given(st.text())
def test_clean_text_is_printable_and_as_long(given_text: str) -> None:
    cleaned = text.clean(given_text)
    assert cleaned.isprintable()
    assert len(cleaned) == len(given_text)
