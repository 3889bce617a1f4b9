"""Lists and pages: what is asked for, and what people and programs get to see."""

from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from loradock.cli.failures import ExitCode
from loradock.cli.progress import steps_table
from loradock.cli.render import Column, print_table
from loradock.core.promises import PROMISED, EnginePromise
from tests.cli.conftest import FakeApi, Ran, Reply, operation, problem, step

Cli = Callable[..., Ran]

DIGEST = "sha256:" + "9f" * 32


def version(number: int, **further: Any) -> dict[str, Any]:
    return {
        "adapter": "greeter", "version": number, "served_name": f"greeter@{number}", "digest": DIGEST,
        "state": "ready", "rank": 8, "dtype": "F32", "target_modules": ["q_proj"], "size": 1_234_567,
        "source_uri": "file:///x", "artifact_uri": "s3://b/x", "labels": {"run": "7"}, "manifest": {"files": []},
        "traits": {"alpha": 16.0}, "failure": None, "operation": "op-1", "created_at": "2026-01-01T00:00:00Z",
        "created_by": "operator", **further,
    }  # fmt: skip


def adapter(*versions: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "greeter", "base_model": "tiny", "latest_version": 1, "created_at": "2026-01-01T00:00:00Z",
        "created_by": "operator", "versions": list(versions),
        "aliases": [{"adapter": "greeter", "alias": "stable", "version": 1}],
        "deployments": [{"pool": "default", "revision": 3, "versions": [{"version": 1, "weight": 100}]}],
    }  # fmt: skip


def card(engine: str, number: int, state: str = "serving") -> dict[str, Any]:
    return {
        "engine": engine, "adapter": "greeter", "version": number, "served_name": f"greeter@{number}",
        "state": state, "digest": DIGEST, "pool": "default", "since": "2026-01-01T00:00:00Z", "operation": "op-1",
    }  # fmt: skip


def pages(*names: list[str]) -> list[Reply]:
    documents = [[{"name": name, "latest_version": 1} for name in part] for part in names]
    last = len(documents) - 1
    return [Reply({"items": part, "next": f"c{n}" if n < last else None}) for n, part in enumerate(documents)]


def test_ls_goes_through_all_pages_and_json_is_one_document(cli: Cli, api: FakeApi) -> None:
    api.on("GET", "/v1/adapters", pages(["a", "b"], ["c"]))
    ran = cli("ls", "--json")
    assert [item["name"] for item in ran.json["items"]] == ["a", "b", "c"]
    assert ran.json["next"] is None
    assert api.seen[1].query["cursor"] == "c0"


def test_a_limit_stops_and_says_that_there_is_more(cli: Cli, api: FakeApi) -> None:
    api.on("GET", "/v1/adapters", pages(["a", "b"], ["c"]))
    ran = cli("ls", "--limit", "2")
    assert len(api.seen) == 1
    assert "there are more" in ran.err
    assert api.seen[0].query["limit"] == "2"


def test_what_a_pipe_gets_is_never_cut(cli: Cli, api: FakeApi) -> None:
    name = "o" * 63 + "/" + "a" * 63
    base = "m" * 400
    items = [{"name": name, "latest_version": 1, "base_model": base}]
    api.on("GET", "/v1/adapters", Reply({"items": items, "next": None}))
    line = cli("ls").out.splitlines()[1]
    assert name in line
    assert base in line


def test_in_a_narrow_terminal_rows_stay_one_line_and_names_whole() -> None:
    console = Console(width=80, force_terminal=False, record=True)
    columns = (
        Column("ID"),
        Column("STATE", state=True),
        Column("WHAT", shrinks=True),
        Column("BY", from_width=100),
    )
    rows = [("op-" + "0" * 32, "succeeded", "load " + "x" * 200, "operator")] * 3
    print_table(console, columns, rows, "none")
    lines = console.export_text().splitlines()
    assert len(lines) == 4
    assert all(len(line) <= 80 and "op-" + "0" * 32 in line for line in lines[1:])
    assert "…" in lines[1]
    assert "operator" not in lines[1]


def test_a_thousand_steps_leave_those_that_matter(cli: Cli) -> None:
    steps = [step("load", "succeeded", f"engine-{n}") for n in range(1000)]
    steps[700] = step("load", "failed", "engine-700")
    steps[900] = step("load", "running", "engine-900")
    console = Console(width=80, record=True)
    console.print(steps_table(operation(steps=steps), limit=10))
    shown = console.export_text()
    assert "engine-700" in shown
    assert "engine-900" in shown
    assert "and 990 more" in shown
    assert len(shown.splitlines()) == 11


def test_what_the_api_left_out_counts_as_more_too(cli: Cli) -> None:
    console = Console(width=80, record=True)
    shown = operation(steps=[step("load", "failed")], step_counts={"failed": 1, "succeeded": 2999})
    console.print(steps_table(shown))
    assert "and 2999 more" in console.export_text()


def test_ops_shows_how_many_steps_are_done_of_all(
    cli: Cli, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    counts = {"failed": 1, "succeeded": 27, "skipped": 2}
    items = [operation("failed", step_counts=counts), operation("pending")]
    api.on("GET", "/v1/operations", Reply({"items": items, "next": None}))
    out = cli("ops").out
    assert "STEPS" in out
    assert "27/30" in out


def test_ops_steps_goes_through_all_pages(cli: Cli, api: FakeApi) -> None:
    replies = [
        Reply({"items": [step("load", "failed", "engine-1")], "next": "c0"}),
        Reply({"items": [step("verify", "failed", "engine-2")], "next": None}),
    ]
    api.on("GET", "/v1/operations/op-1/steps", replies)
    ran = cli("ops", "steps", "op-1", "--state", "failed")
    assert "engine-1" in ran.out
    assert "engine-2" in ran.out
    assert api.seen[0].query["state"] == "failed"
    assert api.seen[1].query["cursor"] == "c0"
    api.on("GET", "/v1/operations/op-1/steps", Reply({"items": [], "next": None}))
    assert "no steps" in cli("ops", "steps", "op-1").err


def test_show_gives_versions_aliases_weights_and_engines(cli: Cli, api: FakeApi) -> None:
    failure = {"code": "weights_corrupt", "message": "cut"}
    api.on(
        "GET", "/v1/adapters/greeter", Reply(adapter(version(2, state="failed", failure=failure), version(1)))
    )
    cards = [card("engine-1", 1), card("engine-2", 1, "draining")]
    api.on("GET", "/v1/cards", Reply({"items": cards, "next": None}))
    out = cli("show", "greeter").out
    assert "@1 100%" in out
    assert "engine-1 (@1), engine-2 (@1) [draining]" in out
    assert "stable" in out
    assert "version 2: weights_corrupt: cut" in out


def test_show_one_version_by_number_or_alias(cli: Cli, api: FakeApi) -> None:
    api.on("GET", "/v1/adapters/greeter/aliases/stable", Reply({"alias": "stable", "version": 1}))
    api.on("GET", "/v1/adapters/greeter/versions/1", Reply(version(1)))
    api.on("GET", "/v1/cards", Reply({"items": [card("engine-1", 1), card("engine-2", 2)], "next": None}))
    by_number, by_alias = cli("show", "greeter@1").out, cli("show", "greeter@stable").out
    assert by_number == by_alias
    assert DIGEST in by_number
    assert "engine-2" not in by_number
    assert cli("show", "greeter@stable", "--json").json == version(1)


def test_ls_versions_engines_cards_deployments(cli: Cli, api: FakeApi) -> None:
    engine = {
        "id": "engine-1", "status": "alive", "pool": "default", "free_slots": 2, "usable_slots": 3,
        "max_lora_rank": 16, "base_model": "tiny", "resident": ["greeter@1"],
    }  # fmt: skip
    deployment = {"adapter": "greeter", **adapter()["deployments"][0]}
    api.on("GET", "/v1/adapters/greeter", Reply(adapter()))
    api.on("GET", "/v1/adapters/greeter/versions", Reply({"items": [version(1)], "next": None}))
    api.on("GET", "/v1/engines", Reply({"items": [engine], "next": None}))
    api.on("GET", "/v1/cards", Reply({"items": [card("engine-1", 1)], "next": None}))
    api.on("GET", "/v1/deployments", Reply({"items": [deployment], "next": None}))
    assert "stable" in cli("ls", "versions", "greeter").out
    assert "2/3" in cli("ls", "engines", "--pool", "default", "--status", "alive").out
    assert api.seen[-1].query == {"limit": "100", "pool": "default", "status": "alive"}
    assert "greeter@1" in cli("ls", "cards", "--engine", "engine-1").out
    assert "@1 100%" in cli("ls", "deployments").out


def test_engines_shows_what_differs_and_since_when_and_why_it_is_so_still(cli: Cli, api: FakeApi) -> None:
    error = {"code": "adapter_corrupt", "message": "no", "details": {}}
    missing = {
        "served_name": "greeter@1", "kind": "missing", "digest": None, "since": "2026-11-20T10:00:00Z", "attempts": 3,
        "next_try_at": "2026-11-20T10:00:40Z", "repair": None, "error": error,
    }  # fmt: skip
    foreign = {
        **missing,
        "served_name": "x@2",
        "kind": "foreign",
        "attempts": 0,
        "next_try_at": None,
        "error": None,
    }
    record = {
        "wanted_since": "2026-11-20T10:00:00Z",
        "last_look_at": "2026-11-20T10:00:20Z",
        "last_error": None,
    }
    differing = {"id": "engine-1", "status": "alive", "drift": [missing, foreign], "reconcile": record}
    looking = {"id": "engine-2", "status": "alive", "drift": [], "reconcile": record}
    fine = {"id": "engine-3", "status": "alive", "drift": [], "reconcile": None}
    api.on("GET", "/v1/engines", Reply({"items": [differing, looking, fine], "next": None}))
    lines = [line.split() for line in cli("engines", "--pool", "default").out.splitlines()]
    assert api.seen[-1].query == {"limit": "100", "pool": "default"}
    assert lines[1][:4] == ["engine-1", "alive", "missing", "greeter@1"]
    assert lines[1][5:8] == ["3", "10:00:40", "adapter_corrupt"]
    assert lines[2][:4] == ["engine-1", "alive", "foreign", "x@2"]
    assert [line[:3] for line in lines[3:]] == [["engine-2", "alive", "looking"], ["engine-3", "alive", "-"]]
    assert "1 foreign, 1 missing" in cli("ls", "engines").out


def test_ops_lists_and_ops_with_an_id_shows(cli: Cli, api: FakeApi) -> None:
    failed = operation(
        "failed", error={"code": "engine_lost", "message": "gone"}, steps=[step("load", "undone")]
    )
    api.on("GET", "/v1/operations", Reply({"items": [failed], "next": None}))
    api.on("GET", "/v1/operations/op-1", Reply(failed))
    assert "load greeter@1" in cli("ops").out
    assert "op-1" in cli("ops", "--adapter", "greeter", "--state", "failed", "--kind", "load").out
    assert api.seen[-1].query == {"limit": "20", "adapter": "greeter", "state": "failed", "kind": "load"}
    shown = cli("ops", "op-1").out
    assert "engine_lost: gone" in shown
    assert "undone" in shown
    assert cli("ops", "op-1", "--json").json == failed


def audit_event(seq: int, action: str, of: str | None = "op-1") -> dict[str, Any]:
    return {
        "seq": seq, "at": "2026-01-01T00:00:00Z", "actor": "operator", "action": action, "adapter": "greeter",
        "version": 1, "pool": "default", "engine": None, "operation": of, "outcome": "ok", "detail": {},
    }  # fmt: skip


def test_audit_tells_the_story_from_its_beginning_with_one_link_per_operation(cli: Cli, api: FakeApi) -> None:
    newest_first = [
        audit_event(3, "load.done"),
        audit_event(2, "load.requested"),
        audit_event(1, "alias.moved", None),
    ]
    api.on("GET", "/v1/audit", Reply({"items": newest_first, "next": None}))
    api.on("GET", "/v1/operations/op-1", Reply(operation("succeeded")))
    ran = cli("audit", "--adapter", "greeter", "--since", "2h")
    lines = ran.out.splitlines()
    assert [line.split()[2] for line in lines if "greeter@1" in line] == [
        "alias.moved", "load.requested", "load.done",
    ]  # fmt: skip
    assert ran.out.count("http://temporal.test/op-1") == 1
    assert api.seen[0].query["since"].endswith("+00:00")
    assert cli("audit", "--json").json["items"] == newest_first


def test_audit_goes_on_without_the_link_of_an_operation_that_is_gone(cli: Cli, api: FakeApi) -> None:
    api.on("GET", "/v1/audit", Reply({"items": [audit_event(1, "load.done")], "next": None}))
    api.on("GET", "/v1/operations/op-1", Reply(problem("operation_not_found", 404, "none"), 404))
    assert cli("audit").code == ExitCode.OK


def test_an_engine_in_full_with_what_it_cannot_promise(cli: Cli, api: FakeApi) -> None:
    engine = {
        "id": "engine-1", "status": "alive", "kind": "stock-vllm", "engine_version": "0.32.0", "pool": "default",
        "agent": "host-1", "agent_version": "0.1.0", "url": "http://127.0.0.1:8000", "incarnation": "life-1",
        "base_model": "tiny", "free_slots": 2, "usable_slots": 3, "max_lora_rank": 16, "served": {"greeter@1": DIGEST},
        "limitations": ["a note"], "missing_promises": ["true_unload", "a_newer_one"], "problem": None, "drift": [],
        "reconcile": None, "seen_at": "2026-11-20T10:00:00Z",
    }  # fmt: skip
    api.on("GET", "/v1/engines/engine-1", Reply(engine))
    api.on("GET", "/v1/engines", Reply({"items": [engine], "next": None}))
    out = cli("engines", "show", "engine-1").out
    assert "greeter@1" in out
    assert "a note" in out
    lines = [line.split(maxsplit=1) for line in out.splitlines()]
    assert ["true_unload", PROMISED[EnginePromise.TRUE_UNLOAD]] in lines
    assert ["a_newer_one"] in lines
    assert cli("engines", "show", "engine-1", "--json").json == engine
    assert cli("engines").out.splitlines()[1].split()[-1] == "2"
    assert "NOT PROMISED" in cli("ls", "engines").out


def test_engines_says_why_one_is_not_reached(cli: Cli, api: FakeApi) -> None:
    problem = "engine_not_supported: start its agent with --engine-kind stock-vllm"
    engine = {"id": "engine-1", "status": "unreachable", "problem": problem, "drift": [], "reconcile": None}
    api.on("GET", "/v1/engines/engine-1", Reply(engine))
    api.on("GET", "/v1/engines", Reply({"items": [engine], "next": None}))
    assert problem in cli("engines").out
    assert problem in cli("engines", "show", "engine-1").out
