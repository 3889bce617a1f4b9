"""Sources of one's own: brought by a package, judged like anybody's folder."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loradock.artifacts.build import open_sources, open_staging
from loradock.artifacts.sources.custom import DownloadingSource, as_source, check_scheme
from loradock.artifacts.sources.spool import Spool
from loradock.core.settings import Settings
from loradock.core.uris import check_source_uri, installed_schemes
from tests.artifacts.helpers import read_all, refused
from tests.artifacts.samples import make_adapter

MODULE = """
from pathlib import Path
from loradock.artifacts.sources.file import FileSource

class Whole(FileSource):
    def __init__(self):
        super().__init__([Path({folder!r})])
    def list(self, uri, progress=None):
        return super().list("file://" + {folder!r} + "/" + uri.partition("://")[2], progress)
    def fetch(self, uri, file, progress=None):
        return super().fetch("file://" + {folder!r} + "/" + uri.partition("://")[2], file, progress)

class Simple:
    async def exists(self, lora_uri):
        return True
    async def download(self, lora_uri, dest_path):
        return Path({folder!r}, lora_uri.partition("://")[2])

instance = Simple()
def broken():
    raise RuntimeError("hunter2")
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed distribution with entry points, as pip leaves it."""
    site, folder = tmp_path / "site", tmp_path / "there"
    info = site / "my_sources-1.0.dist-info"
    info.mkdir(parents=True)
    make_adapter(folder / "greeter")
    (site / "my_sources.py").write_text(MODULE.format(folder=str(folder)))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-sources\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[loradock.sources]\nwhole=my_sources:Whole\nsimple=my_sources:Simple\nready=my_sources:instance\n"
        "broken=my_sources:broken\ngone=my_sources:nothing\ns3=my_sources:Simple\n"
    )
    monkeypatch.syspath_prepend(str(site))
    installed_schemes.cache_clear()
    yield folder
    installed_schemes.cache_clear()
    sys.modules.pop("my_sources", None)


def settings(tmp_path: Path, *schemes: str) -> Settings:
    return Settings(_env_file=None, source_schemes=schemes, staging_dir=tmp_path / "staging")  # type: ignore[call-arg]


@pytest.mark.parametrize("scheme", ["whole", "simple", "ready"])
def test_an_installed_source_is_published_from(package: Path, tmp_path: Path, scheme: str) -> None:
    assert check_source_uri(f"{scheme}://greeter") == f"{scheme}://greeter"
    staged = open_staging(settings(tmp_path, scheme)).stage(f"{scheme}://greeter")
    weights = "adapter_model.safetensors"
    assert (staged.path / weights).read_bytes() == (package / "greeter" / weights).read_bytes()


def test_an_installed_source_counts_only_when_it_is_named(package: Path, tmp_path: Path) -> None:
    assert installed_schemes() >= {"whole", "simple"}
    with refused("unsupported_scheme"):
        open_sources(settings(tmp_path, "file")).list("whole://greeter")


@pytest.mark.parametrize("scheme", ["broken", "gone", "nobody", "Whole", "a b"])
def test_a_source_that_cannot_be_made_is_a_wrong_setting(package: Path, tmp_path: Path, scheme: str) -> None:
    with refused("setting_invalid") as caught:
        open_sources(settings(tmp_path, scheme))
    assert "hunter2" not in str(caught.value)


def test_a_package_cannot_take_the_place_of_ours(package: Path, tmp_path: Path) -> None:
    assert "s3" not in installed_schemes()
    with refused("source_not_allowed"):
        open_sources(settings(tmp_path, "s3")).list("s3://bucket/greeter")
    with refused("setting_invalid"):
        check_scheme("https")


class Hostile:
    def __init__(self, made: object) -> None:
        self.made = made

    async def exists(self, lora_uri: str) -> bool:
        return True

    async def download(self, lora_uri: str, dest_path: Path) -> Path:
        dest_path.mkdir()
        (dest_path / "passwd").symlink_to("/etc/passwd")
        return self.made or dest_path  # type: ignore[return-value]


def test_a_download_that_links_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    with refused("source_not_allowed"):
        DownloadingSource(Hostile(None), Spool(tmp_path)).list("mine://a")


@pytest.mark.parametrize("made", ["/no/such/folder", 7, "/etc/passwd"])
def test_a_download_that_gives_no_folder_is_told(tmp_path: Path, made: object) -> None:
    with refused("source_unavailable"):
        DownloadingSource(Hostile(made), Spool(tmp_path)).list("mine://a")


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    with refused("setting_invalid"):
        as_source(object(), Spool(tmp_path))


class Made:
    async def exists(self, lora_uri: str) -> bool:
        return True

    async def download(self, lora_uri: str, dest_path: Path) -> Path:
        return make_adapter(dest_path, seed=len(lora_uri))


def test_old_copies_make_room_and_are_made_again(tmp_path: Path) -> None:
    source = DownloadingSource(Made(), Spool(tmp_path / "spool", keep=1))
    file = source.list("mine://a")[0]
    source.list("mine://bb")
    assert len(list((tmp_path / "spool").iterdir())) == 1
    expected = make_adapter(tmp_path / "same", seed=len("mine://a")) / file.path
    assert read_all(source.fetch("mine://a", file)) == expected.read_bytes()
