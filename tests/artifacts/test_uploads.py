"""Where uploads go, on a real folder and a real S3: one contract, by whichever way the bytes come."""

import hashlib
import os
import re
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from loradock.artifacts.protocol import ObjectStore
from loradock.artifacts.sources.upload import UploadSource
from loradock.artifacts.stores.folder import FolderStore
from loradock.artifacts.stores.s3 import S3Store
from loradock.artifacts.uploads.area import UploadArea
from loradock.artifacts.uploads.folder import FolderUploads
from loradock.artifacts.uploads.s3 import S3Uploads
from loradock.core.ids import new_upload_id
from loradock.core.models import ManifestFile
from loradock.core.uploads import UploadPlace, UploadTransfer
from loradock.core.uris import UploadUri
from tests.artifacts.helpers import read_all, refused

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

PART = 5 * 1024 * 1024
LIMIT = 64 * 1024 * 1024


class Place:
    """A place of uploads, the store that it is in, and a caller who sends to it.

    Attributes:
        sent: bytes that the caller sent so far.
    """

    def __init__(self, uploads: UploadPlace, objects: ObjectStore) -> None:
        self.uploads, self.objects = uploads, objects
        self.area = UploadArea(objects)
        self.sent = 0

    def send(
        self,
        session: str,
        file: ManifestFile,
        begun: dict[str, str],
        data: bytes,
        *,
        stop_after: int | None = None,
    ) -> None:
        """Send what is missing; `stop_after` so many bytes (whole parts) the caller dies."""
        (there,) = self.uploads.received(session, [file], begun)
        if self.uploads.transfer is UploadTransfer.STREAM:
            end = len(data) if stop_after is None else min(len(data), there.received + stop_after)
            with self.uploads.writer(session, file, there.received) as writer:
                for at in range(there.received, end, 1_000_000):
                    piece = data[at : min(at + 1_000_000, end)]
                    self.sent += len(piece)
                    writer.write(piece)
                writer.finish()
            return
        count = -(-file.size // there.part_bytes)
        missing = [number for number in range(1, count + 1) if number not in there.parts]
        for address in self.uploads.part_addresses(session, file, begun, missing):
            if stop_after is not None and stop_after <= 0:
                return
            start = (address.number - 1) * there.part_bytes
            httpx.put(address.url, content=data[start : start + address.size]).raise_for_status()
            self.sent += address.size
            stop_after = None if stop_after is None else stop_after - address.size


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        folder = FolderStore(tmp_path / "store")
        return Place(FolderUploads(folder, max_bytes=LIMIT), folder)
    client: S3Client = request.getfixturevalue("s3")
    bucket: str = request.getfixturevalue("shared_bucket")
    prefix = f"uploads-{uuid.uuid4().hex[:8]}/"
    uploads = S3Uploads(client, bucket, prefix, max_bytes=LIMIT, part_bytes=PART)
    return Place(uploads, S3Store(client, bucket, prefix))


def declared(path: str, data: bytes) -> ManifestFile:
    return ManifestFile(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())


CONFIG, WEIGHTS, README = "adapter_config.json", "adapter_model.safetensors", "README.md"


def adapter(size: int = 2 * PART + 17) -> dict[str, bytes]:
    return {CONFIG: b"{}", README: b"", WEIGHTS: os.urandom(size)}


def begin(place: Place, content: dict[str, bytes]) -> tuple[str, list[ManifestFile], dict[str, str]]:
    files = [declared(path, data) for path, data in content.items()]
    session = new_upload_id()
    place.uploads.check(files)
    return session, files, place.uploads.begin(session, files)


def send_all(
    place: Place,
    session: str,
    files: Sequence[ManifestFile],
    begun: dict[str, str],
    content: dict[str, bytes],
) -> None:
    for file in files:
        if file.size:
            place.send(session, file, begun, content[file.path])


def test_what_was_sent_is_what_a_publish_reads(place: Place) -> None:
    content = adapter()
    session, files, begun = begin(place, content)
    send_all(place, session, files, begun, content)
    for _ in range(2):  # completing twice is completing once
        place.uploads.complete(session, files, begun)
    assert all(one.complete for one in place.uploads.received(session, files, begun))
    source, uri = UploadSource(place.objects), str(UploadUri(session))
    listed = source.list(uri)
    assert {file.path: read_all(source.fetch(uri, file)) for file in listed} == content
    assert list(place.objects.unfinished("uploads/")) == [] or place.uploads.transfer is UploadTransfer.STREAM


def test_an_interrupted_upload_goes_on_and_sends_only_what_is_missing(place: Place) -> None:
    content = {**adapter(3 * PART)}
    session, files, begun = begin(place, content)
    weights = files[-1]
    place.send(session, weights, begun, content[WEIGHTS], stop_after=PART)
    (there,) = place.uploads.received(session, [weights], begun)
    assert (there.received, there.complete) == (PART, False)
    with refused("upload_incomplete"):
        place.uploads.complete(session, files, begun)
    assert list(place.objects.list("uploads/")) == []
    send_all(place, session, files, begun, content)
    assert place.sent == sum(map(len, content.values()))
    place.uploads.complete(session, files, begun)


def test_all_of_a_session_can_be_found_and_removed_whatever_it_is_in_the_middle_of(place: Place) -> None:
    content = adapter()
    session, files, begun = begin(place, content)
    other, other_files, other_begun = begin(place, content)
    place.send(session, files[0], begun, content[CONFIG])
    place.send(session, files[-1], begun, content[WEIGHTS], stop_after=PART)
    send_all(place, other, other_files, other_begun, content)
    place.uploads.complete(other, other_files, other_begun)
    assert place.area.sessions() == {session, other}
    assert place.objects.sweep(older_than_seconds=-5) == []  # sessions' own parts are no killed writer's
    place.area.remove(session)
    assert place.area.sessions() == {other}
    place.area.remove(session)
    assert place.area.remove(other) == sum(map(len, content.values()))
    assert place.area.sessions() == set()
    assert list(place.objects.list("")) == []
    with refused("source_not_found"):
        UploadSource(place.objects).list(str(UploadUri(other)))


def test_what_a_session_began_and_nobody_kept_is_forgotten(place: Place) -> None:
    content = adapter()
    session, files, begun = begin(place, content)
    late = place.uploads.begin(session, files)
    place.uploads.forget(session, late)
    send_all(place, session, files, begun, content)
    place.uploads.complete(session, files, begun)


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ([CONFIG, WEIGHTS, "../x"], "upload_not_taken"),
        ([CONFIG, WEIGHTS, "/etc/passwd"], "upload_not_taken"),
        ([CONFIG, WEIGHTS, "a/../README.md"], "upload_not_taken"),
        ([CONFIG, WEIGHTS, "sub/README.md"], "upload_not_taken"),
        ([CONFIG, WEIGHTS, "optimizer.pt"], "upload_not_taken"),
        ([CONFIG, WEIGHTS, "READ\u202eME.md"], "upload_not_taken"),
        ([CONFIG, WEIGHTS, CONFIG], "upload_not_taken"),
        ([WEIGHTS], "config_missing"),
        ([CONFIG], "weights_missing"),
        ([CONFIG, "adapter_model.bin"], "pickle_refused"),
    ],
)
def test_only_an_adapters_own_files_are_taken(tmp_path: Path, files: list[str], code: str) -> None:
    uploads = FolderUploads(FolderStore(tmp_path), max_bytes=LIMIT)
    with refused(code):
        uploads.check([declared(path, b"x") for path in files])


def test_a_signature_travels_with_an_adapter_and_is_no_part_of_its_digest(place: Place) -> None:
    content = adapter(1000)
    plain = [declared(path, data) for path, data in content.items()]
    signed = [*plain, declared("model.sig", b"{}")]
    found = place.uploads.check(signed)
    assert (found.digest, found.beside) == (place.uploads.check(plain).digest, ("model.sig",))
    huge = declared("model.sig", b"").model_copy(update={"size": 2**20 + 1})
    with refused("upload_not_taken"):
        place.uploads.check([*plain, huge])
    # Where the artifact is stored, the signature alone comes, and both are read as one folder.
    for path, data in content.items():
        place.objects.put_if_absent(f"artifacts/{found.digest.replace(':', '-')}/{path}", data)
    place.objects.put_if_absent(f"artifacts/{found.digest.replace(':', '-')}/manifest.json", b"{}")
    session = new_upload_id()
    begun = place.uploads.begin(session, signed[-1:])
    place.send(session, signed[-1], begun, b"{}")
    place.uploads.complete(session, signed[-1:], begun)
    source, uri = UploadSource(place.objects), str(UploadUri(session, found.digest))
    read = {file.path: read_all(source.fetch(uri, file)) for file in source.list(uri)}
    assert read == {**content, "model.sig": b"{}"}
    with refused("upload_mismatch"):
        source.list(str(UploadUri(session, "sha256:" + "0" * 64)))


def test_more_than_allowed_is_not_begun(tmp_path: Path) -> None:
    uploads = FolderUploads(FolderStore(tmp_path), max_bytes=LIMIT)
    huge = declared(WEIGHTS, b"").model_copy(update={"size": LIMIT + 1})
    with refused("source_too_large"):
        uploads.check([declared(CONFIG, b"{}"), huge])


@pytest.mark.parametrize("session", ["..", "up-", "up-" + "G" * 32, "../" + "up-" + "0" * 32])
def test_no_session_leaves_the_area(tmp_path: Path, session: str) -> None:
    area = UploadArea(FolderStore(tmp_path))
    with refused("upload_not_found"):
        area.remove(session)


# --- What only one of the two ways has


@pytest.fixture
def parts(s3: "S3Client", shared_bucket: str) -> Place:
    prefix = f"parts-{uuid.uuid4().hex[:8]}/"
    uploads = S3Uploads(s3, shared_bucket, prefix, max_bytes=LIMIT, part_bytes=PART)
    return Place(uploads, S3Store(s3, shared_bucket, prefix))


Tamper = Callable[[str], str]


def test_an_address_is_good_for_its_part_and_its_size_alone(parts: Place) -> None:
    content = adapter()
    session, files, begun = begin(parts, content)
    weights = files[-1]
    address, other = parts.uploads.part_addresses(session, weights, begun, [1, 3])
    assert (address.size, other.size) == (PART, 17)
    assert repr(address) == f"PartAddress(number=1, size={PART})"
    for size in (PART + 1, PART - 1, 0):
        assert httpx.put(address.url, content=b"x" * size).status_code == 403
    for wrong in (
        address.url.replace("partNumber=1", "partNumber=2"),
        address.url.replace(WEIGHTS, "other"),
        re.sub("Expires=[0-9]+", "Expires=90000", address.url),
    ):
        assert wrong != address.url
        assert httpx.put(wrong, content=b"x" * PART).status_code == 403
    assert httpx.get(address.url).status_code in (403, 405)
    with refused("invalid_request"):
        parts.uploads.part_addresses(session, weights, begun, [4])


def test_an_address_is_worth_nothing_once_its_session_is_removed(parts: Place) -> None:
    content = adapter()
    session, files, begun = begin(parts, content)
    (address,) = parts.uploads.part_addresses(session, files[-1], begun, [1])
    parts.area.remove(session)
    assert httpx.put(address.url, content=content[WEIGHTS][:PART]).status_code == 404
    assert parts.area.sessions() == set()


@pytest.fixture
def streams(tmp_path: Path) -> Place:
    folder = FolderStore(tmp_path / "store")
    return Place(FolderUploads(folder, max_bytes=LIMIT), folder)


def test_a_stream_with_other_bytes_than_declared_leaves_nothing(streams: Place) -> None:
    content = adapter(1_000_000)
    session, files, _ = begin(streams, content)
    weights = files[-1]
    with refused("upload_mismatch"), streams.uploads.writer(session, weights, 0) as writer:
        writer.write(content[WEIGHTS][:-1] + b"x")
        writer.finish()
    assert streams.uploads.received(session, [weights], {})[0].received == 0
    with refused("upload_mismatch"), streams.uploads.writer(session, weights, 0) as writer:
        writer.write(content[WEIGHTS] + b"x")
    streams.send(session, weights, {}, content[WEIGHTS])


def test_a_stream_goes_on_only_where_the_last_one_ended_and_one_at_a_time(streams: Place) -> None:
    content = adapter(1_000_000)
    session, files, _ = begin(streams, content)
    weights = files[-1]
    with streams.uploads.writer(session, weights, 0) as writer:
        writer.write(content[WEIGHTS][:1000])
        with refused("upload_busy"), streams.uploads.writer(session, weights, 0):
            pass
        assert writer.finish() == 1000
    for offset in (0, 999, 1001):
        with refused("upload_busy"), streams.uploads.writer(session, weights, offset):
            pass
    streams.send(session, weights, {}, content[WEIGHTS])
    with refused("upload_busy"), streams.uploads.writer(session, weights, len(content[WEIGHTS])):
        pass
