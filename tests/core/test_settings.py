"""Settings: what is read, what is refused, and that no secret shows."""

import os
import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from loradock.core.errors import LoradockError
from loradock.core.settings import Settings, load_settings

LOGGING = {"LORADOCK_LOG_LEVEL", "LORADOCK_LOG_JSON"}


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("LORADOCK_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def _example(config: pytest.Config) -> dict[str, str]:
    text = (config.rootpath / ".env.example").read_text()
    return dict(re.findall(r"^#(LORADOCK_[A-Z0-9_]+)=(.*)$", text, re.MULTILINE))


def test_the_example_lists_every_setting_and_no_other(pytestconfig: pytest.Config) -> None:
    assert set(_example(pytestconfig)) - LOGGING == {
        f"LORADOCK_{name.upper()}" for name in Settings.model_fields
    }


def test_the_values_of_the_example_are_the_defaults(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in _example(pytestconfig).items():
        if value:
            monkeypatch.setenv(name, value)
    given = load_settings()
    monkeypatch.undo()
    assert given.model_dump(exclude={"staging_dir", "cache_dir"}) == load_settings().model_dump(
        exclude={"staging_dir", "cache_dir"}
    )


def test_the_example_has_no_value_where_there_is_no_default(pytestconfig: pytest.Config) -> None:
    for name, value in _example(pytestconfig).items():
        if name not in LOGGING and not value:
            field = Settings.model_fields[name.removeprefix("LORADOCK_").lower()]
            assert field.default_factory is not None or field.default in (None, ()), name


def test_a_dotenv_file_is_read_and_the_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("LORADOCK_POOL=from-file\nLORADOCK_AGENT_ID=from-file\nOTHER=x\n")
    monkeypatch.setenv("LORADOCK_POOL", "from-environment")
    settings = load_settings()
    assert (settings.pool, settings.agent_id) == ("from-environment", "from-file")


def test_lists_are_read_in_their_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORADOCK_FILE_ROOTS", os.pathsep.join(["/a", "/b c", ""]))
    monkeypatch.setenv("LORADOCK_SOURCE_BUCKETS", " one, two ,")
    monkeypatch.setenv("LORADOCK_ENGINES", "e0=http://h:1/, e1=https://h:2")
    monkeypatch.setenv("LORADOCK_API_TOKENS", '{"alice": "t1"}')
    settings = load_settings()
    assert settings.file_roots == (Path("/a"), Path("/b c"))
    assert settings.source_buckets == ("one", "two")
    assert settings.engines == (("e0", "http://h:1"), ("e1", "https://h:2"))
    assert settings.api_tokens["alice"].get_secret_value() == "t1"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LORADOCK_DATABASE_POOL_SIZE", "many-secret"),
        ("LORADOCK_DATABASE_POOL_SIZE", "0"),
        ("LORADOCK_ENGINES", "e0:secret"),
        ("LORADOCK_ENGINES", "=http://secret"),
        ("LORADOCK_AGENT_LEASE_SECONDS", "-1"),
        ("LORADOCK_TEMPORAL_TLS", "secret"),
    ],
)
def test_a_wrong_value_names_the_variable_and_never_the_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(LoradockError) as caught:
        load_settings()
    assert caught.value.code == "setting_invalid"
    assert name in caught.value.message
    assert "secret" not in caught.value.message


def test_malformed_json_of_tokens_is_a_setting_that_is_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORADOCK_API_TOKENS", '{"alice": "very-secret"')
    with pytest.raises(LoradockError) as caught:
        load_settings()
    assert caught.value.code == "setting_invalid"
    assert "LORADOCK_API_TOKENS" in caught.value.message
    assert "secret" not in caught.value.message


def test_no_secret_shows_in_the_repr_or_the_dump() -> None:
    names = [name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)]
    secrets = {name: SecretStr("hidden-value") for name in names if name != "api_tokens"}
    settings = load_settings(**secrets, api_tokens={"alice": SecretStr("hidden-value")})
    assert len(names) >= 6
    assert "hidden-value" not in repr(settings) + str(settings) + settings.model_dump_json()


def test_a_required_setting_comes_out_plain_or_is_named() -> None:
    settings = load_settings(api_token="plain")
    assert settings.require("api_token") == "plain"
    with pytest.raises(LoradockError, match="LORADOCK_DATABASE_URL is not set"):
        settings.require("database_url")


def test_the_engine_token_comes_from_its_file_or_the_setting(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("from-file\n")
    assert load_settings(engine_token_file=file).require_engine_token() == "from-file"
    assert load_settings(engine_token="given").require_engine_token() == "given"
    with pytest.raises(LoradockError, match="ENGINE_TOKEN_FILE cannot be read"):
        load_settings(engine_token_file=tmp_path / "none").require_engine_token()


def test_addresses_lose_their_trailing_slash() -> None:
    assert load_settings(api_url="http://x/", temporal_ui_url="http://y/").temporal_ui_url == "http://y"
