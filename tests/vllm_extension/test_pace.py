"""How soon after one another loads may begin."""

from loradock_vllm.pace import LoadLimits, RecentLoads


def recent(*loads: tuple[float, float]) -> RecentLoads:
    """What is remembered after loads that began and ended at these moments."""
    found = RecentLoads()
    for begun, ended in loads:
        found.begin(begun)
        found.end(ended)
    return found


def test_without_limits_nothing_waits() -> None:
    assert LoadLimits().wait_seconds(recent((1.0, 2.0), (2.0, 3.0)), 3.0) == 0.0


def test_a_pause_begins_when_a_load_ends() -> None:
    limits = LoadLimits(pause_seconds=5.0)
    assert limits.wait_seconds(RecentLoads(), 100.0) == 0.0
    assert limits.wait_seconds(recent((100.0, 110.0)), 112.0) == 3.0
    assert limits.wait_seconds(recent((100.0, 110.0)), 115.0) == 0.0


def test_no_minute_has_more_loads_than_allowed() -> None:
    limits = LoadLimits(per_minute=2)
    assert limits.wait_seconds(recent((100.0, 101.0)), 102.0) == 0.0
    assert limits.wait_seconds(recent((100.0, 101.0), (110.0, 111.0)), 120.0) == 40.0
    assert limits.wait_seconds(recent((100.0, 101.0), (110.0, 111.0)), 160.0) == 0.0
    assert limits.wait_seconds(recent((100.0, 101.0), (110.0, 111.0), (160.5, 161.0)), 161.0) == 9.0


def test_only_the_last_minute_is_remembered() -> None:
    assert recent(*((float(second), float(second)) for second in range(0, 300, 10))).begun == [
        240.0, 250.0, 260.0, 270.0, 280.0, 290.0,
    ]  # fmt: skip


def test_the_longer_of_two_waits_counts() -> None:
    limits = LoadLimits(pause_seconds=50.0, per_minute=1)
    assert limits.wait_seconds(recent((100.0, 101.0)), 102.0) == 58.0
    assert limits.wait_seconds(recent((100.0, 130.0)), 131.0) == 49.0
