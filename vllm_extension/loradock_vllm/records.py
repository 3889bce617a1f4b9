"""Which record a server process keeps: its own when it is the engine's only one, else the one that it shares."""

from loradock_vllm.binding import EngineFacts
from loradock_vllm.errors import ConfigurationError, ExtensionError
from loradock_vllm.record import LocalRecord, Record
from loradock_vllm.runtime_folder import engine_folder
from loradock_vllm.settings import ExtensionSettings
from loradock_vllm.shared_record import SharedRecord


def open_record(facts: EngineFacts, settings: ExtensionSettings) -> Record:
    """The record of the engine that this process answers for.

    Raises:
        ConfigurationError: several processes have nowhere to meet.
    """
    if facts.api_servers == 1:
        return LocalRecord()
    folder = engine_folder(settings.runtime_folder, facts.port)
    try:
        return SharedRecord(folder, facts.api_servers, facts.max_loras)
    except (OSError, ValueError, ExtensionError) as error:
        raise ConfigurationError(f"the API server processes cannot share {folder}: {error}") from None
