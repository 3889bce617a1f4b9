from pathlib import Path

import pytest

from loradock_vllm.errors import ConfigurationError
from loradock_vllm.pace import LoadLimits
from loradock_vllm.settings import DEFAULT_MAX_BODY_BYTES, ExtensionSettings

TOKEN = "0123456789abcdef"


def test_a_token_is_enough() -> None:
    settings = ExtensionSettings.from_environment({"LORADOCK_EXTENSION_TOKEN": TOKEN})
    assert settings.token == TOKEN
    assert settings.usable_slots is None
    assert settings.max_body_bytes == DEFAULT_MAX_BODY_BYTES


def test_the_token_can_lie_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert ExtensionSettings.from_environment({"LORADOCK_EXTENSION_TOKEN_FILE": str(file)}).token == TOKEN


def test_the_token_is_in_no_representation() -> None:
    assert TOKEN not in repr(ExtensionSettings(token=TOKEN))


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"LORADOCK_EXTENSION_TOKEN": ""},
        {"LORADOCK_EXTENSION_TOKEN": TOKEN[:-1]},
        {"LORADOCK_EXTENSION_TOKEN": "ünprintable-token-of-length"},
        {"LORADOCK_EXTENSION_TOKEN": "two words of enough length"},
        {"LORADOCK_EXTENSION_TOKEN_FILE": "/nonexistent/token"},
        {"LORADOCK_EXTENSION_TOKEN": TOKEN, "LORADOCK_EXTENSION_TOKEN_FILE": "/tmp/token"},
        {"LORADOCK_EXTENSION_TOKEN": TOKEN, "LORADOCK_EXTENSION_USABLE_SLOTS": "many"},
        {"LORADOCK_EXTENSION_TOKEN": TOKEN, "LORADOCK_EXTENSION_USABLE_SLOTS": "-1"},
        {"LORADOCK_EXTENSION_TOKEN": TOKEN, "LORADOCK_EXTENSION_MAX_BODY_BYTES": "0"},
        {"LORADOCK_EXTENSION_TOKEN": TOKEN, "LORADOCK_EXTENSION_LOADS_PER_MINUTE": "0"},
        {"LORADOCK_EXTENSION_TOKEN": TOKEN, "LORADOCK_EXTENSION_LOAD_PAUSE_SECONDS": "-1"},
        {"LORADOCK_EXTENSION_TOKEN": TOKEN, "LORADOCK_EXTENSION_LOAD_PAUSE_SECONDS": "nan"},
        {"LORADOCK_EXTENSION_TOKEN": TOKEN, "LORADOCK_EXTENSION_RUNTIME_FOLDER": "relative"},
        {"LORADOCK_EXTENSION_TOKEN": TOKEN, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"},
        {"LORADOCK_EXTENSION_TOKEN": TOKEN, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"},
        {"LORADOCK_EXTENSION_TOKEN": TOKEN, "VLLM_SKIP_MODEL_NAME_VALIDATION": "1"},
    ],
)
def test_a_setting_that_is_wrong_or_unsafe_is_refused_without_telling_the_token(
    environment: dict[str, str],
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ExtensionSettings.from_environment(environment)
    assert TOKEN[:-1] not in str(caught.value)


def test_the_pace_of_loads_and_the_meeting_place_can_be_set() -> None:
    environment = {
        "LORADOCK_EXTENSION_TOKEN": TOKEN,
        "LORADOCK_EXTENSION_LOAD_PAUSE_SECONDS": "0.5",
        "LORADOCK_EXTENSION_LOADS_PER_MINUTE": "6",
        "LORADOCK_EXTENSION_RUNTIME_FOLDER": "/run/loradock",
    }
    settings = ExtensionSettings.from_environment(environment)
    assert settings.load_limits == LoadLimits(pause_seconds=0.5, per_minute=6)
    assert settings.runtime_folder == Path("/run/loradock")


def test_vllm_s_own_switches_may_be_off() -> None:
    environment = {
        "LORADOCK_EXTENSION_TOKEN": TOKEN,
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "False",
        "LORADOCK_EXTENSION_USABLE_SLOTS": "0",
    }
    assert ExtensionSettings.from_environment(environment).usable_slots == 0
