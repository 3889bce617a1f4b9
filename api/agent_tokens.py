"""The file of agents' own tokens: a line `agent-id sha256` for each, so that one host cannot speak for another."""

import re
from pathlib import Path
from typing import Final

from loradock.core.errors import LoradockError
from loradock.core.names import check_simple_name

_HASH: Final = re.compile(r"[0-9a-f]{64}")


def read_agent_tokens(file: Path) -> list[tuple[bytes, str]]:
    """The hashes of the tokens, each with its agent's id; an agent may have several while its token is changed.

    Raises:
        LoradockError: `setting_invalid`; no hash is shown.
    """
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _invalid(f"it cannot be read ({type(error).__name__})") from None
    said = ((number, line.partition("#")[0].split()) for number, line in enumerate(lines, start=1))
    return [_entry(number, words) for number, words in said if words]


def _entry(number: int, words: list[str]) -> tuple[bytes, str]:
    if len(words) != 2 or not _HASH.fullmatch(words[1]):
        raise _invalid(f"line {number} is not an agent's id and the sha256 of its token in 64 hex digits")
    try:
        agent = check_simple_name(words[0])
    except LoradockError:
        raise _invalid(f"line {number} does not begin with an agent's id") from None
    return bytes.fromhex(words[1]), agent


def _invalid(why: str) -> LoradockError:
    return LoradockError("setting_invalid", f"LORADOCK_AGENT_TOKENS_FILE: {why}")
