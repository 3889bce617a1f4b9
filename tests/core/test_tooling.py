"""pip's settings reach uv: a machine where pip works needs no further set-up."""

import importlib.util
from types import ModuleType

import pytest


@pytest.fixture
def script(pytestconfig: pytest.Config) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "pip_settings", pytestconfig.rootpath / ".ci" / "pip_settings.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_lists_come_in_uvs_form(script: ModuleType) -> None:
    given = {
        "index-url": ["https://index.test/simple"],
        "extra-index-url": ["https://a.test/x", "https://b.test/y"],
        "find-links": ["/one", "/two"],
        "trusted-host": ["index.test"],
        "cert": ["/ca.pem"],
        "no-index": ["true"],
    }
    assert script.uv_settings(given) == {
        "UV_DEFAULT_INDEX": "https://index.test/simple",
        "UV_INDEX": "https://a.test/x https://b.test/y",
        "UV_FIND_LINKS": "/one,/two",
        "UV_INSECURE_HOST": "index.test",
        "SSL_CERT_FILE": "/ca.pem",
        "UV_NO_INDEX": "1",
    }


def test_without_settings_nothing_is_set(script: ModuleType) -> None:
    assert script.uv_settings({"no-index": ["false"]}) == {}


def test_the_environment_beats_the_file_and_install_beats_global(script: ModuleType) -> None:
    listing = "\n".join(
        [
            "global.find-links='/global'",
            "install.find-links='/install'",
            ":env:.find-links='/environment /second'",
            "global.index-url='https://global.test'",
            "install.index-url='https://install.test'",
            "global.timeout='10'",
            "a line that is no setting",
        ]
    )
    found = script.parse_settings(listing)
    assert found["find-links"] == ["/environment", "/second"]
    assert found["index-url"] == ["https://install.test"]
