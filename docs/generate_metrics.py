"""Rewrite the tables of docs/metrics.md from the catalog: `make docs`. A test keeps the two equal."""

import re
from pathlib import Path
from typing import Final

from loradock.metrics.catalog import SPECS, Kind, MetricSpec

PAGE: Final = Path(__file__).with_name("metrics.md")

_MARKED: Final = re.compile(r"(<!-- (?P<group>[a-z, ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def page(text: str) -> str:
    """The page with its tables as the catalog has them: each between `<!-- api -->` (or who has it) and `<!-- end -->`."""
    return _MARKED.sub(lambda found: found[1] + _table(found["group"]) + found[3], text)


def groups(text: str) -> list[str]:
    """Who has the metrics of each table, in the page's order."""
    return [found["group"] for found in _MARKED.finditer(text)]


def group_of(spec: MetricSpec) -> str:
    """In whose table a metric stands."""
    return ", ".join(spec.processes)


def _table(group: str) -> str:
    rows = [_row(spec) for spec in SPECS if group_of(spec) == group]
    head = ["| metric | type | unit | meaning | labels |", "| --- | --- | --- | --- | --- |"]
    return "\n".join(["", *head, *rows, "", ""])


def _row(spec: MetricSpec) -> str:
    labels = "<br>".join(f"`{name}`: {what}" for name, what in spec.labels) or "–"
    unit = spec.unit
    if spec.kind is Kind.HISTOGRAM:
        unit = f"{unit}, buckets to {spec.buckets[-1]:g}"
    return f"| `{spec.name}` | {spec.kind} | {unit} | {spec.meaning} | {labels} |"


def main() -> None:
    """Rewrite the page."""
    PAGE.write_text(page(PAGE.read_text()))


if __name__ == "__main__":
    main()
