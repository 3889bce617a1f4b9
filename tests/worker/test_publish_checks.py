"""A publish from API to registry, on real servers: of what does not fit its base not a byte is stored, and what is
published is what lies at the address when it is asked for."""

import asyncio
import json
import shutil
import struct
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from activities.artifacts import ArtifactActivities
from activities.collection import CollectionActivities
from activities.progress import TransferSlots
from api.app import create_app
from api.dependencies import ApiDependencies
from loradock.artifacts.protocol import Progress
from loradock.artifacts.sources.file import FileSource
from loradock.artifacts.sources.registry import SourceSet
from loradock.artifacts.staging import Staging
from loradock.artifacts.store import ArtifactStore
from loradock.artifacts.stores.folder import FolderStore
from tests.api.conftest import api_database, client_of, live_parts, migrated_url
from tests.artifacts.helpers import manifest_of
from tests.artifacts.samples import make_adapter
from worker import search_attributes
from worker.orchestrator import lifecycle_worker, transfer_worker
from worker.temporal import connect

__all__ = ["api_database", "live_parts", "migrated_url"]

LLAMA = {
    "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 128, "intermediate_size": 256,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
}  # fmt: skip


class GatedStore(FolderStore):
    """A folder store before which what is stored can be held up."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.waiting = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def put_file(self, key: str, path: Path, *, size: int, sha256: str, progress: Progress) -> None:
        self.waiting.set()
        assert self.gate.wait(60)
        super().put_file(key, path, size=size, sha256=sha256, progress=progress)


@dataclass
class Service:
    """API and orchestrator in this process."""

    client: httpx.AsyncClient
    sources: Path
    store: Path
    objects: GatedStore

    async def ask(self, folder: Path, *, wait: int = 0, key: str | None = None) -> httpx.Response:
        """The answer to a publish."""
        body = {"source": {"uri": folder.as_uri()}, "base_model": "org/tiny"}
        headers = {} if key is None else {"Idempotency-Key": key}
        return await self.client.post(
            "/v1/adapters/greeter/versions", params={"wait": wait}, json=body, headers=headers
        )

    async def publish(self, folder: Path) -> dict[str, Any]:
        """The publish as it ended."""
        response = await self.ask(folder, wait=60)
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    async def report(self, version: int) -> dict[str, Any]:
        found: dict[str, Any] = (await self.client.get(f"/v1/adapters/greeter/versions/{version}")).json()
        return dict(found["report"])

    def stored(self) -> list[str]:
        return [path.name for path in self.store.rglob("*") if path.is_file()]


@pytest.fixture
async def service(live_parts: ApiDependencies, tmp_path: Path) -> AsyncIterator[Service]:
    sources = tmp_path / "sources"
    staging = Staging(tmp_path / "staging", SourceSet({"file": FileSource([sources])}), max_bytes=100_000_000)
    objects = GatedStore(tmp_path / "store")
    store = ArtifactStore(objects)
    database = live_parts.database
    collection = CollectionActivities(database, store, staging)
    temporal = await connect(live_parts.settings)
    await search_attributes.register(temporal)
    with ThreadPoolExecutor(2) as executor:
        artifacts = ArtifactActivities(staging, store, TransferSlots(2))
        lifecycle = lifecycle_worker(temporal, database, collection, executor)
        transfers = transfer_worker(temporal, artifacts, executor)
        async with lifecycle, transfers, client_of(create_app(live_parts)) as client:
            yield Service(client, sources, tmp_path / "store", objects)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_what_fits_is_published_with_its_report_and_the_rest_is_refused(service: Service) -> None:
    before = await service.publish(make_adapter(service.sources / "early", layers=7, seed=1))
    assert before["state"] == "succeeded", before
    report = await service.report(1)
    assert report["base"]["notes"] == ["not checked against a base: no config of 'org/tiny' is known"]

    answer = await service.client.put("/v1/base-models/org/tiny", json=LLAMA)
    assert answer.status_code == 200
    good = await service.publish(make_adapter(service.sources / "good", rank=32, seed=2))
    assert good["state"] == "succeeded", good
    report = await service.report(2)
    assert (report["verdict"], report["base"]["checked"]) == ("conditional", True)
    assert report["base"]["fingerprint"].startswith("sha256:")
    assert report["scan"]["numbers"] == report["traits"]["parameters"]

    stored = service.stored()
    for name, shape, code in (
        ("more layers", {"layers": 3}, "base_model_mismatch"),
        ("wider", {"hidden": 256}, "base_model_mismatch"),
        ("other names", {"modules": ("q_proj", "c_attn")}, "base_model_mismatch"),
        ("not finite", {}, "weights_not_finite"),
    ):
        folder = make_adapter(service.sources / name, seed=3, **shape)  # type: ignore[arg-type]
        if code == "weights_not_finite":
            weights = folder / "adapter_model.safetensors"
            weights.write_bytes(weights.read_bytes()[:-4] + struct.pack("<f", float("inf")))
        ended = await service.publish(folder)
        assert (ended["state"], ended["error"]["code"]) == ("failed", code), json.dumps(ended)
        assert "self_attn." in ended["error"]["message"]
    assert service.stored() == stored
    versions = (await service.client.get("/v1/adapters/greeter/versions")).json()["items"]
    assert [item["version"] for item in versions] == [2, 1]


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_weights_that_are_overwritten_while_their_forerunners_are_stored_are_not_taken_for_published(
    service: Service,
) -> None:
    folder = make_adapter(service.sources / "latest", seed=1)
    old = manifest_of(folder).digest
    service.objects.gate.clear()
    first = (await service.ask(folder, key="first")).json()
    assert await asyncio.to_thread(service.objects.waiting.wait, 60)

    shutil.rmtree(folder)
    new = manifest_of(make_adapter(folder, seed=2)).digest
    refused = await service.ask(folder, key="second")
    assert (refused.status_code, refused.json()["code"]) == (409, "adapter_busy")
    assert refused.json()["operation"] == first["id"]
    assert (await service.ask(folder, key="first")).json()["id"] == first["id"]

    service.objects.gate.set()
    ended = await service.client.get(f"/v1/operations/{first['id']}", params={"wait": 60})
    assert (ended.json()["state"], ended.json()["result"]["digest"]) == ("succeeded", old)
    again = await service.ask(folder, key="second", wait=60)
    assert (again.json()["state"], again.json()["result"]["digest"]) == ("succeeded", new)
