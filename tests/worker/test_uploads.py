"""A folder published from elsewhere, all the way: the command as a process, API, orchestrator, and each kind of store."""

import asyncio
import json
import signal
import struct
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from temporalio.client import WorkflowFailureError

from activities.artifacts import ArtifactActivities
from activities.collection import CollectionActivities
from activities.progress import TransferSlots
from api.dependencies import ApiDependencies
from loradock.artifacts.hashing import hash_file
from loradock.artifacts.protocol import NoProgress, ObjectStore
from loradock.artifacts.s3 import s3_client
from loradock.artifacts.sources.registry import SourceSet
from loradock.artifacts.sources.upload import UploadSource
from loradock.artifacts.staging import Staging
from loradock.artifacts.store import ArtifactStore
from loradock.artifacts.stores.folder import FolderStore
from loradock.artifacts.stores.s3 import S3Store
from loradock.artifacts.uploads.folder import FolderUploads
from loradock.artifacts.uploads.s3 import S3Uploads
from loradock.cli.main import run as run_command
from loradock.core.ids import workflow_id
from loradock.core.uploads import UploadPlace
from tests.api.conftest import OPERATOR_TOKEN, api_database, bearer, live_parts, migrated_url, serving
from tests.artifacts.helpers import manifest_of
from tests.artifacts.samples import make_adapter
from tests.fixtures.infra import ObjectStoreServer
from worker import search_attributes
from worker.orchestrator import lifecycle_worker, transfer_worker
from worker.temporal import connect

__all__ = ["api_database", "live_parts", "migrated_url"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LIMIT = 100_000_000
PART = 5 * 1024 * 1024


class Gate:
    """A TCP line that lets so many bytes through to the server, and then holds all that comes.

    Attributes:
        carried: bytes that went to the server.
        limit: None for all.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._to = (parts.hostname, parts.port)
        self.carried = 0
        self.limit: int | None = None
        self.shut = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> str:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self._server = server
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        self._server.close()
        await self.drop()

    async def drop(self) -> None:
        """End all connections, with what is held of them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with suppress(OSError):
            there, back = await asyncio.open_connection(*self._to)
            pumps = [
                asyncio.create_task(self._pump(reader, back, counts=True)),
                asyncio.create_task(self._pump(there, writer)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                back.close()
                writer.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counts: bool = False
    ) -> None:
        while data := await reader.read(65536):
            while counts and self.limit is not None and self.carried >= self.limit:
                self.shut.set()
                await asyncio.sleep(0.02)
            self.carried += len(data) if counts else 0
            writer.write(data)
            await writer.drain()


@dataclass
class Service:
    """API and orchestrator in this process, a gate before what the command sends bytes to."""

    gate: Gate
    http: httpx.AsyncClient
    parts: ApiDependencies
    store: ArtifactStore
    objects: ObjectStore
    folder: Path
    capture: pytest.CaptureFixture[str]

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """The command as a process, to be killed."""
        return await asyncio.create_subprocess_exec(sys.executable, "-m", "loradock", *arguments)

    async def run(self, *arguments: str) -> tuple[int, str, str]:
        """The command in a thread of this process, which is quicker."""
        code = await asyncio.to_thread(run_command, arguments)
        out, err = self.capture.readouterr()
        assert "Traceback" not in err, err
        assert "Signature" not in out + err
        return code, out, err

    async def get(self, path: str, **query: str) -> dict[str, Any]:
        response = await self.http.get(path, params=query)
        response.raise_for_status()
        found: dict[str, Any] = response.json()
        return found

    async def workflows_end(self) -> None:
        """Until all is done that comes after the operations' ends; then nothing of any upload is left."""
        for operation in (await self.get("/v1/operations"))["items"]:
            with suppress(WorkflowFailureError):
                await self.parts.temporal.get_workflow_handle(workflow_id(operation["id"])).result()
        assert await asyncio.to_thread(self.store.uploads.sessions) == set()

    def read(self, key: str) -> bytes:
        with self.objects.open(key) as reader:
            buffer, data = memoryview(bytearray(2**20)), bytearray()
            while count := reader.readinto(buffer):
                data += buffer[:count]
        return bytes(data)


@pytest.fixture(params=["folder", "s3"])
async def service(
    request: pytest.FixtureRequest,
    live_parts: ApiDependencies,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> AsyncIterator[Service]:
    place: UploadPlace
    objects: ObjectStore
    gate: Gate | None = None
    if request.param == "s3":
        server: ObjectStoreServer = request.getfixturevalue("object_store_server")
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        gate = Gate(server.endpoint)
        public = s3_client(endpoint=await gate.open(), region=server.region)
        client, bucket = s3_client(endpoint=server.endpoint, region=server.region), server.bucket()
        objects = S3Store(client, bucket, "store/")
        place = S3Uploads(client, bucket, "store/", max_bytes=LIMIT, public=public, part_bytes=PART)
    else:
        objects = folder_store = FolderStore(tmp_path / "store")
        place = FolderUploads(folder_store, max_bytes=LIMIT)
    parts = replace(live_parts, uploads=place)
    sources = SourceSet({"upload": UploadSource(objects)})
    staging = Staging(tmp_path / "staging", sources, max_bytes=LIMIT)
    store = ArtifactStore(objects)
    collection = CollectionActivities(parts.database, store, staging)
    temporal = await connect(parts.settings)
    await search_attributes.register(temporal)
    with ThreadPoolExecutor(100) as executor:
        artifacts = ArtifactActivities(staging, store, TransferSlots(2))
        lifecycle = lifecycle_worker(temporal, parts.database, collection, executor)
        async with (
            lifecycle,
            transfer_worker(temporal, artifacts, executor),
            serving(parts) as api,
            httpx.AsyncClient(base_url=api.url, headers=bearer(OPERATOR_TOKEN), timeout=60) as http,
        ):
            url = api.url
            if gate is None:
                gate = Gate(api.url)
                url = await gate.open()
            monkeypatch.setenv("LORADOCK_API_URL", url)
            monkeypatch.setenv("LORADOCK_API_TOKEN", OPERATOR_TOKEN)
            yield Service(gate, http, parts, store, objects, tmp_path, capsys)
            await gate.close()


def large_adapter(folder: Path) -> Path:
    """Of four parts."""
    make_adapter(folder, rank=64, hidden=4096, layers=8, modules=("q_proj",))
    assert 3 * PART < (folder / "adapter_model.safetensors").stat().st_size < 4 * PART
    return folder


async def test_killed_in_the_middle_and_repeated_it_goes_on_and_later_sends_nothing_at_all(
    service: Service,
) -> None:
    folder = large_adapter(service.folder / "greeter")
    size = sum(path.stat().st_size for path in folder.iterdir())
    publish = ("publish", "greeter", str(folder), "--base-model", "tiny-llama")
    # Three parts at once are under way, and these are more bytes than three parts: at least one is there as a whole.
    service.gate.limit = 3 * PART + 300_000
    process = await service.start(*publish)
    await asyncio.wait_for(service.gate.shut.wait(), 60)
    process.send_signal(signal.SIGKILL)
    assert await process.wait() == -signal.SIGKILL
    await service.gate.drop()
    assert (await service.get("/v1/operations"))["items"] == []
    begun = (await service.get("/v1/audit", adapter="greeter"))["items"][0]["detail"]["upload"]
    there = sum(file["received"] for file in (await service.get(f"/v1/uploads/{begun}"))["files"])
    assert there >= 1_000_000

    before, service.gate.limit = service.gate.carried, None
    code, out, err = await service.run(*publish)
    assert code == 0, err
    manifest = manifest_of(folder)
    assert out == f"greeter@1 published\n  {manifest.digest}\n"
    assert "were there already" in err
    assert service.gate.carried - before < size - there + 200_000
    version = await service.get("/v1/adapters/greeter/versions/1")
    assert version["manifest"]["files"] == [file.model_dump() for file in manifest.files]
    assert version["source_uri"].startswith("upload://up-")
    assert version["report"]["scan"]["numbers"] == version["traits"]["parameters"]
    assert await asyncio.to_thread(service.store.manifest, manifest.digest)
    await service.workflows_end()

    before = service.gate.carried
    code, out, err = await service.run(*publish)
    assert (code, out.splitlines()[0]) == (0, "greeter@1 was already published"), err
    assert service.gate.carried - before < 100_000
    await service.workflows_end()

    # What a signature opens is nowhere that anybody reads later.
    audit = await service.get("/v1/audit", limit="200")
    operations = await service.get("/v1/operations")
    assert [item["state"] for item in operations["items"]] == ["succeeded"] * 2
    temporal = service.parts.temporal
    histories = [
        (await temporal.get_workflow_handle(workflow_id(item["id"])).fetch_history()).to_json()
        for item in operations["items"]
    ]
    assert "Signature" not in json.dumps([audit, operations, histories])
    actions = [item["action"] for item in reversed(audit["items"]) if item["action"].startswith("upload")]
    assert actions == ["upload.begun", "upload.completed", "upload.ended", "upload.begun", "upload.ended"]


async def test_a_damaged_stored_copy_is_found_and_replaced_by_the_bytes(service: Service) -> None:
    folder = make_adapter(service.folder / "greeter")
    publish = ("publish", "greeter", str(folder), "--base-model", "tiny-llama")
    assert (await service.run(*publish))[0] == 0
    manifest = manifest_of(folder)
    key = f"artifacts/{manifest.digest.replace(':', '-')}/adapter_model.safetensors"
    good = service.read(key)
    damaged = service.folder / "damaged"
    damaged.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    await asyncio.to_thread(_put, service.objects, key, damaged)
    code, out, err = await service.run(*publish)
    assert (code, out.splitlines()[0]) == (0, "greeter@1 was already published"), err
    assert "The stored copy of this version is damaged" in err
    assert service.read(key) == good
    await service.workflows_end()


def _put(objects: ObjectStore, key: str, path: Path) -> None:
    found = hash_file(path, NoProgress(), limit=2**40)
    objects.put_file(key, path, size=found.size, sha256=found.sha256, progress=NoProgress())


async def test_bytes_that_are_not_what_was_declared_are_refused_and_removed(service: Service) -> None:
    folder = make_adapter(service.folder / "greeter")
    manifest = manifest_of(folder)
    files = [file.model_dump() for file in manifest.files]
    upload = (await service.http.post("/v1/adapters/greeter/uploads", json={"files": files})).json()
    path = f"/v1/uploads/{upload['id']}/files"
    for index, file in enumerate(files):
        data = (folder / file["path"]).read_bytes()
        wrong = data[:-1] + bytes([data[-1] ^ 1]) if file["path"].endswith(".safetensors") else data
        if upload["transfer"] == "stream":
            answer = await service.http.put(f"{path}/{index}", content=wrong)
            assert (answer.status_code == 422) == (wrong != data)
            if wrong != data:
                assert answer.json()["code"] == "upload_mismatch"
            continue
        (part,) = (await service.http.post(f"{path}/{index}/parts", json={"parts": [1]})).json()["parts"]
        answer = await asyncio.to_thread(httpx.put, part["url"], content=wrong)
        assert answer.is_success
    if upload["transfer"] == "stream":
        return
    assert (await service.http.post(f"/v1/uploads/{upload['id']}/complete")).is_success
    body = {"source": {"uri": upload["uri"]}, "base_model": "tiny-llama"}
    ended = await service.http.post("/v1/adapters/greeter/versions", params={"wait": 60}, json=body)
    assert (ended.json()["state"], ended.json()["error"]["code"]) == ("failed", "upload_mismatch")
    assert (await service.get("/v1/adapters/greeter/versions"))["items"] == []
    await service.workflows_end()
    assert list(service.objects.list("")) == []


async def test_two_commands_at_once_end_with_the_same_version(service: Service) -> None:
    folder = large_adapter(service.folder / "greeter")
    publish = ("publish", "greeter", str(folder), "--base-model", "tiny-llama")
    ran = await asyncio.gather(*(service.run(*publish) for _ in range(2)))
    assert [code for code, _, _ in ran] == [0, 0], ran
    assert "".join(out for _, out, _ in ran).count(manifest_of(folder).digest) == 2
    assert len((await service.get("/v1/adapters/greeter/versions"))["items"]) == 1


@pytest.mark.parametrize("service", ["folder"], indirect=True)
async def test_what_can_be_told_here_is_told_before_a_byte_is_sent(service: Service) -> None:
    folder = make_adapter(service.folder / "greeter")
    code, _, err = await service.run(
        "publish", "greeter", str(folder), "--expect-digest", "sha256:" + "0" * 64
    )
    assert (code, "[digest_mismatch]" in err) == (4, True)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + struct.pack("<f", float("nan")))
    code, out, err = await service.run("publish", "greeter", str(folder), "--json")
    assert (code, json.loads(out)["code"]) == (3, "weights_not_finite")
    assert "[weights_not_finite]" in err
    assert service.gate.carried == 0
