"""Commands that change something: publish, load, unload, alias."""

from typing import Annotated

import typer

from loradock.cli import text
from loradock.cli.arguments import adapter_and_version, labels, local_folder, seconds, source_uri
from loradock.cli.client import adapter_path, path_part
from loradock.cli.outcome import IdempotencyKey, Timeout, Wait, conclude
from loradock.cli.publishing import publish_folder
from loradock.cli.selection import (
    Engines,
    LoadPolicy,
    MinReady,
    Policy,
    Pool,
    Replicas,
    SelectedLabels,
    VersionArgument,
    VersionedName,
    given,
    load_body,
    required_version,
)
from loradock.cli.session import ApiUrl, AsJson, Token, open_session

Name = Annotated[str, typer.Argument(metavar="NAME", help="Adapter: name or org/name.")]


def publish(
    *,
    name: Name,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A folder here, which is uploaded; or an address: s3://bucket/prefix …"
        ),
    ],
    no_upload: Annotated[
        bool,
        typer.Option(
            "--no-upload", help="The folder is on the orchestrator's disk, too: as file:// and its path."
        ),
    ] = False,
    base_model: Annotated[
        str | None,
        typer.Option(
            "--base-model", metavar="MODEL", help="Needed for a first version where engines serve several."
        ),
    ] = None,
    expect_digest: Annotated[
        str | None,
        typer.Option("--expect-digest", metavar="sha256:…", help="Fail when the weights are others."),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="KEY=VALUE", help="Kept with the version; can be repeated."),
    ] = None,
    wait: Wait = True,
    timeout: Timeout = None,
    idempotency_key: IdempotencyKey = None,
    api_url: ApiUrl = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Publish a folder of LoRA weights as a version of an adapter.

    The same weights always give the same version. A folder is inspected and hashed here, then uploaded; interrupted and
    repeated, only what is missing is sent. Of what the adapter has already, nothing is.
    """
    folder = None if no_upload else local_folder(source)
    body = {
        "source": {"uri": "" if folder else source_uri(source)},
        "base_model": base_model,
        "expect_digest": expect_digest,
        "labels": labels(label or []),
    }
    limit = seconds(timeout) if timeout else None
    with open_session(api_url, token, as_json=as_json) as session:
        if folder is not None:
            publish_folder(session, name, folder, given(body), wait=wait, timeout=limit, key=idempotency_key)
            return
        operation = session.client.post(f"{adapter_path(name)}/versions", given(body), key=idempotency_key)
        conclude(session, operation, wait=wait, timeout=limit)


def load(
    *,
    name: VersionedName,
    version: VersionArgument = None,
    pool: Pool = None,
    engine: Engines = None,
    label: SelectedLabels = None,
    replicas: Replicas = None,
    policy: LoadPolicy = Policy.ALL,
    min_ready: MinReady = None,
    plan: Annotated[
        str | None,
        typer.Option(
            "--plan",
            metavar="ETAG",
            help="Do just what 'loradock plan' showed under this etag, or nothing.",
            show_default=False,
        ),
    ] = None,
    wait: Wait = True,
    timeout: Timeout = None,
    idempotency_key: IdempotencyKey = None,
    api_url: ApiUrl = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Load a version on the engines of a pool."""
    adapter, chosen = required_version("load", name, version)
    body = load_body(chosen, pool, engine, label, replicas, policy=policy, min_ready=min_ready)
    limit = seconds(timeout) if timeout else None
    headers = {"If-Match": f'"{plan.strip(chr(34))}"'} if plan else {}
    with open_session(api_url, token, as_json=as_json) as session:
        operation = session.client.post(
            f"{adapter_path(adapter)}/load", body, key=idempotency_key, headers=headers
        )
        conclude(session, operation, wait=wait, timeout=limit)


def unload(
    *,
    name: Annotated[
        str, typer.Argument(metavar="NAME[@VERSION]", help="Adapter; without a version, all of it.")
    ],
    drain: Annotated[
        str | None,
        typer.Option(
            "--drain",
            metavar="TIME",
            help="How long running requests may go on (default 30s).",
            show_default=False,
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Even with traffic on it; cut requests that outlast the drain.")
    ] = False,
    pool: Pool = None,
    engine: Engines = None,
    wait: Wait = True,
    timeout: Timeout = None,
    idempotency_key: IdempotencyKey = None,
    api_url: ApiUrl = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Unload a version, or all versions, of an adapter."""
    adapter, version = adapter_and_version(name)
    body = {
        "version": version,
        "drain": seconds(drain) if drain else None,
        "force": force or None,
        "pool": pool,
        "engines": engine or None,
    }
    limit = seconds(timeout) if timeout else None
    with open_session(api_url, token, as_json=as_json) as session:
        operation = session.client.post(f"{adapter_path(adapter)}/unload", given(body), key=idempotency_key)
        conclude(session, operation, wait=wait, timeout=limit)


def alias(
    *,
    name: Name,
    alias_name: Annotated[str, typer.Argument(metavar="ALIAS", help="For instance stable; never a number.")],
    version: Annotated[int, typer.Argument(metavar="VERSION", min=1)],
    api_url: ApiUrl = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Point an alias at a version. Nothing that runs is changed by it."""
    path = f"{adapter_path(name)}/aliases/{path_part(alias_name)}"
    with open_session(api_url, token, as_json=as_json) as session:
        moved = session.client.put(path, {"version": version})
        line = f"{text.clean(name)}@{text.clean(alias_name)} is version {text.clean(moved.get('version'))}"
        session.answer(moved, lambda: session.say(line))
