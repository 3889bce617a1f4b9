"""The `loradock` command: all commands in one application, and how each end becomes an exit code."""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from loradock import __version__
from loradock.cli import (
    auditing,
    bases,
    caching,
    changes,
    deleting,
    engines,
    inspecting,
    lists,
    operations,
    planning,
    processes,
    showing,
    signing,
)
from loradock.cli.failures import EXIT_CODE_MEANING, CommandFailure, ExitCode
from loradock.cli.session import show_failure
from loradock.core.errors import Fault, LoradockError

_EPILOG = "Exit codes:\n\n" + "\n".join(
    f"\b\n{code.value:>5}  {meaning}" if number == 0 else f"{code.value:>5}  {meaning}"
    for number, (code, meaning) in enumerate(EXIT_CODE_MEANING.items())
)

app = typer.Typer(
    name="loradock",
    epilog=_EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"loradock {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Publish, load and unload LoRA adapters on vLLM fleets, durably.

    Options stand behind their command, --api-url and --token too: loradock ls --token TOKEN.
    """


app.command("publish")(changes.publish)
app.command("plan")(planning.plan)
app.command("load")(changes.load)
app.command("unload")(changes.unload)
app.command("alias")(changes.alias)
app.command("delete")(deleting.delete)
app.add_typer(caching.app, name="cache")
app.add_typer(lists.app, name="ls")
app.add_typer(engines.app, name="engines")
app.command("show")(showing.show)
app.command("inspect")(inspecting.inspect)
app.command("sign")(signing.sign)
app.add_typer(bases.app, name="base")
app.add_typer(operations.app, name="ops")
app.command("audit")(auditing.audit)
app.command("api")(processes.api)
app.command("orchestrator")(processes.orchestrator)
app.command("agent")(processes.agent)
app.command("migrate")(processes.migrate)
app.command("temporal-setup")(processes.temporal_setup)
app.command("dev")(processes.dev)
app.command("demo")(processes.demo)
app.command(
    "simulated-engine",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
)(processes.simulated_engine)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: without the program's name; those of the process if None.

    Returns:
        The exit code.
    """
    try:
        typer.main.get_command(app).main(args=arguments, prog_name="loradock")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else ExitCode.OK
    except CommandFailure as failure:
        show_failure(failure)
        return failure.exit_code
    except LoradockError as error:
        show_failure(_failure_of(error))
        return _failure_of(error).exit_code
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:  # the last place where a traceback can be kept from people
        return _unexpected(error)
    return ExitCode.OK


def main() -> None:
    """Run the command line of this process, and exit."""
    sys.exit(run())


def _failure_of(error: LoradockError) -> CommandFailure:
    """A failure inside this process, with the exit code of the same thing told by the API."""
    by_code = {
        "setting_invalid": ExitCode.USAGE,
        "invalid_name": ExitCode.USAGE,
        "stack_running": ExitCode.USAGE,
        "engine_environment_missing": ExitCode.USAGE,
        "signing_key_invalid": ExitCode.USAGE,
        "signatures_unavailable": ExitCode.USAGE,
        "internal_error": ExitCode.UNEXPECTED,
    }
    by_fault = {
        Fault.CALLER: ExitCode.REFUSED,
        Fault.STATE: ExitCode.REFUSED,
        Fault.SYSTEM: ExitCode.UNAVAILABLE,
    }
    exit_code = by_code.get(error.code, by_fault[error.spec.fault])
    return CommandFailure(exit_code, error.message, code=error.code, remedy=error.spec.remedy)


def _unexpected(error: Exception) -> int:
    if os.environ.get("LORADOCK_LOG_LEVEL", "").upper() == "DEBUG":
        traceback.print_exception(error)
    show_failure(
        CommandFailure(
            ExitCode.UNEXPECTED,
            f"{type(error).__name__}: {error}",
            remedy="This should not happen: please report it. LORADOCK_LOG_LEVEL=DEBUG shows where.",
        )
    )
    return ExitCode.UNEXPECTED
