"""Commands that run the service's processes. Each imports its part only when it runs: `loradock ls` stays quick."""
# ruff: noqa: PLC0415

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loradock.cli.arguments import labels
from loradock.cli.failures import CommandFailure, usage

if TYPE_CHECKING:
    from loradock.core.settings import Settings
    from loradock.dev.options import StackOptions

ReadyFile = Annotated[
    Path | None,
    typer.Option(
        "--ready-file", metavar="FILE", help="Written when the process is ready.", show_default=False
    ),
]
LogJson = Annotated[
    bool, typer.Option("--log-json", envvar="LORADOCK_LOG_JSON", help="Log one JSON object per line.")
]


class EngineKind(StrEnum):
    """Which engines the embedded stack starts."""

    VLLM = "vllm"
    SIMULATED = "simulated"


class AgentEngineKind(StrEnum):
    """What the engines of an agent are."""

    VLLM = "vllm"
    STOCK_VLLM = "stock-vllm"


Engines = Annotated[
    int, typer.Option("--engines", min=1, max=16, metavar="N", help="How many engines to start.")
]
Kind = Annotated[
    EngineKind,
    typer.Option("--engine", help="simulated: where vLLM cannot be installed; every line then says so."),
]


def api(
    host: Annotated[str, typer.Option("--host", metavar="HOST")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, metavar="PORT", help="0 takes a free one.")
    ] = 8400,
    ready_file: ReadyFile = None,
    log_json: LogJson = False,
) -> None:
    """Run the control API."""
    with _process("api", log_json=log_json) as settings:
        from api import server
        from loradock.artifacts.build import open_uploads

        server.run(settings, host, port, ready_file, open_uploads(settings))


def orchestrator(ready_file: ReadyFile = None, log_json: LogJson = False) -> None:
    """Run the worker of the workflows, with relay and sweeper."""
    with _process("orchestrator", log_json=log_json) as settings:
        from worker import orchestrator as process

        process.main(settings, ready_file)


def agent(
    *,
    agent_id: Annotated[
        str | None,
        typer.Option("--id", metavar="ID", help="Its name. [env: LORADOCK_AGENT_ID]", show_default=False),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            "--engine",
            metavar="ID=URL",
            help="An engine on this host; can be repeated. [env: LORADOCK_ENGINES]",
            show_default=False,
        ),
    ] = None,
    engines_file: Annotated[
        Path | None,
        typer.Option(
            "--engines-file",
            metavar="FILE",
            help="More engines, a line ID=URL for each; '#' begins a comment.",
            show_default=False,
        ),
    ] = None,
    engine_kind: Annotated[
        AgentEngineKind | None,
        typer.Option(
            "--engine-kind",
            help="What they are: vllm with Loradock's extension (default), or stock-vllm without it, which promises less."
            " [env: LORADOCK_ENGINE_KIND]",
            show_default=False,
        ),
    ] = None,
    pool: Annotated[
        str | None,
        typer.Option("--pool", metavar="POOL", help="Their pool. [env: LORADOCK_POOL]", show_default=False),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            "--label",
            metavar="KEY=VALUE",
            help="Loads select engines by it; can be repeated. [env: LORADOCK_AGENT_LABELS]",
            show_default=False,
        ),
    ] = None,
    ready_file: ReadyFile = None,
    log_json: LogJson = False,
) -> None:
    """Run a host agent, beside the engines that it works for."""
    named = [*(engine or ()), *(_lines_of(engines_file) if engines_file else ())]
    given = {
        "agent_id": agent_id,
        "engines": ",".join(named) if named else None,
        "engine_kind": engine_kind.value if engine_kind else None,
        "pool": pool,
        "agent_labels": labels(label) if label else None,
    }
    overrides = {name: value for name, value in given.items() if value}
    with _process("agent", log_json=log_json, **overrides) as settings:
        from worker import agent as process

        engines = dict(settings.engines)
        if len(engines) != len(settings.engines):
            raise usage("an engine is named twice")
        process.main(settings, settings.require("agent_id"), engines, settings.pool, ready_file)


def _lines_of(file: Path) -> list[str]:
    """A file's lines that say something."""
    try:
        lines = [line.partition("#")[0].strip() for line in file.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise usage(f"{file} cannot be read: {type(error).__name__}") from None
    return [line for line in lines if line]


def migrate(
    revision: Annotated[str, typer.Option("--to", metavar="REVISION", help="Go up to this one.")] = "head",
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; fail when the schema is another.")
    ] = False,
) -> None:
    """Bring the database's schema up to date."""
    with _process("migrate") as settings:
        from migrations import runner

        url = settings.require("database_url")
        if check:
            runner.check(url)
            typer.echo(f"the database is at {runner.head()}, the newest revision")
        else:
            typer.echo(f"the database is at {runner.upgrade(url, revision)}")


def temporal_setup() -> None:
    """Register the search attributes with Temporal; once per namespace, safe to repeat."""
    with _process("temporal-setup") as settings:
        from worker import search_attributes, temporal

        async def register() -> list[str]:
            return await search_attributes.register(await temporal.connect(settings))

        names = asyncio.run(register())
        typer.echo(f"registered: {', '.join(names)}" if names else "all search attributes are there")


def dev(
    engines: Engines = 2,
    engine: Kind = EngineKind.VLLM,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin with empty state.")] = False,
) -> None:
    """Run the whole stack on this machine until Ctrl-C: Temporal, Postgres, S3, engines, agents, orchestrator, API."""
    from rich.console import Console

    from loradock.dev.run import run_dev

    raise typer.Exit(
        run_dev(_stack_options("dev", engines, engine, ephemeral=fresh, restart_crashed=True), Console())
    )


def demo(engines: Engines = 2, engine: Kind = EngineKind.VLLM) -> None:
    """Run the story on a fresh stack: publish, load, prompt, fail, recover, unload, audit."""
    from rich.console import Console

    from loradock.dev.demo import run_demo

    raise typer.Exit(run_demo(_stack_options("demo", engines, engine, ephemeral=True), Console()))


def simulated_engine(context: typer.Context) -> None:
    """Run a simulated engine (the same HTTP surface as vLLM with the extension, no weights). See its --help."""
    from loradock.engines.simulated.__main__ import main as run

    raise typer.Exit(run(context.args))


@contextmanager
def _process(name: str, *, log_json: bool = False, **overrides: object) -> Iterator["Settings"]:
    """A process of the service: its logging and settings; what nobody foresaw goes into its log with the traceback."""
    from loradock.core.errors import LoradockError
    from loradock.core.logging import configure_logging
    from loradock.core.settings import load_settings

    configure_logging(name, json=log_json)
    try:
        yield load_settings(**overrides)
    except (LoradockError, CommandFailure):
        raise
    except Exception:
        logging.getLogger(__name__).exception("%s failed", name)
        raise


def _stack_options(
    name: str, engines: int, engine: EngineKind, *, ephemeral: bool, restart_crashed: bool = False
) -> "StackOptions":
    from loradock.dev.options import EngineKind as StackEngineKind
    from loradock.dev.options import StackOptions

    return StackOptions(
        name=name,
        engines=engines,
        engine_kind=StackEngineKind(engine.value),
        ephemeral=ephemeral,
        restart_crashed=restart_crashed,
    )
