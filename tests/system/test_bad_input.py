"""What must be refused, each with its own code, and nothing half done."""

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.artifacts.samples import make_adapter, raw_safetensors
from tests.system.command_line import Cli
from tests.system.conftest import MakeAdapter
from tests.system.running import RunningStack, source

pytestmark = pytest.mark.slow

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


# ---- addresses


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("ftp://host/folder", "unsupported_scheme"),
        ("http://host/folder", "unsupported_scheme"),
        ("javascript:alert(1)", "unsupported_scheme"),
        ("", "invalid_source_uri"),
        ("greeter", "invalid_source_uri"),
        ("/srv/greeter", "invalid_source_uri"),
        ("file://srv/greeter", "invalid_source_uri"),
        ("file:///srv/../etc", "invalid_source_uri"),
        ("file:///srv/%2e%2e/etc", "invalid_source_uri"),
        ("file:///", "invalid_source_uri"),
        ("s3://", "invalid_source_uri"),
        ("s3:///prefix", "invalid_source_uri"),
        ("s3://Bu_cket/prefix", "invalid_source_uri"),
        ("s3://bucket/a/../b", "invalid_source_uri"),
        ("s3://bucket/prefix?versionId=1", "invalid_source_uri"),
        ("s3://[/prefix", "invalid_source_uri"),
        ("file:///" + "a" * 3000, "invalid_request"),
    ],
)
def test_an_address_that_cannot_be_one_is_refused_at_once(
    untouched: RunningStack, name: str, uri: str, code: str
) -> None:
    problem = untouched.refuse("POST", f"/v1/adapters/{name}/versions", {"source": {"uri": uri}})
    assert (problem["status"], problem["code"]) == (422, code)
    assert untouched.refuse("GET", f"/v1/adapters/{name}")["code"] == "adapter_not_found"
    assert untouched.items(f"/v1/operations?adapter={name}") == []


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("s3://AKIAIOSFODNN7:{secret}@bucket/prefix", "invalid_source_uri"),
        ("s3://{secret}@bucket/prefix", "invalid_source_uri"),
        ("https://user:{secret}@host/folder", "invalid_source_uri"),
        ("s3://bucket/prefix?X-Amz-Signature={secret}", "invalid_source_uri"),
        ("s3://bucket/prefix#{secret}", "invalid_source_uri"),
        ("s3://user:{secret}@[bucket/prefix", "invalid_source_uri"),
        ("file://user:{secret}@localhost/tmp", "invalid_source_uri"),
    ],
)
def test_credentials_in_an_address_are_refused_and_never_echoed(
    untouched: RunningStack, name: str, uri: str, code: str
) -> None:
    secret = f"sk{time.monotonic_ns()}leaked"
    untouched.poison.add(secret)  # test_secrets looks through histories and logs of all processes
    answer = untouched.request(
        "POST", f"/v1/adapters/{name}/versions", {"source": {"uri": uri.format(secret=secret)}}
    )
    assert (answer.status_code, answer.json()["code"]) == (422, code)
    assert secret not in answer.text
    assert not [log.name for log in untouched.logs.iterdir() if secret in log.read_text(errors="replace")]
    assert not any(secret in str(row) for row in untouched.rows("SELECT detail::text FROM audit_events"))
    assert not any(secret in str(row) for row in untouched.rows("SELECT request::text FROM operations"))


# ---- sources and artifacts


def without_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def without_config(folder: Path) -> None:
    (folder / CONFIG).unlink()


def empty_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def gone(folder: Path) -> None:
    shutil.rmtree(folder)


def a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("a file")


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")


def corrupt(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[:8] = b"\xff" * 8
    (folder / WEIGHTS).write_bytes(content)


def corrupt_header(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(raw_safetensors(b"{ this is no JSON"))


def truncated(folder: Path) -> None:
    with (folder / WEIGHTS).open("r+b") as file:
        file.truncate((folder / WEIGHTS).stat().st_size - 1000)


def empty_weights(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")


def config_no_json(folder: Path) -> None:
    (folder / CONFIG).write_text("r = 8")


def config_of_another_method(folder: Path) -> None:
    change_config(folder, peft_type="PROMPT_TUNING")


def with_dora(folder: Path) -> None:
    change_config(folder, use_dora=True)


def rank_not_that_of_the_weights(folder: Path) -> None:
    change_config(folder, r=4)


def a_link_that_leads_out(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to("/etc/hostname")


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | changes))


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (gone, "source_not_found"),
        (a_file, "source_not_found"),
        (empty_folder, "weights_missing"),
        (without_weights, "weights_missing"),
        (without_config, "config_missing"),
        (pickled, "pickle_refused"),
        (corrupt, "weights_corrupt"),
        (corrupt_header, "weights_corrupt"),
        (truncated, "weights_corrupt"),
        (empty_weights, "weights_corrupt"),
        (config_no_json, "config_invalid"),
        (config_of_another_method, "config_invalid"),
        (with_dora, "adapter_not_supported"),
        (rank_not_that_of_the_weights, "config_invalid"),
        (a_link_that_leads_out, "source_not_allowed"),
    ],
)
def test_a_source_that_is_no_adapter_fails_with_its_own_code_and_leaves_nothing(
    stack: RunningStack, make: MakeAdapter, name: str, spoil: Callable[[Path], None], code: str
) -> None:
    folder = make()
    spoil(folder)
    check_failed_publish(stack, name, {"source": source(folder)}, code)
    # The name is free, and the same operation with sound weights is version 1.
    again = make("sound")
    assert stack.publish(name, again)["version"] == 1


def test_a_pickle_beside_the_weights_is_left_where_it_is(
    stack: RunningStack, make: MakeAdapter, name: str
) -> None:
    folder = make()
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04.")
    stack.publish(name, folder)
    manifest = stack.get(f"/v1/adapters/{name}/versions/1")["manifest"]
    assert {file["path"] for file in manifest["files"]} == {CONFIG, WEIGHTS}
    assert manifest["left_out"] == ["adapter_model.bin"]
    assert not [key for key in stack.objects() if key.endswith(".bin")]


def check_failed_publish(stack: RunningStack, name: str, body: object, code: str) -> dict[str, Any]:
    before = stack.snapshot()
    done = stack.run(f"/v1/adapters/{name}/versions", body)
    assert (done["state"], done["error"]["code"]) == ("failed", code), done
    assert done["error"]["message"]
    assert not done["repairs_pending"]
    assert done["result"] is None
    assert stack.audited(done["id"]) == [("operation.requested", "ok"), ("publish.failed", code)]
    assert stack.items(f"/v1/adapters/{name}/versions") == []
    assert stack.snapshot() == before
    return done


@pytest.fixture
def outside() -> Iterator[Path]:
    """A folder that is below none of the allowed roots."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="loradock-outside-"))
    yield folder
    shutil.rmtree(folder)


def test_a_folder_outside_of_the_allowed_roots_is_refused(
    stack: RunningStack, name: str, outside: Path
) -> None:
    make_adapter(outside / "adapter")
    check_failed_publish(stack, name, {"source": source(outside / "adapter")}, "source_not_allowed")


def test_a_missing_folder_outside_of_the_allowed_roots_is_not_told_from_one_that_is_there(
    stack: RunningStack, name: str, outside: Path
) -> None:
    check_failed_publish(stack, name, {"source": source(outside / "none")}, "source_not_allowed")


def test_a_link_out_of_the_allowed_roots_is_refused(
    stack: RunningStack, name: str, outside: Path, tmp_path: Path
) -> None:
    make_adapter(outside / "adapter")
    (tmp_path / "link").symlink_to(outside / "adapter")
    check_failed_publish(stack, name, {"source": source(tmp_path / "link")}, "source_not_allowed")


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("s3://another-bucket/greeter", "source_not_allowed"),
        ("s3://sources/nothing/here", "source_not_found"),
    ],
)
def test_a_bucket_that_is_not_allowed_and_a_prefix_that_is_not_there(
    stack: RunningStack, name: str, uri: str, code: str
) -> None:
    check_failed_publish(stack, name, {"source": {"uri": uri}}, code)


def test_another_digest_than_the_expected_one_publishes_nothing(
    stack: RunningStack, make: MakeAdapter, name: str
) -> None:
    expected = "sha256:" + "0" * 64
    body = {"source": source(make()), "expect_digest": expected}
    done = check_failed_publish(stack, name, body, "digest_mismatch")
    assert expected in done["error"]["message"]


def test_the_expected_digest_is_published(stack: RunningStack, make: MakeAdapter, name: str) -> None:
    folder = make()
    first = stack.publish(name, folder)
    again = stack.publish(f"{name}-again", folder, expect_digest=first["result"]["digest"])
    assert again["result"]["digest"] == first["result"]["digest"]


def test_the_same_weights_twice_are_the_same_version(
    stack: RunningStack, make: MakeAdapter, name: str
) -> None:
    folder = make()
    first = stack.publish(name, folder)
    assert (first["version"], first["result"]["already_published"]) == (1, False)
    before = stack.snapshot()
    shutil.copytree(folder, folder.with_name("copy"))
    stack.s3.upload_file(str(folder / WEIGHTS), "sources", f"{name}/{WEIGHTS}")
    stack.s3.upload_file(str(folder / CONFIG), "sources", f"{name}/{CONFIG}")
    for uri in (folder.as_uri(), folder.with_name("copy").as_uri(), f"s3://sources/{name}"):
        again = stack.succeed(f"/v1/adapters/{name}/versions", {"source": {"uri": uri}})
        assert again["id"] != first["id"]
        assert (again["version"], again["result"]["already_published"]) == (1, True)
        assert again["result"]["digest"] == first["result"]["digest"]
    assert stack.snapshot() == before
    assert stack.publish(name, make("other"))["version"] == 2


def test_another_base_model_than_the_earlier_versions(
    stack: RunningStack, make: MakeAdapter, name: str
) -> None:
    stack.publish(name, make())
    before = stack.snapshot()
    body = {"source": source(make("other")), "base_model": "another"}
    problem = stack.refuse("POST", f"/v1/adapters/{name}/versions", body)
    assert (problem["status"], problem["code"]) == (422, "base_model_mismatch")
    assert stack.snapshot() == before


# ---- names, and what is not there

BAD_NAMES = (
    "-greeter", ".greeter", "_greeter", "a b", "a@1", "a+b", "grüßer", "a" * 64, "a/b/c", "/a", "a//b", "versions",
    "org/load", "..", "a\n", "%00", "a;b", "<script>", "A" * 500,
)  # fmt: skip


@pytest.mark.parametrize("bad", BAD_NAMES)
def test_a_name_that_breaks_the_rule(untouched: RunningStack, make: MakeAdapter, bad: str) -> None:
    body = {"source": source(make())}
    problem = untouched.refuse("POST", f"/v1/adapters/{quote(bad, safe='')}/versions", body)
    assert (problem["status"], problem["code"]) in {(422, "invalid_name"), (404, "not_found")}
    assert untouched.rows("SELECT name FROM adapters WHERE name = %s", bad.replace("%00", "")) == []


@pytest.mark.parametrize("bad", ["-greeter", "a b", "versions"])
def test_the_cli_tells_of_a_bad_name(untouched: RunningStack, make: MakeAdapter, bad: str) -> None:
    done = Cli(untouched).run("publish", "--", bad, str(make()))
    assert done.returncode in (2, 4)
    assert "invalid_name" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/v1/adapters/nobody", None, 404, "adapter_not_found"),
        ("GET", "/v1/adapters/nobody/versions", None, 404, "adapter_not_found"),
        ("POST", "/v1/adapters/nobody/load", {"version": 1}, 404, "adapter_not_found"),
        ("POST", "/v1/adapters/nobody/unload", {}, 404, "adapter_not_found"),
        ("GET", "/v1/adapters/{name}/versions/9", None, 404, "version_not_found"),
        ("POST", "/v1/adapters/{name}/load", {"version": 9}, 404, "version_not_found"),
        ("POST", "/v1/adapters/{name}/unload", {"version": 9}, 404, "version_not_found"),
        ("POST", "/v1/adapters/{name}/load", {"version": "stable"}, 404, "alias_not_found"),
        ("POST", "/v1/adapters/{name}/load", {"version": 1, "engines": ["e9"]}, 404, "engine_not_found"),
        ("POST", "/v1/adapters/{name}/load", {"version": 1, "pool": "p9"}, 404, "pool_not_found"),
        ("POST", "/v1/adapters/{name}/unload", {"pool": "p9"}, 404, "pool_not_found"),
        ("POST", "/v1/adapters/{name}/unload", {"engines": ["e9"]}, 404, "engine_not_found"),
        ("POST", "/v1/adapters/{name}/unload", {}, 409, "version_not_loaded"),
        ("POST", "/v1/adapters/{name}/load", {"version": 0}, 422, "invalid_request"),
        ("POST", "/v1/adapters/{name}/load", {"version": 1, "polcy": "all"}, 422, "invalid_request"),
        ("POST", "/v1/adapters/{name}/load", {"version": 1, "pool": "-"}, 422, "invalid_name"),
        ("POST", "/v1/adapters/{name}/load", {}, 422, "invalid_request"),
        ("GET", "/v1/engines/e9", None, 404, "engine_not_found"),
        ("GET", "/v1/operations/op-nothing", None, 404, "operation_not_found"),
        ("GET", "/v1/operations/op-nothing/events", None, 404, "operation_not_found"),
        ("POST", "/v1/operations/op-nothing/abort", None, 404, "operation_not_found"),
        ("GET", "/v1/nothing", None, 404, "not_found"),
        ("DELETE", "/v1/engines", None, 405, "method_not_allowed"),
    ],
)
def test_what_is_not_there(
    untouched: RunningStack, published: str, method: str, path: str, body: object, status: int, code: str
) -> None:
    problem = untouched.refuse(method, path.format(name=published), body)
    assert (problem["status"], problem["code"]) == (status, code)


@pytest.fixture(scope="module")
def published(session_stack: RunningStack, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An adapter with one version that is not loaded."""
    session_stack.publish("known", make_adapter(tmp_path_factory.mktemp("known")))
    return "known"


def test_a_rank_above_the_engines_is_refused_before_anything_starts(
    stack: RunningStack, make: MakeAdapter, name: str
) -> None:
    stack.publish(name, make(rank=32))
    before = stack.snapshot()
    for policy in ("all", "best_effort"):
        problem = stack.refuse("POST", f"/v1/adapters/{name}/load", {"version": 1, "policy": policy})
        assert (problem["status"], problem["code"]) == (422, "rank_too_high")
        assert (problem["rank"], problem["max_lora_rank"]) == (32, 16)
    assert stack.snapshot() == before
    assert [one["kind"] for one in stack.items(f"/v1/operations?adapter={name}")] == ["publish"]


def test_a_version_for_another_width_fails_in_the_engine_and_leaves_nothing(
    stack: RunningStack, name: str, tmp_path: Path
) -> None:
    stack.publish(name, make_adapter(tmp_path / "wide", hidden=256))
    before = stack.snapshot()
    done = stack.run(f"/v1/adapters/{name}/load", {"version": 1})
    assert (done["state"], done["error"]["code"]) == ("failed", "wrong_base_model")
    assert stack.audited(done["id"]) == [
        ("operation.requested", "ok"),
        ("load.failed", "wrong_base_model"),
    ]
    after = stack.snapshot()
    assert (after.engines, after.cards, after.versions) == (before.engines, before.cards, before.versions)
    assert not [path for path in after.cached if ".leases/" in path]


def test_more_versions_than_slots(stack: RunningStack, make: MakeAdapter, name: str) -> None:
    slots = stack.engine_state("engine-1")["usable_slots"]
    for number in range(1, slots + 2):
        stack.publish(name, make(f"v{number}"))
    for number in range(1, slots + 1):
        stack.load(name, number)
    before = stack.snapshot()
    body = {"version": slots + 1}
    answer = stack.request("POST", f"/v1/adapters/{name}/load", body)
    if answer.status_code == 202:  # the agents' last word on free slots may be older than the last load
        done = stack.ended(answer.json()["id"])
        assert (done["state"], done["error"]["code"]) == ("failed", "no_free_slot")
    else:
        assert (answer.status_code, answer.json()["code"]) == (409, "no_free_slot")
    after = stack.snapshot()
    assert (after.engines, after.cards) == (before.engines, before.cards)


# ---- who asks

LOAD = "/v1/adapters/greeter/load"


@pytest.mark.parametrize(
    "authorization", [None, "Bearer wrong", "Bearer", "Basic {token}", "{token}", "Bearer {token}x"]
)
def test_no_token_or_a_wrong_one(untouched: RunningStack, authorization: str | None) -> None:
    shown = authorization and authorization.format(token=untouched.stack.info.token)
    for method, path in (
        ("GET", "/v1/adapters"),
        ("POST", LOAD),
        ("GET", "/v1/nothing"),
        ("GET", "/metrics"),
    ):
        problem = untouched.refuse(method, path, authorization=shown)
        assert (problem["status"], problem["code"]) == (401, "unauthorized")


def test_neither_token_is_good_for_the_others_calls(untouched: RunningStack) -> None:
    agent = f"Bearer {untouched.secret('agent-token')}"
    assert untouched.refuse("GET", "/v1/adapters", authorization=agent)["code"] == "forbidden"
    assert untouched.refuse("POST", LOAD, {"version": 1}, authorization=agent)["code"] == "forbidden"
    lease = untouched.refuse("PUT", "/v1/agents/agent-1/lease", {})
    assert (lease["status"], lease["code"]) == (403, "forbidden")


@pytest.mark.parametrize("authorization", [None, "Bearer wrong-token-of-some-length"])
def test_an_engine_tells_nothing_without_its_own_token(
    untouched: RunningStack, authorization: str | None
) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    for method, path in (("GET", "state"), ("POST", "load"), ("POST", "unload"), ("POST", "drain")):
        answer = httpx.request(
            method, f"{untouched.engine_url('engine-1')}/loradock/v1/{path}", headers=headers
        )
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
