"""What a refused load means, read from vLLM's texts: it tells mistakes and breakdowns alike with status 500.

The extension reads the same texts inside the engine. It cannot be imported here: hosts of stock engines do not have it. A
test keeps both tables equal.
"""

import re
from typing import Final

_WRAPPERS: Final = (
    re.compile(r"^Call to add_lora method failed: (?P<text>.*)$", re.DOTALL),
    re.compile(
        r"^.*Worker failed with error '(?P<text>.*)', please check the stack trace above.*$",
        re.DOTALL,
    ),
)

# In this order: an adapter with several faults is told the one that is hardest to mend.
PATTERNS: Final = tuple(
    (code, re.compile(pattern))
    for code, pattern in (
        ("engine_not_supported", r"LoRA is not enabled"),
        ("artifact_missing", r"Loading lora .* failed: No adapter found for"),
        (
            "adapter_not_supported",
            r"does not yet support DoRA|vLLM does not support (?:LoRA bias|init_lora_weights|Activated LoRA"
            r"|layer_replication|block-diagonal LoRA|QALoRA)|vLLM only supports modules_to_save"
            r"|Adapter bias is not supported|Only one full classification module",
        ),
        ("unexpected_modules", r"expected target modules in .* but received"),
        ("rank_too_high", r"LoRA rank \d+ is greater than max_lora_rank"),
        (
            "wrong_base_model",
            r"[Tt]he (?:expanded )?size of (?:the )?tensor.* must match|size mismatch for"
            r"|mat1 and mat2 shapes|embedding LoRA size|[Ss]hape mismatch|shape '.*' is invalid for input",
        ),
        (
            "adapter_corrupt",
            r"Error while deserializing header|incomplete metadata|file not fully covered"
            r"|doesn't contain tensors|Missing required configuration fields|LoRA rank `r` must be a positive"
            r"|Expecting value: line|Expecting property name|Extra data: line|Unterminated string"
            r"|Full module .* is missing weight|codec can't decode",
        ),
        ("no_free_slot", r"No free (?:lora|adapter) slots|All items are pinned"),
    )
)


def unwrap(text: str) -> str:
    """The worker's own words, without what the layers above put around them."""
    for _ in range(4):
        match = next((found for wrapper in _WRAPPERS if (found := wrapper.match(text))), None)
        if match is None:
            break
        text = match["text"]
    return text.strip()


def classify(text: str) -> str:
    """The code of a failed load: one of the caller's faults where the text is known, else `engine_error`."""
    plain = unwrap(text)
    for code, pattern in PATTERNS:
        if pattern.search(plain):
            return code
    return "engine_error"
