"""Rewrite docs/errors.md from the catalog: `make docs`. A test keeps the two equal."""

from pathlib import Path
from typing import Final

from loradock.core.errors import CATALOG, ErrorSpec, Fault

PAGE: Final = Path(__file__).with_name("errors.md")

_HEAD: Final = """\
# Errors

Every failure that can be foreseen has a stable code. It is the `code` of an API answer (RFC 9457 problem+json), of an
operation's `error` and of a step's `error`, the failure's type in the Temporal UI, and what the CLI prints in brackets.
Scripts may rely on codes; titles and messages may change.

The status is the HTTP status when the API can tell at once; what shows later ends the operation as `failed`.
*Tried again* means that an activity that meets it is repeated by itself before it counts.

This page is made from the catalog in `loradock/core/errors.py` by `make docs`.
"""

_SECTIONS: Final = {
    Fault.CALLER: ("Yours to change", "The request, the artifact or a setting must change: the same call fails again."),
    Fault.STATE: ("In the way now", "The same call may go through later, or after something else was done."),
    Fault.SYSTEM: ("A part does not answer, or broke", "Nothing is wrong with the request."),
}  # fmt: skip


def page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(_section(fault) for fault in _SECTIONS)])


def _section(fault: Fault) -> str:
    title, text = _SECTIONS[fault]
    codes = [(code, spec) for code, spec in CATALOG.items() if spec.fault is fault]
    lines = [
        f"## {title}",
        "",
        text,
        "",
        "| code | status | what it means | what to do |",
        "| --- | --- | --- | --- |",
    ]
    return "\n".join([*lines, *(_row(code, spec) for code, spec in codes), ""])


def _row(code: str, spec: ErrorSpec) -> str:
    again = " *Tried again.*" if spec.retryable else ""
    title, remedy = (text.replace("|", "\\|") for text in (spec.title, spec.remedy))
    return f'| <a id="{code}"></a>`{code}` | {spec.status} | {title}{again} | {remedy} |'


if __name__ == "__main__":
    PAGE.write_text(page())
