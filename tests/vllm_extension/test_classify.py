"""The texts are vLLM's own, as they were seen."""

import pytest

from loradock_vllm.classify import classify, unwrap

TEXTS = {
    "LoRA rank 32 is greater than max_lora_rank 16.": "rank_too_high",
    "Error while deserializing header: header too large": "adapter_corrupt",
    "Error while deserializing header: incomplete metadata, file not fully covered": "adapter_corrupt",
    "/cache/x doesn't contain tensors": "adapter_corrupt",
    "Missing required configuration fields: {'r'}": "adapter_corrupt",
    "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)": "adapter_corrupt",
    "While loading /cache/x, expected target modules in {'q_proj', 'o_proj'} but received"
    " ['model.layers.0.self_attn.w_pack']. Please verify that the loaded LoRA module is correct": "unexpected_modules",
    "The size of tensor a (128) must match the size of tensor b (256) at non-singleton dimension 1": "wrong_base_model",
    "vLLM does not yet support DoRA.": "adapter_not_supported",
    "vLLM does not support LoRA bias (lora_bias).": "adapter_not_supported",
    'vLLM only supports modules_to_save being either None or ["classifier", "score"]': "adapter_not_supported",
    "Adapter bias is not supported.": "adapter_not_supported",
    "vLLM does not yet support DoRA. LoRA rank 32 is greater than max_lora_rank 16.": "adapter_not_supported",
    "Loading lora greeter@1 failed: No adapter found for /cache/x": "artifact_missing",
    "LoRA is not enabled. Use --enable-lora to enable LoRA.": "engine_not_supported",
    "No free lora slots": "no_free_slot",
    "All items are pinned, cannot remove oldest from the cache.": "no_free_slot",
    "EngineCore encountered an issue. See stack trace (above) for the root cause.": "engine_error",
    "CUDA out of memory. Tried to allocate 20.00 MiB": "engine_error",
    "": "engine_error",
}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    "frame",
    [
        "{}",
        "Call to add_lora method failed: {}",
        "Worker failed with error '{}', please check the stack trace above for the root cause",
        "Call to add_lora method failed: Worker failed with error '{}', please check the stack trace above for the"
        " root cause",
    ],
)
def test_a_text_has_its_code_however_it_is_wrapped(text: str, frame: str) -> None:
    assert classify(frame.format(text)) == TEXTS[text]
    assert unwrap(frame.format(text)) == text


def test_a_path_cannot_pretend_to_be_an_error() -> None:
    assert classify("CUDA error while reading /cache/rank_too_high/x") == "engine_error"
