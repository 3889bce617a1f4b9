"""The catalog of metrics, its page, and the rules that Prometheus has for both."""

import importlib.util
import re
from types import ModuleType
from typing import Any

import pytest
import yaml

from loradock.metrics.catalog import CATALOG, SPECS, Kind, MetricSpec, Process
from loradock.metrics.instruments import Family, Instruments

ALL = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)


@pytest.fixture(scope="module")
def generator(pytestconfig: pytest.Config) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "generate_metrics", pytestconfig.rootpath / "docs" / "generate_metrics.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_tables_are_what_the_catalog_makes_and_miss_none(generator: ModuleType) -> None:
    text: str = generator.PAGE.read_text()
    assert text == generator.page(text), "run 'make docs'"
    assert {generator.group_of(spec) for spec in SPECS} == set(generator.groups(text))
    for spec in SPECS:
        assert text.count(f"\n| `{spec.name}` |") == 1


def test_a_change_of_the_catalog_changes_the_page(
    generator: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "SPECS", SPECS[1:])
    text: str = generator.PAGE.read_text()
    assert generator.page(text) != text


@ALL
def test_every_metric_is_named_as_prometheus_wants_it(spec: MetricSpec) -> None:
    assert re.fullmatch(r"loradock_[a-z]+(_[a-z]+)*", spec.name)
    assert spec.name.endswith("_total") == (spec.kind is Kind.COUNTER)
    assert not spec.name.endswith(("_count", "_sum", "_bucket", "_created"))
    if spec.unit in {"seconds", "bytes"}:
        assert re.search(rf"_{spec.unit}(_total)?$", spec.name)
    if spec.unit == "seconds since 1970":
        assert spec.name.endswith("_timestamp_seconds")
    assert spec.meaning.endswith(".") or spec.unit == "seconds since 1970" or ":" in spec.meaning
    assert bool(spec.buckets) == (spec.kind is Kind.HISTOGRAM)
    assert list(spec.buckets) == sorted(set(spec.buckets))


@ALL
def test_no_label_holds_what_callers_invent(spec: MetricSpec) -> None:
    bounded = {
        "version", "process", "method", "route", "status", "kind", "state", "pool", "engine", "agent", "outcome",
        "transfer", "code", "activity", "loop", "call", "how",
    }  # fmt: skip
    assert set(spec.label_names) <= bounded
    assert len(set(spec.label_names)) == len(spec.label_names)


def test_names_are_the_catalogs_alone() -> None:
    assert len(CATALOG) == len(SPECS)


def test_an_instrument_is_made_only_as_the_catalog_has_it() -> None:
    made = Instruments(Process.AGENT)
    with pytest.raises(KeyError):
        made.counter("loradock_something_total")
    with pytest.raises(ValueError, match="is a histogram"):
        made.counter("loradock_transfer_seconds")
    with pytest.raises(ValueError, match="api"):
        made.gauge("loradock_engines")


def test_a_family_takes_the_catalogs_labels_and_the_kind_of_value_that_it_has() -> None:
    with pytest.raises(ValueError, match="labels"):
        Family("loradock_engines").add(1, pool="p")
    with pytest.raises(ValueError, match="summary"):
        Family("loradock_converge_seconds").add(1)
    with pytest.raises(ValueError, match="gauge"):
        Family("loradock_leases_ending").add_sum(1, 2)


def _blocks(page: str) -> list[Any]:
    return [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]


def test_the_examples_parse_and_name_metrics_and_labels_that_there_are(generator: ModuleType) -> None:
    text: str = generator.PAGE.read_text()
    scrape, alerts = _blocks(text)
    assert {job["job_name"] for job in scrape["scrape_configs"]} == {
        "loradock-api", "loradock-orchestrator", "loradock-agent",
    }  # fmt: skip
    (group,) = alerts["groups"]
    assert len(group["rules"]) >= 4
    for rule in group["rules"]:
        used = set(re.findall(r"loradock_[a-z_]+", rule["expr"]))
        assert used
        assert used <= set(CATALOG), rule["alert"]
        labels = {name for one in used for name in CATALOG[one].label_names} | {"instance", "job"}
        assert set(re.findall(r"(\w+)(?:=~|!=|!~|=)\"", rule["expr"])) <= labels, rule["alert"]
        shown = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        assert shown <= labels, rule["alert"]


def test_every_metric_that_the_page_speaks_of_exists(generator: ModuleType) -> None:
    text: str = generator.PAGE.read_text()
    for name in set(re.findall(r"`[^`\n]*?(loradock_[a-z_]+)", text)):
        base = re.sub(r"_(sum|count|bucket)$", "", name)
        group = name.endswith("_")  # `loradock_cache_…`
        assert base in CATALOG or (group and any(one.startswith(name) for one in CATALOG)), name
