"""What publish, load, unload and alias send, and how they show it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loradock.cli.failures import ExitCode
from tests.artifacts.samples import make_adapter
from tests.cli.conftest import TOKEN, FakeApi, Ran, Reply, Seen, operation, problem

Cli = Callable[..., Ran]

UPLOADED = {"uri": "upload://up-1", "state": "complete", "stored": False}
DIGEST = "sha256:" + "9f" * 32


def published(**further: object) -> Reply:
    result = {"version": 3, "digest": DIGEST, "already_published": False, **further}
    return Reply(operation("succeeded", kind="publish", version=3, pool=None, result=result))


def test_with_no_upload_a_folder_is_its_absolute_address_for_the_orchestrator(
    cli: Cli, api: FakeApi, elsewhere: Path
) -> None:
    (elsewhere / "my weights").mkdir()
    api.on("POST", "/v1/adapters/acme/greeter/versions", published())
    ran = cli("publish", "acme/greeter", "my weights", "--no-upload")
    assert ran.code == ExitCode.OK
    assert api.seen[0].body == {"source": {"uri": (elsewhere / "my weights").as_uri()}, "labels": {}}
    assert api.seen[0].headers["authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize("transfer", ["stream", "parts"])
def test_a_folder_is_uploaded_and_only_what_is_missing_is_sent(
    cli: Cli, api: FakeApi, elsewhere: Path, transfer: str
) -> None:
    make_adapter(elsewhere / "weights")
    opened: list[dict[str, Any]] = []

    def open_upload(seen: Seen) -> Reply:
        files = [
            {**file, "received": 0, "complete": False, "part_bytes": 1000, "parts": []}
            for file in seen.body["files"]
        ]
        files[0] |= {"received": files[0]["size"], "complete": True}
        upload = {
            "id": "up-1",
            "uri": "upload://up-1",
            "state": "open",
            "stored": False,
            "transfer": transfer,
            "files": files,
        }
        opened.append(upload)
        return Reply(upload, 201)

    def addresses(seen: Seen) -> Reply:
        numbers = seen.body["parts"]
        return Reply(
            {
                "parts": [
                    {"number": n, "url": f"{api.url}/store/{seen.path[-7]}/{n}", "size": 1} for n in numbers
                ]
            }
        )

    api.on("POST", "/v1/adapters/greeter/uploads", open_upload)
    for index in (1, 2):
        api.on("PUT", f"/v1/uploads/up-1/files/{index}", Reply({"received": 1}))
        api.on("POST", f"/v1/uploads/up-1/files/{index}/parts", addresses)
        for number in range(1, 200):
            api.on("PUT", f"/store/{index}/{number}", Reply({}))
    api.on("POST", "/v1/uploads/up-1/complete", Reply({**UPLOADED, "id": "up-1"}))
    api.on("POST", "/v1/adapters/greeter/versions", published())
    ran = cli("publish", "greeter", "weights")
    assert ran.code == ExitCode.OK, ran.err
    (upload,) = opened
    assert {file["path"] for file in upload["files"]} == {
        path.name for path in (elsewhere / "weights").iterdir()
    }
    puts = [seen for seen in api.seen if seen.method == "PUT"]
    for index, file in enumerate(upload["files"]):
        data = (elsewhere / "weights" / file["path"]).read_bytes()
        mine = [
            seen
            for seen in puts
            if f"/{index}" in seen.path.rpartition("/")[0] or seen.path.endswith(f"files/{index}")
        ]
        if transfer == "parts":
            mine.sort(key=lambda seen: int(seen.path.rpartition("/")[2]))
        assert b"".join(seen.body for seen in mine) == (b"" if index == 0 else data)
    # The token is the API's alone.
    assert all(("authorization" in seen.headers) == seen.path.startswith("/v1/") for seen in api.seen)
    assert api.seen[-1].body == {"source": {"uri": "upload://up-1"}, "labels": {}}


def test_publish_sends_all_that_was_given_and_tells_version_and_digest(cli: Cli, api: FakeApi) -> None:
    api.on("POST", "/v1/adapters/greeter/versions", published())
    options = ("--base-model", "tiny", "--expect-digest", DIGEST, "--label", "run=7", "--label", "note=a=b")
    ran = cli("publish", "greeter", "s3://bucket/p", *options, "--idempotency-key", "key-1")
    assert api.seen[0].body == {
        "source": {"uri": "s3://bucket/p"},
        "base_model": "tiny",
        "expect_digest": DIGEST,
        "labels": {"run": "7", "note": "a=b"},
    }
    assert api.seen[0].headers["idempotency-key"] == "key-1"
    assert ran.out == f"greeter@3 published\n  {DIGEST}\n"


def test_publishing_known_weights_says_so(cli: Cli, api: FakeApi) -> None:
    api.on("POST", "/v1/adapters/greeter/versions", published(already_published=True))
    assert "greeter@3 was already published" in cli("publish", "greeter", "s3://b/p").out


@pytest.mark.parametrize("named", [("greeter@2",), ("greeter", "2")])
def test_load_takes_the_version_with_the_name_or_apart(
    cli: Cli, api: FakeApi, named: tuple[str, ...]
) -> None:
    api.on("POST", "/v1/adapters/greeter/load", Reply(operation("succeeded", version=2)))
    assert cli("load", *named).code == ExitCode.OK
    assert api.seen[0].body == {"version": 2, "policy": "all"}


def test_load_takes_an_alias_and_all_options(cli: Cli, api: FakeApi) -> None:
    result = {"engines": ["e0"], "failed_engines": {"e1": "no_free_slot"}}
    api.on("POST", "/v1/adapters/greeter/load", Reply(operation("succeeded", version=2, result=result)))
    options = (
        "--pool",
        "p",
        "--engine",
        "e0",
        "--engine",
        "e1",
        "--policy",
        "best_effort",
        "--min-ready",
        "1",
    )
    ran = cli("load", "greeter@stable", *options)
    assert api.seen[0].body == {
        "version": "stable", "pool": "p", "engines": ["e0", "e1"], "policy": "best_effort", "min_ready": 1,
    }  # fmt: skip
    assert ran.out.splitlines() == ["greeter@2 is served by e0", "  not on e1: no_free_slot"]


def test_unload_sends_only_what_was_given(cli: Cli, api: FakeApi) -> None:
    ended = operation("succeeded", kind="unload", version=None, result={"engines": ["e0", "e1"]})
    api.on("POST", "/v1/adapters/greeter/unload", Reply(ended))
    assert cli("unload", "greeter").out == "greeter unloaded from e0, e1\n"
    cli("unload", "greeter@4", "--drain", "1m", "--force", "--pool", "p", "--engine", "e0")
    assert [seen.body for seen in api.seen] == [
        {},
        {"version": 4, "drain": 60.0, "force": True, "pool": "p", "engines": ["e0"]},
    ]


def test_alias_points_at_a_version(cli: Cli, api: FakeApi) -> None:
    api.on("PUT", "/v1/adapters/greeter/aliases/stable", Reply({"alias": "stable", "version": 2}))
    assert cli("alias", "greeter", "stable", "2").out == "greeter@stable is version 2\n"
    assert api.seen[0].body == {"version": 2}


def test_every_change_has_a_key_of_its_own(cli: Cli, api: FakeApi) -> None:
    api.on("POST", "/v1/adapters/greeter/load", Reply(operation("succeeded")))
    cli("load", "greeter@1")
    cli("load", "greeter@1")
    first, second = (seen.headers["idempotency-key"] for seen in api.seen)
    assert first != second


def test_no_wait_gives_the_id_at_once_and_says_how_to_follow(cli: Cli, api: FakeApi) -> None:
    api.on("POST", "/v1/adapters/greeter/load", Reply(operation("pending"), 202))
    ran = cli("load", "greeter@1", "--no-wait")
    assert (ran.code, ran.out) == (ExitCode.OK, "op-1\n")
    assert "loradock ops wait op-1" in ran.err
    assert len(api.seen) == 1


def test_json_is_what_the_api_gave(cli: Cli, api: FakeApi) -> None:
    api.on("POST", "/v1/adapters/greeter/load", Reply(operation("pending"), 202))
    assert cli("load", "greeter@1", "--no-wait", "--json").json == operation("pending")


def test_a_retry_is_followed_and_tells_its_place_in_the_queue(cli: Cli, api: FakeApi) -> None:
    waits = {**operation("pending"), "queue_position": 3}
    api.on("POST", "/v1/operations/op-0/retry", Reply(waits, 202))
    api.on(
        "GET", "/v1/operations/op-1", [Reply({**waits, "queue_position": 1}), Reply(operation("succeeded"))]
    )
    ran = cli("ops", "retry", "op-0", "--timeout", "15s", "--idempotency-key", "again")
    assert ran.code == ExitCode.OK
    assert api.seen[0].headers["idempotency-key"] == "again"
    told = [line for line in ran.err.splitlines() if "queue" in line]
    assert [line.partition(": ")[2] for line in told] == [
        "pending, number 3 in the queue (op-1)",
        "pending, number 1 in the queue (op-1)",
    ]


def test_an_engine_is_removed_and_what_was_wanted_there_alone_is_told(cli: Cli, api: FakeApi) -> None:
    removed = {
        "id": "e1", "pool": "default", "agent": "host-1", "agent_removed": True, "cards": ["greeter@1"],
        "unwanted": ["greeter@2"],
    }  # fmt: skip
    api.on("DELETE", "/v1/engines/e1", Reply(removed))
    ran = cli("engines", "remove", "e1")
    assert ran.code == ExitCode.OK
    assert ran.out.splitlines() == [
        "e1 is removed, and its agent host-1",
        "greeter@2 was wanted there alone: it is wanted nowhere in its pool now",
    ]
    assert cli("engines", "remove", "e1", "--json").json == removed
    api.on(
        "DELETE", "/v1/engines/e1", Reply(problem("engine_in_use", 409, "its agent renews its lease"), 409)
    )
    assert cli("engines", "remove", "e1").code == ExitCode.REFUSED


def test_engines_without_a_word_shows_their_drift(cli: Cli, api: FakeApi) -> None:
    api.on("GET", "/v1/engines", Reply({"items": [], "next": None}))
    assert "no engines" in cli("engines").out
    assert cli("engines", "--pool", "other").code == ExitCode.OK
    assert api.seen[-1].query["pool"] == "other"


@pytest.mark.parametrize(
    "words",
    [
        ("show", ".."),
        ("show", "greeter@.."),
        ("show", "../operations/op-1"),
        ("load", "../../v1/adapters/other@1"),
        ("alias", "greeter", "..", "1"),
        ("ops", "abort", ".."),
        ("ops", "show", "."),
        ("engines", "remove", ".."),
    ],
)
def test_dots_lead_to_no_other_call(cli: Cli, api: FakeApi, words: tuple[str, ...]) -> None:
    ran = cli(*words)
    assert (ran.code, api.seen) == (ExitCode.USAGE, [])
    assert "is no name" in ran.err
