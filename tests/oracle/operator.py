"""Somebody who publishes, loads, aborts and unloads without rest, and notes what he believes to be served."""

import random
import time

from tests.oracle.timeline import Residence, Timeline
from tests.system.running import Document, RunningStack

CODES = {"no_free_slot", "operation_cancelled", "adapter_busy", "version_not_loaded"}
"""What an operation may end or be refused with here."""


class Operator:
    """Random changes through the API, one after the other.

    Args:
        versions: served names that may be loaded.
    """

    def __init__(self, stack: RunningStack, timeline: Timeline, versions: list[str], seed: int) -> None:
        self._stack = stack
        self._timeline = timeline
        self._versions = versions
        self._random = random.Random(seed)
        self.done = 0
        self.failed = 0

    def step(self) -> None:
        """One change, to its end."""
        name = self._random.choice(self._versions)
        if self._served(name):
            self._unload(name)
        else:
            self._load(name, abort=self._random.random() < 0.2)
        self.done += 1

    def _served(self, name: str) -> bool:
        return any(self._timeline.now(one, name) is Residence.SERVED for one in self._stack.engines)

    def _load(self, name: str, *, abort: bool) -> None:
        adapter, version = name.split("@")
        self._note(name, Residence.CHANGING)
        answer = self._stack.request("POST", f"/v1/adapters/{adapter}/load", {"version": int(version)})
        if answer.status_code != 202:
            self._refused(answer.json())
            self._note(name, Residence.ABSENT)
            return
        operation = answer.json()["id"]
        if abort:
            time.sleep(self._random.random() * 0.3)
            self._stack.request("POST", f"/v1/operations/{operation}/abort")
        self._settle(name, self._stack.ended(operation), Residence.SERVED, Residence.ABSENT)

    def _unload(self, name: str) -> None:
        adapter, version = name.split("@")
        self._note(name, Residence.CHANGING)
        body = {"version": int(version), "force": True, "drain": self._random.choice(["0s", "5s"])}
        answer = self._stack.request("POST", f"/v1/adapters/{adapter}/unload", body)
        assert answer.status_code == 202, answer.text
        self._settle(name, self._stack.ended(answer.json()["id"]), Residence.ABSENT, Residence.SERVED)

    def _settle(self, name: str, ended: Document, succeeded: Residence, otherwise: Residence) -> None:
        if ended["state"] != "succeeded":
            self.failed += 1
            self._refused(ended["error"])
        self._note(name, succeeded if ended["state"] == "succeeded" else otherwise)

    def _refused(self, problem: Document) -> None:
        assert problem["code"] in CODES, problem

    def _note(self, name: str, residence: Residence) -> None:
        for engine in self._stack.engines:
            self._timeline.note(engine, name, residence, time.monotonic())
