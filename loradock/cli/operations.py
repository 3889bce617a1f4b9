"""`loradock ops`: list operations, show one or its steps, wait for one, retry one, abort one."""

from typing import Annotated

import typer
from rich.text import Text

from loradock.cli import text
from loradock.cli.arguments import seconds
from loradock.cli.client import Document, operation_path
from loradock.cli.groups import OperationsGroup, command_group
from loradock.cli.listing import Limit, fetch_page
from loradock.cli.outcome import IdempotencyKey, Timeout, Wait, conclude, summary
from loradock.cli.progress import headline, standing, step_counts, steps_table
from loradock.cli.render import Column, print_facts, print_table
from loradock.cli.session import ApiUrl, AsJson, Session, Token, open_session

app = command_group(
    OperationsGroup, "Operations: list (default), show ID (or just ID), steps, wait, retry, abort."
)

Operation = Annotated[str, typer.Argument(metavar="ID", help="Operation id.")]

_COLUMNS = (
    Column("ID"),
    Column("STATE", state=True),
    Column("AGE", right=True),
    Column("WHAT", shrinks=True),
    Column("STEPS", right=True, from_width=100),
    Column("POOL", from_width=100),
    Column("ERROR", from_width=100),
    Column("BY", from_width=120),
)


@app.command("list")
def list_operations(
    *,
    adapter: Annotated[
        str | None, typer.Option("--adapter", metavar="NAME", help="Of this adapter only.")
    ] = None,
    state: Annotated[str | None, typer.Option("--state", metavar="STATE", help="In this state only.")] = None,
    kind: Annotated[
        str | None, typer.Option("--kind", metavar="KIND", help="publish, load or unload only.")
    ] = None,
    limit: Limit = 20,
    api_url: ApiUrl = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """The newest operations."""
    with open_session(api_url, token, as_json=as_json) as session:
        page = fetch_page(session, "/v1/operations", limit, adapter=adapter, state=state, kind=kind)
        rows = map(_row, page["items"])
        session.answer(page, lambda: print_table(session.out, _COLUMNS, rows, "no operations"))


@app.command("show")
def show_operation(
    *, operation: Operation, api_url: ApiUrl = None, token: Token = None, as_json: AsJson = False
) -> None:
    """One operation with its steps."""
    with open_session(api_url, token, as_json=as_json) as session:
        found = session.client.get(operation_path(operation))
        session.answer(found, lambda: _print_operation(session, found))


@app.command("steps")
def list_steps(
    *,
    operation: Operation,
    state: Annotated[str | None, typer.Option("--state", metavar="STATE", help="In this state only.")] = None,
    engine: Annotated[str | None, typer.Option("--engine", metavar="ID", help="On this engine only.")] = None,
    limit: Limit = 100,
    api_url: ApiUrl = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """The steps of an operation, however many there are."""
    with open_session(api_url, token, as_json=as_json) as session:
        path = f"{operation_path(operation)}/steps"
        page = fetch_page(session, path, limit, state=state, engine=engine)
        session.answer(page, lambda: _print_steps(session, page["items"]))


@app.command("wait")
def wait_for_operation(
    *,
    operation: Operation,
    timeout: Timeout = None,
    api_url: ApiUrl = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Follow an operation to its end; the exit code tells how it ended."""
    limit = seconds(timeout) if timeout else None
    with open_session(api_url, token, as_json=as_json) as session:
        conclude(session, session.client.get(operation_path(operation)), wait=True, timeout=limit)


@app.command("retry")
def retry_operation(
    *,
    operation: Operation,
    wait: Wait = True,
    timeout: Timeout = None,
    idempotency_key: IdempotencyKey = None,
    api_url: ApiUrl = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Do again what failed of an operation, as a new one: a load comes to the engines alone that failed or are missing."""
    limit = seconds(timeout) if timeout else None
    with open_session(api_url, token, as_json=as_json) as session:
        asked = session.client.post(f"{operation_path(operation)}/retry", key=idempotency_key)
        conclude(session, asked, wait=wait, timeout=limit)


@app.command("abort")
def abort_operation(
    *,
    operation: Operation,
    wait: Wait = True,
    timeout: Timeout = None,
    api_url: ApiUrl = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Ask an operation to stop and to put back what it did. Succeeds when it ended as aborted."""
    limit = seconds(timeout) if timeout else None
    with open_session(api_url, token, as_json=as_json) as session:
        asked = session.client.post(f"{operation_path(operation)}/abort")
        conclude(session, asked, wait=wait, timeout=limit, wanted="aborted")


def _print_steps(session: Session, steps: list[Document]) -> None:
    if steps:
        session.out.print(steps_table({"steps": steps}))
    else:
        session.hint("no steps")


def _row(operation: Document) -> tuple[object, ...]:
    error = operation.get("error") or {}
    return (
        operation.get("id"),
        operation.get("state"),
        text.age(operation.get("created_at")),
        f"{text.clean(operation.get('kind'))} {text.target(operation)}",
        _done_of_all(operation),
        operation.get("pool"),
        error.get("code"),
        operation.get("requested_by"),
    )


def _done_of_all(operation: Document) -> str | None:
    counts = step_counts(operation)
    return f"{counts.get('succeeded', 0)}/{sum(counts.values())}" if counts else None


def _print_operation(session: Session, operation: Document) -> None:
    error = operation.get("error") or {}
    took = text.duration(text.between(operation.get("created_at"), operation.get("ended_at")))
    print_facts(
        session.out,
        {
            "operation": operation.get("id"),
            "what": headline(operation),
            "state": standing(operation),
            "retries": operation.get("retry_of"),
            "result": "; ".join(summary(operation)) if operation.get("state") == "succeeded" else None,
            "error": f"{error.get('code')}: {error.get('message')}" if error else None,
            "requested": f"{text.age(operation.get('created_at'))} ago by {operation.get('requested_by')}",
            "took" if operation.get("ended_at") else "running for": took,
            "repairs": "something waits for the reconciler" if operation.get("repairs_pending") else None,
            "temporal": operation.get("temporal_url"),
        },
    )
    if operation.get("steps"):
        session.out.print(Text())
        session.out.print(steps_table(operation))
