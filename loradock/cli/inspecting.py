"""`loradock inspect`: whether an adapter can be served, told on this machine without any server."""
# ruff: noqa: PLC0415

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.text import Text

from loradock.cli import text
from loradock.cli.arguments import source_uri
from loradock.cli.client import Document
from loradock.cli.failures import ExitCode, usage
from loradock.cli.render import Column, print_facts, print_table, stdout_console
from loradock.cli.session import AsJson, print_json

if TYPE_CHECKING:
    from loradock.artifacts.examining import Examined
    from loradock.artifacts.signatures.protocol import SignatureCheck

MAX_CONFIG_BYTES = 1024 * 1024

_FINDINGS = (
    Column("FEATURE"),
    Column("VERDICT", state=True),
    Column("DETAIL", shrinks=True),
    Column("NEEDS"),
)
_MODULES = (
    Column("MODULES", shrinks=True), Column("COUNT", right=True), Column("RANK", right=True),
    Column("INPUTS", right=True), Column("OUTPUTS", right=True),
)  # fmt: skip


def inspect(
    *,
    source: Annotated[
        str, typer.Argument(metavar="PATH|URI", help="A folder here, file:///folder or s3://bucket/prefix.")
    ],
    base: Annotated[
        Path | None,
        typer.Option(
            "--base", metavar="CONFIG", help="config.json of the base model, or its folder, to compare with."
        ),
    ] = None,
    key: Annotated[
        list[Path] | None,
        typer.Option("--key", metavar="PEM", help="A public key whose signatures count; can be repeated."),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option("--root", metavar="PEM", help="A root certificate below which signatures count."),
    ] = None,
    identity: Annotated[
        str | None,
        typer.Option("--identity", metavar="NAME", help="Whom such a certificate must be issued to."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell whether an adapter can be served, and by which engines. Needs no server.

    All of it is read, every number of the weights too. With --key or --root its signature is checked. Exit code 0: can be
    served, and is signed as asked; 3: not.
    """
    uri = source_uri(source)
    config = None if base is None else read_config_file(base)
    check = signature_check(key or [], root, identity)
    examined = _examine(uri, config, str(base) if base else None, check)
    document = _document(uri, examined)
    if as_json:
        print_json(document)
    else:
        facts = {"source": uri, "digest": document["digest"], **_signature(examined)}
        print_report(document["report"], facts)
    unproven = check is not None and (document["signature"] or {}).get("status") != "verified"
    if unproven or document["report"]["verdict"] == "not_servable":
        raise typer.Exit(ExitCode.OPERATION_FAILED)


def signature_facts(found: Document | None) -> dict[str, object]:
    """What is known of a signature, in a few facts."""
    if found is None:
        return {"signature": "not checked"}
    facts: dict[str, object] = {"signature": found.get("status")}
    if found.get("status") == "verified":
        facts["signed by"] = ", ".join(
            text.clean(found[name]) for name in ("identity", "signer") if found.get(name)
        )
    else:
        facts["signature says"] = found.get("reason")
    return facts


def _signature(examined: "Examined") -> dict[str, object]:
    if examined.signature is not None:
        return signature_facts(examined.signature.model_dump(mode="json"))
    return {"signature": "there is one: check it with --key or --root"} if examined.signed else {}


def signature_check(keys: list[Path], root: Path | None, identity: str | None) -> "SignatureCheck | None":
    """The check that the options ask for.

    Raises:
        CommandFailure: exit code 2.
        LoradockError: `signing_key_invalid`, `signatures_unavailable`.
    """
    if (root is None) != (identity is None):
        raise usage("--root and --identity belong together")
    if not keys and root is None:
        return None
    from loradock.artifacts.signatures.policy import require_package

    require_package("checking a signature")
    from loradock.artifacts.signatures.checking import AuthorityCheck
    from loradock.artifacts.signatures.trust import Authority, read_authority, read_key
    from loradock.core.signatures import SignaturePolicy

    authorities: list[Authority] = [read_key(key) for key in keys]
    if root is not None and identity is not None:
        authorities.append(read_authority(root, identity))
    return AuthorityCheck(SignaturePolicy.WARN, authorities)


def read_config_file(path: Path) -> dict[str, Any]:
    """A base model's `config.json`, or the one in its folder.

    Raises:
        CommandFailure: exit code 2.
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_CONFIG_BYTES + 1)
        content = json.loads(data) if len(data) <= MAX_CONFIG_BYTES else None
    except OSError as error:
        raise usage(f"{text.clean(file)} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise usage(f"{text.clean(file)} is no config.json of a base model")
    return content


def print_report(report: Document, facts: dict[str, object]) -> None:
    """Print a report for people, after some facts about where it comes from."""
    out = stdout_console()
    traits = report.get("traits") or {}
    failure = report.get("failure") or {}
    print_facts(out, {**facts, **_summary(report)})
    if failure:
        line = f"{text.clean(failure.get('code'))}: {text.clean(failure.get('message'))}"
        out.print(Text(line, style="red"), soft_wrap=True)
    if report.get("findings"):
        out.print(Text())
        print_table(out, _FINDINGS, [_finding_row(item) for item in report["findings"]], "")
    if traits:
        out.print(Text())
        print_table(out, _MODULES, [_module_row(item) for item in report.get("modules") or []], "no modules")


def report_facts(report: Document | None) -> dict[str, object]:
    """A report in a few facts, for a page that shows more than it."""
    if report is None:
        return {"inspection": "published before inspections were kept"}
    needs = [_needs(item) for item in report.get("findings") or [] if item.get("needs")]
    return {
        "inspection": str(report.get("verdict")).replace("_", " "),
        "needs": ", ".join(needs),
        "weights read": _scan(report.get("scan")),
        "base": _base(report.get("base") or {}, None),
    }


def _summary(report: Document) -> dict[str, object]:
    traits = report.get("traits") or {}
    return {
        "verdict": str(report.get("verdict")).replace("_", " "),
        "rank": traits.get("rank"),
        "alpha": traits.get("alpha"),
        "dtype": traits.get("dtype"),
        "parameters": traits.get("parameters"),
        "layers": traits.get("layers"),
        "peft base": traits.get("peft_base_model"),
        "weights read": _scan(report.get("scan")),
        "base": _base(report.get("base") or {}, report.get("failure")) if traits else None,
    }


def _scan(scan: Document | None) -> str | None:
    if scan is None:
        return None
    return f"{scan.get('numbers')} numbers, all finite ({text.duration(scan.get('seconds'))})"


def _base(base: Document, failure: Document | None) -> str:
    notes = "; ".join(text.clean(note) for note in base.get("notes") or [])
    if not base.get("checked"):
        return notes
    fitting = "does not fit" if (failure or {}).get("code") == "base_model_mismatch" else "fits"
    fits = f"{fitting} {text.clean(base.get('base_model'))} (config {text.clean(base.get('origin'))})"
    return f"{fits}; {notes}" if notes else fits


def _finding_row(item: Document) -> tuple[object, ...]:
    verdict = str(item.get("verdict")).replace("_", " ")
    return item.get("feature"), verdict, item.get("detail"), _needs(item)


def _needs(item: Document) -> str:
    needs = item.get("needs") or {}
    least = "" if needs.get("at_least") is None else f" ≥ {needs['at_least']}"
    setting = f" ({text.clean(needs['setting'])})" if needs.get("setting") else ""
    return f"{text.clean(needs.get('property'))}{least}{setting}"


def _module_row(item: Document) -> tuple[object, ...]:
    low, high = item.get("rank_min"), item.get("rank_max")
    rank = low if low == high else f"{low}-{high}"
    return item.get("pattern"), item.get("modules"), rank, item.get("size_in"), item.get("size_out")


def _examine(
    uri: str, config: dict[str, Any] | None, base_model: str | None, check: "SignatureCheck | None"
) -> "Examined":
    from loradock.artifacts.build import open_sources
    from loradock.artifacts.examining import examine_source
    from loradock.core.base_config import BaseConfig
    from loradock.core.settings import load_settings

    base: BaseConfig | None = None
    if config is not None:
        base = BaseConfig.of(config)
        if not base.tells_anything:
            raise usage("the base model's config tells neither num_hidden_layers nor hidden_size")
    # Whoever runs this may read what they may read: the service's own limits on places are not theirs.
    settings = load_settings(**_places(uri))
    return examine_source(
        open_sources(settings),
        uri,
        max_bytes=settings.source_max_bytes,
        base=base,
        base_model=base_model,
        check=check,
    )


def _places(uri: str) -> dict[str, object]:
    match urlsplit(uri).scheme.lower():
        case "file":
            return {"file_roots": (Path("/"),)}
        case "s3":
            return {"source_buckets": ("*",)}
        case _:
            return {}


def _document(uri: str, examined: "Examined") -> Document:
    manifest = examined.manifest
    return {
        "source": uri,
        "digest": None if manifest is None else manifest.digest,
        "files": [] if manifest is None else [file.model_dump(mode="json") for file in manifest.files],
        "left_out": [] if manifest is None else list(manifest.left_out),
        "report": examined.report.model_dump(mode="json"),
        "signed": examined.signed,
        "signature": None if examined.signature is None else examined.signature.model_dump(mode="json"),
    }
