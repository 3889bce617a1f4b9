"""What the metrics of all processes say of a story on the whole stack."""

from collections import defaultdict

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.dev.processes import wait_until
from tests.system.conftest import MakeAdapter
from tests.system.running import RunningStack

pytestmark = pytest.mark.slow

Values = dict[str, float]


def scrape(stack: RunningStack, *parts: str) -> Values:
    """Every value of these parts, by `part name{labels}`; the agents together as `agents`."""
    found: Values = defaultdict(float)
    for part in parts:
        url = stack.stack.info.metrics[part]
        page = httpx.get(url, headers={"Authorization": f"Bearer {stack.stack.info.token}"}, timeout=20)
        for family in text_string_to_metric_families(page.raise_for_status().text):
            for sample in family.samples:
                labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
                who = "agents" if part.startswith("agent-") else part
                found[f"{who} {sample.name}{{{labels}}}"] += sample.value
    return found


def test_a_story_is_told_by_the_metrics_of_all_processes_and_names_no_adapter(
    stack: RunningStack, make: MakeAdapter, name: str
) -> None:
    workers = ("orchestrator", "agent-1", "agent-2")
    before = scrape(stack, *workers)
    stack.publish(name, make())
    stack.faults(stack.engines[0], load_error="out of memory")
    assert stack.run(f"/v1/adapters/{name}/load", {"version": 1})["state"] == "failed"
    stack.faults()
    assert stack.run(f"/v1/adapters/{name}/load", {"version": 1})["state"] == "succeeded"
    assert stack.run(f"/v1/adapters/{name}/unload", {"version": 1})["state"] == "succeeded"

    def grown(key: str) -> float:
        return scrape(stack, *workers)[key] - before[key]

    for key, least in (
        ("orchestrator loradock_transfer_seconds_count{outcome=moved,transfer=fetch}", 1),
        ("orchestrator loradock_transfer_bytes_total{transfer=upload}", 1000),
        ("orchestrator loradock_loop_seconds_count{loop=relay}", 1),
        ("orchestrator loradock_loop_seconds_count{loop=reconciler}", 1),
        ("agents loradock_transfer_bytes_total{transfer=download}", 2000),
        ("agents loradock_engine_calls_total{call=load,engine=engine-2,outcome=loaded}", 1),
        ("agents loradock_engine_calls_total{call=unload,engine=engine-1,outcome=unloaded}", 1),
        ("agents loradock_activity_failures_total{activity=load_adapter,code=engine_error}", 1),
        ("agents loradock_lease_renewals_total{how=kept}", 1),
    ):
        assert wait_until(lambda key=key, least=least: grown(key) >= least, 30), (key, grown(key))
    after = scrape(stack, "api", *workers)
    calls = "api loradock_http_requests_total{method=POST,route=/v1/adapters/{name:path}/load,status=202}"
    assert after[calls] >= 2
    for kind, state, count in stack.rows("SELECT kind, state, count(*) FROM operations GROUP BY kind, state"):
        assert after[f"api loradock_operation_seconds_count{{kind={kind},state={state}}}"] == count
    assert after["api loradock_engines{pool=default,status=alive}"] == 2
    assert not [key for key in after if name in key]
