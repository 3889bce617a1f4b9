"""`loradock plan`, and the load that does just that."""

from collections.abc import Callable

from loradock.cli.failures import ExitCode
from tests.cli.conftest import FakeApi, Ran, Reply, operation

Cli = Callable[..., Ran]

ETAG = "0f343b0931126a20f133d67c2b018a3b"
VERDICT = {
    "engine": "e0", "action": "load", "reason": "score", "message": "its score is among the highest",
    "free_slots": 3, "usable_slots": 4, "cached": False, "score": 1.25, "download_bytes": 2_000_000,
}  # fmt: skip
PLAN = {
    "adapter": "greeter", "version": 1, "pool": "default", "etag": ETAG, "error": None, "download_bytes": 2_000_000,
    "engines": [
        VERDICT,
        {**VERDICT, "engine": "e1", "action": "none", "reason": "no_free_slot", "message": "all 4 usable slots taken",
         "free_slots": 0, "cached": None, "download_bytes": None},
    ],
}  # fmt: skip


def test_a_plan_shows_each_engine_with_why_and_the_etag(cli: Cli, api: FakeApi) -> None:
    api.on("POST", "/v1/adapters/greeter/load/plan", Reply(PLAN))
    ran = cli("plan", "greeter@stable", "--replicas", "1", "--label", "zone=a", "--label", "gpu=x")
    assert ran.code == ExitCode.OK
    assert api.seen[0].body == {
        "version": "stable", "labels": {"zone": "a", "gpu": "x"}, "replicas": 1, "policy": "all",
    }  # fmt: skip
    assert ran.out.splitlines()[1].split()[:6] == ["e0", "load", "3/4", "no", "2.0", "MB"]
    assert "all 4 usable slots taken" in ran.out
    assert "greeter@1 in default: 1 to load, 0 serving already, 2.0 MB to fetch" in ran.out
    assert ran.out.splitlines()[-1] == f"etag {ETAG}"


def test_a_plan_that_would_be_refused_says_so_instead_of_its_etag(cli: Cli, api: FakeApi) -> None:
    error = {"code": "no_free_slot", "message": "engine e1 is full", "details": {}}
    api.on("POST", "/v1/adapters/greeter/load/plan", Reply({**PLAN, "error": error}))
    ran = cli("plan", "greeter@1")
    assert ran.out.splitlines()[-1] == "refused: no_free_slot: engine e1 is full"
    assert cli("plan", "greeter@1", "--json").json["error"] == error


def test_a_load_names_its_plan(cli: Cli, api: FakeApi) -> None:
    api.on("POST", "/v1/adapters/greeter/load", Reply(operation("succeeded")))
    for given in (ETAG, f'"{ETAG}"'):
        assert cli("load", "greeter@1", "--replicas", "all", "--plan", given).code == ExitCode.OK
    assert [seen.headers["if-match"] for seen in api.seen] == [f'"{ETAG}"'] * 2
    assert api.seen[0].body == {"version": 1, "replicas": "all", "policy": "all"}


def test_what_cannot_be_meant_is_a_usage_error(cli: Cli) -> None:
    for options in (("--replicas", "some"), ("--replicas", "0"), ("--label", "zone")):
        assert cli("plan", "greeter@1", *options).code == ExitCode.USAGE
    assert cli("plan", "greeter").code == ExitCode.USAGE
