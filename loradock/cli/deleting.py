"""`loradock delete`: a version that nobody needs any more."""

from typing import Annotated

import typer

from loradock.cli import text
from loradock.cli.arguments import adapter_and_version
from loradock.cli.client import adapter_path
from loradock.cli.failures import usage
from loradock.cli.session import ApiUrl, AsJson, Token, open_session


def delete(
    *,
    name: Annotated[str, typer.Argument(metavar="NAME@VERSION", help="One version, by its number.")],
    api_url: ApiUrl = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Retire a version that no alias, engine, deployment or operation names.

    Its number and digest stay for history; its bytes go when nothing else points to them. Publishing the same weights
    brings it back.
    """
    adapter, version = adapter_and_version(name)
    if not isinstance(version, int):
        raise usage("which version?", f"loradock delete {text.clean(adapter)}@1: a number, never an alias.")
    with open_session(api_url, token, as_json=as_json) as session:
        retired = session.client.delete(f"{adapter_path(adapter)}/versions/{version}")
        line = f"{text.clean(retired.get('served_name'))} is {text.clean(retired.get('state'))}"
        session.answer(retired, lambda: session.say(line))
