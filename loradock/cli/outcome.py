"""The end of a command that asked for a change: follow the operation, tell how it ended, exit with its code."""

from collections.abc import Callable
from typing import Annotated

import typer

from loradock.cli import text
from loradock.cli.client import Document
from loradock.cli.failures import CommandFailure, ExitCode
from loradock.cli.progress import headline, progress
from loradock.cli.session import Session, print_json
from loradock.cli.waiting import follow, has_ended
from loradock.core.errors import CATALOG

Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the operation's end.")]
Timeout = Annotated[
    str | None,
    typer.Option(
        "--timeout",
        metavar="TIME",
        help="Wait at most so long (90s, 5m); the operation then goes on.",
        show_default=False,
    ),
]
IdempotencyKey = Annotated[
    str | None,
    typer.Option(
        "--idempotency-key",
        metavar="KEY",
        help="The same key with the same request gives the same operation, however often it is sent.",
        show_default=False,
    ),
]


def conclude(
    session: Session,
    operation: Document,
    *,
    wait: bool,
    timeout: float | None,
    wanted: str = "succeeded",
    otherwise: Callable[[Document], Document | None] = lambda _: None,
) -> None:
    """Show an operation to its end, or say how to follow it.

    Args:
        timeout: seconds to wait at most.
        wanted: the state that counts as success.
        otherwise: may start another operation in place of one that ended otherwise, which is then followed.

    Raises:
        CommandFailure: it ended otherwise (3), the wait timed out (6) or was interrupted (130).
    """
    if not wait and not has_ended(operation):
        if session.as_json:
            print_json(operation)
        else:
            session.say(text.clean(operation.get("id")))
            session.hint(
                f"{headline(operation)}: {text.clean(operation.get('state'))}. {_follow_hint(operation)}"
            )
        return
    operation = _follow(session, operation, timeout)
    if operation.get("state") != wanted and (again := otherwise(operation)) is not None:
        operation = _follow(session, again, timeout)
    if session.as_json:
        print_json(operation)
    elif operation.get("state") == wanted:
        for line in summary(operation):
            session.say(line)
    if operation.get("state") != wanted:
        raise _bad_end(operation)


def summary(operation: Document) -> list[str]:
    """What an operation brought about, in lines for people."""
    if operation.get("state") != "succeeded":
        return [f"{headline(operation)}: {text.clean(operation.get('state'))}"]
    result = operation.get("result") or {}
    engines = ", ".join(text.clean(engine) for engine in result.get("engines") or [])
    what = text.target({**operation, "version": result.get("version") or operation.get("version")})
    match operation.get("kind"):
        case "publish":
            known = "was already published" if result.get("already_published") else "published"
            lines = [f"{what} {known}", f"  {text.clean(result.get('digest'))}"]
        case "load":
            lines = [f"{what} is served by {engines}" if engines else f"{what} loaded"]
        case "unload":
            lines = [f"{what} unloaded from {engines}" if engines else f"{what} unloaded"]
        case _:
            lines = [f"{headline(operation)} succeeded"]
    if result.get("note"):
        lines.append(f"  {text.clean(result['note'])}")
    lines += [
        f"  not on {text.clean(engine)}: {text.clean(code)}"
        for engine, code in (result.get("failed_engines") or {}).items()
    ]
    return lines


def _follow(session: Session, operation: Document, timeout: float | None) -> Document:
    known = operation
    try:
        with progress(session.err) as view:
            for news in follow(session.client, known, timeout=timeout):
                known = news
                view.show(known)
    except KeyboardInterrupt:
        message = f"interrupted: {headline(known)} goes on"
        raise CommandFailure(
            ExitCode.INTERRUPTED, message, remedy=_follow_hint(known), document=known
        ) from None
    except CommandFailure as failure:
        if failure.exit_code is not ExitCode.TIMEOUT:
            raise
        raise CommandFailure(
            ExitCode.TIMEOUT, failure.message, remedy=_follow_hint(known), document=known
        ) from None
    return known


def _bad_end(operation: Document) -> CommandFailure:
    """The failure that an operation's end is: what, why, what to do, where to see more."""
    error = operation.get("error") or {}
    code = str(error["code"]) if error.get("code") else None
    what = f"{operation.get('kind')} {text.target(operation)} {str(operation.get('state')).replace('_', ' ')}"
    notes = [f"operation: {text.clean(operation.get('id'))}"]
    if operation.get("temporal_url"):
        notes.append(f"temporal: {text.clean(operation['temporal_url'])}")
    if operation.get("repairs_pending"):
        notes.append("Something could not be put back yet; the reconciler goes on with it.")
    return CommandFailure(
        ExitCode.OPERATION_FAILED,
        f"{what}: {error['message']}" if error.get("message") else what,
        code=code,
        remedy=CATALOG[code].remedy if code in CATALOG else None,
        notes=notes,
    )


def _follow_hint(operation: Document) -> str:
    name = text.clean(operation.get("id"))
    return f"Follow it with 'loradock ops wait {name}', stop it with 'loradock ops abort {name}'."
