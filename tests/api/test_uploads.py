"""Upload sessions as callers see them: whose they are, what they take, how long, and what a publish makes of them."""

import asyncio
import hashlib
import os
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import psycopg
import pytest

from api import uploads as api_uploads
from api.app import create_app
from api.dependencies import ApiDependencies
from loradock.artifacts.protocol import ObjectStore
from loradock.artifacts.s3 import s3_client
from loradock.artifacts.stores.folder import FolderStore
from loradock.artifacts.stores.s3 import S3Store
from loradock.artifacts.uploads.area import UploadArea
from loradock.artifacts.uploads.folder import FolderUploads
from loradock.artifacts.uploads.s3 import S3Uploads
from loradock.core.models import OperationState
from loradock.core.uploads import UploadPlace
from loradock.registry import operations
from tests.api import world as api_world
from tests.api.conftest import ALICE_TOKEN, assert_problem, client_of
from tests.api.world import World
from tests.fixtures.infra import ObjectStoreServer

LIMIT = 50_000_000
CONFIG, WEIGHTS = b"{}", os.urandom(300_000)
CONTENT = {"adapter_config.json": CONFIG, "adapter_model.safetensors": WEIGHTS}
PATH = "/v1/adapters/greeter/uploads"


def declared(path: str, data: bytes, **changes: object) -> dict[str, object]:
    return {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), **changes}


FILES = [declared(path, data) for path, data in CONTENT.items()]


@dataclass
class Bench:
    """An API that takes uploads, and its callers."""

    parts: ApiDependencies
    place: UploadPlace
    objects: ObjectStore
    client: httpx.AsyncClient
    alice: httpx.AsyncClient

    async def open(
        self, client: httpx.AsyncClient | None = None, path: str = PATH, **changes: Any
    ) -> dict[str, Any]:
        response = await (client or self.client).post(path, json={"files": FILES, **changes})
        assert response.status_code in (200, 201), response.text
        found: dict[str, Any] = response.json()
        return found

    async def send(self, upload: dict[str, Any], index: int, data: bytes) -> httpx.Response:
        """Send all of a small file."""
        path = f"/v1/uploads/{upload['id']}/files/{index}"
        if upload["transfer"] == "stream":
            return await self.client.put(path, content=data)
        (part,) = (await self.client.post(f"{path}/parts", json={"parts": [1]})).json()["parts"]
        async with httpx.AsyncClient() as store:
            return await store.put(part["url"], content=data)

    async def filled(self) -> dict[str, Any]:
        upload = await self.open()
        for index, data in enumerate(CONTENT.values()):
            assert (await self.send(upload, index, data)).is_success
        done = await self.client.post(f"/v1/uploads/{upload['id']}/complete")
        assert done.json()["state"] == "complete", done.text
        return upload

    async def publish(
        self,
        upload: dict[str, Any],
        client: httpx.AsyncClient | None = None,
        adapter: str = "greeter",
        **body: Any,
    ) -> httpx.Response:
        path = f"/v1/adapters/{adapter}/versions"
        return await (client or self.client).post(path, json={"source": {"uri": upload["uri"]}, **body})


def _place(request: pytest.FixtureRequest, kind: str) -> tuple[UploadPlace, ObjectStore]:
    if kind == "folder":
        folder = FolderStore(request.getfixturevalue("tmp_path") / "store")
        return FolderUploads(folder, max_bytes=LIMIT), folder
    server: ObjectStoreServer = request.getfixturevalue("object_store_server")
    patch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    for name, value in server.environment.items():
        patch.setenv(name, value)
    client, bucket = s3_client(endpoint=server.endpoint, region=server.region), server.bucket()
    prefix = f"{uuid.uuid4().hex[:6]}/"
    return S3Uploads(client, bucket, prefix, max_bytes=LIMIT), S3Store(client, bucket, prefix)


@pytest.fixture
async def bench(request: pytest.FixtureRequest, parts: ApiDependencies) -> AsyncIterator[Bench]:
    place, objects = _place(request, getattr(request, "param", "folder"))
    app = create_app(replace(parts, uploads=place))
    async with client_of(app) as client, client_of(app, ALICE_TOKEN) as alice:
        await World(parts.database).engines("e0")
        yield Bench(parts, place, objects, client, alice)


both = pytest.mark.parametrize("bench", ["folder", "s3"], indirect=True)


@both
async def test_from_the_first_byte_to_the_operation(bench: Bench) -> None:
    upload = await bench.open()
    assert upload["state"] == "open"
    assert [(file["path"], file["received"], file["complete"]) for file in upload["files"]] == [
        ("adapter_config.json", 0, False), ("adapter_model.safetensors", 0, False),
    ]  # fmt: skip
    assert_problem(await bench.publish(upload), 409, "upload_incomplete")
    assert_problem(await bench.client.post(f"/v1/uploads/{upload['id']}/complete"), 409, "upload_incomplete")
    assert (await bench.send(upload, 0, CONFIG)).is_success
    again = await bench.open()
    assert (again["id"], again["files"][0]["received"]) == (upload["id"], len(CONFIG))
    assert (await bench.send(upload, 1, WEIGHTS)).is_success
    for _ in range(2):
        done = (await bench.client.post(f"/v1/uploads/{upload['id']}/complete")).json()
        assert done["state"] == "complete"
    assert_problem(
        await bench.client.put(f"/v1/uploads/{upload['id']}/files/0", content=b""), 409, "upload_ended"
    )

    operation = (await bench.publish(upload)).json()
    assert operation["request"]["uri"] == upload["uri"] == f"upload://{upload['id']}"
    assert operation["request"]["expect_digest"] == upload["digest"]
    assert (await bench.publish(upload)).json()["id"] == operation["id"]
    assert ((await bench.open())["id"], (await bench.open())["state"]) == (upload["id"], "publishing")
    assert_problem(await bench.client.get(f"/v1/uploads/{upload['id']}"), 409, "upload_ended")
    events = (await bench.client.get("/v1/audit", params={"adapter": "greeter"})).json()
    actions = [item["action"] for item in events["items"]]
    assert [one for one in actions if one.startswith("upload")] == ["upload.completed", "upload.begun"]
    assert "Signature" not in str(events)


async def test_a_session_is_its_actors_alone(bench: Bench) -> None:
    upload = await bench.filled()
    path = f"/v1/uploads/{upload['id']}"
    for call in (
        bench.alice.get(path),
        bench.alice.put(f"{path}/files/0", content=b"{}"),
        bench.alice.post(f"{path}/files/0/parts", json={"parts": [1]}),
        bench.alice.post(f"{path}/complete"),
        bench.publish(upload, bench.alice),
        bench.publish(upload, adapter="other"),
        bench.client.get(f"/v1/uploads/up-{'0' * 32}"),
    ):
        assert_problem(await call, 404, "upload_not_found")
    assert (await bench.open(bench.alice))["id"] != upload["id"]


async def test_an_upload_that_was_published_under_a_key_is_the_same_request_by_another_session(
    bench: Bench, world: World
) -> None:
    key = {"Idempotency-Key": "deploy-42"}
    body = {"source": {"uri": (await bench.filled())["uri"]}}
    first = (await bench.client.post("/v1/adapters/greeter/versions", json=body, headers=key)).json()
    await world.end(await world.begun(await _view(bench, first["id"])), OperationState.FAILED)
    body = {"source": {"uri": (await bench.filled())["uri"]}}
    again = await bench.client.post("/v1/adapters/greeter/versions", json=body, headers=key)
    assert (again.status_code, again.json()["id"]) == (200, first["id"])


async def test_a_failed_publish_of_an_upload_is_repeated_from_its_folder_not_retried(
    bench: Bench, world: World
) -> None:
    first = (await bench.publish(await bench.filled())).json()
    await world.end(await world.begun(await _view(bench, first["id"])), OperationState.FAILED)
    for client in (bench.client, bench.alice):
        assert_problem(await client.post(f"/v1/operations/{first['id']}/retry"), 409, "upload_ended")


async def _view(bench: Bench, operation: str) -> Any:
    async with bench.parts.database.read() as reader:
        return await operations.get_operation(reader, operation)


async def test_a_session_whose_time_is_over_takes_nothing_more(bench: Bench, migrated_url: str) -> None:
    upload = await bench.filled()
    with psycopg.connect(migrated_url) as connection:
        connection.execute("UPDATE uploads SET expires_at = now()")
    path = f"/v1/uploads/{upload['id']}"
    assert_problem(await bench.client.get(path), 410, "upload_expired")
    assert_problem(await bench.client.put(f"{path}/files/0", content=b"{}"), 410, "upload_expired")
    assert_problem(await bench.client.post(f"{path}/complete"), 410, "upload_expired")
    assert_problem(await bench.publish(upload), 410, "upload_expired")
    assert (await bench.client.get("/v1/operations")).json()["items"] == []
    fresh = await bench.open()
    assert fresh["id"] != upload["id"]


async def test_a_digest_alone_gives_nobody_anything_but_a_version_of_the_same_adapter(
    bench: Bench, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await bench.open(path="/v1/adapters/probe/uploads")
    known = api_world.manifest_of("one").model_copy(update={"digest": upload["digest"]})
    monkeypatch.setattr(api_world, "manifest_of", lambda _: known)
    await world.version("greeter")
    same = await bench.open()
    assert (same["stored"], same["state"]) == (True, "complete")
    operation = (await bench.publish(same)).json()
    assert operation["request"]["uri"] == f"upload://{same['id']}/{upload['digest'].replace(':', '-')}"
    other = await bench.open(path="/v1/adapters/other/uploads")
    assert (other["stored"], other["state"]) == (False, "open")
    # Nobody but the API says where bytes are taken from.
    forged = {**other, "uri": f"upload://{other['id']}/{upload['digest'].replace(':', '-')}"}
    assert_problem(await bench.publish(forged, adapter="other"), 422, "invalid_source_uri")
    sent = await bench.open(bench.alice, reuse=False)
    assert (sent["stored"], sent["state"]) == (False, "open")


async def test_who_asked_for_stored_bytes_may_send_them_after_all(
    bench: Bench, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = (await bench.open(path="/v1/adapters/probe/uploads"))["digest"]
    known = api_world.manifest_of("one").model_copy(update={"digest": digest})
    monkeypatch.setattr(api_world, "manifest_of", lambda _: known)
    await world.version("greeter")
    assert (await bench.open())["stored"]
    assert not (await bench.open(reuse=False))["stored"]


async def test_beside_stored_bytes_a_signature_alone_is_awaited(
    bench: Bench, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsigned = await bench.open()
    signed = await bench.open(files=[*FILES, declared("model.sig", b"{}")])
    assert signed["id"] != unsigned["id"]
    assert signed["digest"] == unsigned["digest"]
    known = api_world.manifest_of("one").model_copy(update={"digest": signed["digest"]})
    monkeypatch.setattr(api_world, "manifest_of", lambda _: known)
    await world.version("greeter")
    upload = await bench.open(files=[*FILES, declared("model.sig", b"[]")])
    assert (upload["state"], upload["stored"]) == ("open", True)
    assert [file["complete"] for file in upload["files"]] == [True, True, False]
    assert_problem(await bench.send(upload, 1, WEIGHTS), 422, "invalid_request")
    assert (await bench.send(upload, 2, b"[]")).is_success
    assert (await bench.client.post(f"/v1/uploads/{upload['id']}/complete")).json()["state"] == "complete"
    request = (await bench.publish(upload)).json()["request"]
    assert request["uri"].endswith(upload["digest"].replace(":", "-"))


async def test_another_digest_than_expected_is_told_at_once(bench: Bench) -> None:
    upload = await bench.filled()
    response = await bench.publish(upload, expect_digest="sha256:" + "0" * 64)
    assert_problem(response, 422, "digest_mismatch")
    assert (await bench.publish(upload, expect_digest=upload["digest"])).status_code == 202


NOT_TAKEN: list[tuple[list[dict[str, object]], str]] = [
    ([*FILES, declared("../../etc/cron.d/x", b"x")], "upload_not_taken"),
    ([*FILES, declared("/etc/passwd", b"x")], "upload_not_taken"),
    ([*FILES, declared("a\\b", b"x")], "upload_not_taken"),
    ([*FILES, declared("training_args.bin", b"x")], "upload_not_taken"),
    ([FILES[0], declared("adapter_model.safetensors", WEIGHTS, size=LIMIT + 1)], "source_too_large"),
    ([FILES[0], declared("adapter_model.safetensors", WEIGHTS, size=2**70)], "invalid_request"),
    ([FILES[0], declared("adapter_model.safetensors", WEIGHTS, size=-1)], "invalid_request"),
    ([FILES[0], declared("adapter_model.safetensors", WEIGHTS, sha256="x")], "invalid_request"),
    ([*FILES, declared("a\0b", b"x")], "invalid_request"),
    ([], "invalid_request"),
    (FILES * 60, "invalid_request"),
    (FILES[:1], "weights_missing"),
]


async def test_what_no_adapter_needs_is_not_begun(bench: Bench) -> None:
    for files, code in NOT_TAKEN:
        assert_problem(await bench.client.post(PATH, json={"files": files}), 422, code)
    assert UploadArea(bench.objects).sessions() == set()
    assert (await bench.client.get("/v1/audit", params={"adapter": "greeter"})).json()["items"] == []


async def test_where_uploads_are_off_it_says_so_and_what_else_helps(client: httpx.AsyncClient) -> None:
    body = assert_problem(await client.post(PATH, json={"files": FILES}), 501, "uploads_off")
    assert "LORADOCK_OBJECT_STORE" in str(body["remedy"])
    assert "--no-upload" in str(body["remedy"])
    for path in ("/v1/uploads/up-" + "0" * 32,):
        assert_problem(await client.get(path), 501, "uploads_off")


@both
async def test_many_who_begin_at_once_share_one_session(bench: Bench) -> None:
    opened = await asyncio.gather(*(bench.open() for _ in range(8)))
    assert len({upload["id"] for upload in opened}) == 1
    upload = opened[0]
    for index, data in enumerate(CONTENT.values()):
        assert all(one.is_success or one.status_code == 409 for one in await asyncio.gather(
            *(bench.send(upload, index, data) for _ in range(4))
        ))  # fmt: skip
    assert (await bench.client.post(f"/v1/uploads/{upload['id']}/complete")).json()["state"] == "complete"
    UploadArea(bench.objects).remove(upload["id"])
    assert UploadArea(bench.objects).sessions() == set()  # nothing stayed of those that were too late


async def test_one_actor_has_so_many_under_way_and_no_more(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loradock.registry.uploads.MOST_STANDING", 2)
    for adapter in ("a", "b"):
        await bench.open(path=f"/v1/adapters/{adapter}/uploads")
    full = await bench.client.post("/v1/adapters/c/uploads", json={"files": FILES})
    assert_problem(full, 429, "too_many_requests")
    await bench.open(path="/v1/adapters/a/uploads")  # what is under way can be gone on with
    await bench.open(bench.alice)


# --- Streams to the API


async def test_a_stream_is_taken_from_any_offset_that_is_there(bench: Bench) -> None:
    upload = await bench.open()
    path = f"/v1/uploads/{upload['id']}/files/1"
    first = await bench.client.put(path, content=WEIGHTS[:100_000])
    assert first.json() == {"received": 100_000}
    wrong = assert_problem(await bench.client.put(path, content=b"x"), 409, "upload_busy")
    assert wrong["received"] == 100_000
    rest = await bench.client.put(path, params={"offset": 100_000}, content=WEIGHTS[100_000:])
    assert rest.json() == {"received": len(WEIGHTS)}


async def test_a_stream_that_breaks_off_keeps_what_came(bench: Bench) -> None:
    upload = await bench.open()

    async def broken() -> AsyncIterator[bytes]:
        yield WEIGHTS[:100_000]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await api_uploads.take_stream(
            replace(bench.parts, uploads=bench.place),
            "operator",
            upload["id"],
            index=1,
            offset=0,
            stream=broken(),
        )
    assert (await bench.open())["files"][1]["received"] == 100_000


async def test_a_caller_who_falls_silent_is_let_go(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_uploads, "SILENCE_SECONDS", 0.05)
    upload = await bench.open()

    async def silent() -> AsyncIterator[bytes]:
        yield WEIGHTS[:10]
        await asyncio.Event().wait()

    response = await bench.client.put(f"/v1/uploads/{upload['id']}/files/1", content=silent())
    assert_problem(response, 409, "upload_incomplete")
    assert (await bench.open())["files"][1]["received"] == 10


async def test_a_stream_of_other_bytes_or_more_than_declared_is_refused(bench: Bench) -> None:
    upload = await bench.open()
    path = f"/v1/uploads/{upload['id']}/files/1"
    for wrong in (WEIGHTS[:-1] + bytes([WEIGHTS[-1] ^ 1]), WEIGHTS + b"x"):
        assert_problem(await bench.client.put(path, content=wrong), 422, "upload_mismatch")
    assert_problem(await bench.client.put(path.replace("/1", "/7"), content=b"x"), 422, "invalid_request")
    assert_problem(await bench.client.post(f"{path}/parts", json={"parts": [1]}), 422, "invalid_request")


async def test_a_body_over_the_services_limit_is_not_even_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = bench.parts.settings.model_copy(update={"source_max_bytes": 1})
    app = create_app(replace(bench.parts, uploads=bench.place, settings=settings))
    upload = await bench.open()
    async with client_of(app) as client:
        path = f"/v1/uploads/{upload['id']}/files/1"
        assert_problem(await client.put(path, content=b"x" * (2**20 + 1)), 413, "request_too_large")
        too_long = await client.post(path, content=b"x" * (2**20 + 1))
        assert_problem(too_long, 413, "request_too_large")
