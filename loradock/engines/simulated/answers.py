"""What the simulated engine answers: a pure function of the weights' digest and the prompt, so tests can tell the truth."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

BASE: Final = "base"
"""Stands for the digest when no adapter is used."""

ANSWER_TOKENS: Final = 12
"""How many tokens an answer has that is not cut by `max_tokens`."""

MAX_TOKENS: Final = 4096
"""How many tokens an answer has at most, whatever is asked."""

_WORDS: Final = (
    "amber", "basil", "cedar", "delta", "ember", "fjord", "gamma", "hazel", "indigo", "juniper", "krill", "lagoon",
    "maple", "nectar", "onyx", "pearl",
)  # fmt: skip


def simulated_tokens(
    digest: str | None, prompt: str, max_tokens: int = ANSWER_TOKENS, *, ignore_end: bool = False
) -> list[str]:
    """The tokens of the answer, each a space and a word.

    Args:
        digest: `sha256:…` of the adapter that answers; None for the base model.
        prompt: the prompt; of a chat, what `chat_prompt` makes of its messages.
        max_tokens: where the answer is cut.
        ignore_end: go on to `max_tokens`, as with vLLM's `ignore_eos`.
    """
    count = min(max_tokens, MAX_TOKENS if ignore_end else ANSWER_TOKENS)
    stream = hashlib.shake_256(f"{digest or BASE}\0{prompt}".encode()).digest(max(0, count))
    return [f" {_WORDS[byte % len(_WORDS)]}" for byte in stream]


def simulated_text(digest: str | None, prompt: str, max_tokens: int = ANSWER_TOKENS) -> str:
    """The whole answer; see `simulated_tokens`."""
    return "".join(simulated_tokens(digest, prompt, max_tokens))


def chat_prompt(messages: Iterable[Mapping[str, Any]]) -> str:
    """A chat's messages as one prompt."""
    return "\n".join(f"{message.get('role', '')}: {message.get('content', '')}" for message in messages)
