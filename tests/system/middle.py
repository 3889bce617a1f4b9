"""Three operations held in their middle at once: a publish, a load and an unload."""

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.system.conftest import MakeAdapter
from tests.system.running import RunningStack, Snapshot, Stream, eventually, source

LOAD_SECONDS = 2.5


@dataclass
class Middle:
    """Three operations under way.

    Attributes:
        loading: adapter whose version 2 is in add_lora on both engines; version 1 serves.
        unloading: adapter whose only version drains on engine-1 and is gone from engine-2.
        publishing: adapter whose first version, from `folder`, is being uploaded to a store that stands still.
        load, unload, publish: the operations' ids.
        stream: the request on engine-1 that the drain waits for; ended after the block.
        before: what there was before the three began.
    """

    loading: str
    unloading: str
    publishing: str
    folder: Path
    load: str
    unload: str
    publish: str
    stream: Stream
    before: Snapshot

    @property
    def operations(self) -> tuple[str, str, str]:
        return self.load, self.unload, self.publish


@contextlib.contextmanager
def in_the_middle(stack: RunningStack, make: MakeAdapter, name: str) -> Iterator[Middle]:
    """Hold the three in their middle; after the block everything that they wait for goes on."""
    loading, unloading, publishing = (f"{name}-{what}" for what in ("load", "unload", "publish"))
    begun = [
        stack.begin(f"/v1/adapters/{adapter}/versions", {"source": source(make(f"{adapter}-1"))})["id"]
        for adapter in (loading, unloading)
    ]
    assert [stack.ended(one)["state"] for one in begun] == ["succeeded", "succeeded"]
    begun = [stack.begin(f"/v1/adapters/{one}/load", {"version": 1})["id"] for one in (loading, unloading)]
    stack.publish(loading, make(f"{loading}-2"))
    assert [stack.ended(one)["state"] for one in begun] == ["succeeded", "succeeded"]
    before, folder = stack.snapshot(), make(publishing)
    stack.faults(token_seconds=0.05, load_seconds=LOAD_SECONDS)
    with stack.streaming("engine-1", f"{unloading}@1", tokens=600) as stream:
        try:
            unload = stack.begin(f"/v1/adapters/{unloading}/unload", {"drain": "60s"})["id"]
            eventually(lambda: f"{unloading}@1" not in stack.held("engine-2"), "engine-2 is not unloaded")
            load = stack.begin(f"/v1/adapters/{loading}/load", {"version": 2})["id"]
            eventually(lambda: all(stack.step_runs(load, "load", one) for one in stack.engines), "no load")
            stack.signal("seaweedfs", signal.SIGSTOP)
            publish = stack.begin(f"/v1/adapters/{publishing}/versions", {"source": source(folder)})["id"]
            eventually(lambda: version_states(stack, publishing) == ["publishing"], "no publish")
            middle = Middle(loading, unloading, publishing, folder, load, unload, publish, stream, before)
            states = stack.rows("SELECT state FROM operations WHERE id = ANY(%s)", list(middle.operations))
            assert states == [("running",)] * 3
            yield middle
        finally:
            stack.repair()
            stream.wait()


def version_states(stack: RunningStack, adapter: str) -> list[str]:
    answer = stack.request("GET", f"/v1/adapters/{adapter}/versions")
    return [one["state"] for one in answer.json()["items"]] if answer.status_code == 200 else []
