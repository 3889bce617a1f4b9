"""What the extension tells of the base model is what its config.json would tell."""

from types import SimpleNamespace
from typing import Any

from loradock.core.base_config import BaseConfig
from loradock_vllm.base_config import read_base_config

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 512,
}


def hf(**fields: Any) -> SimpleNamespace:
    return SimpleNamespace(**fields, rope_theta=1e6, _name_or_path="/somewhere")


def test_a_text_model() -> None:
    config = hf(**LLAMA)
    told = read_base_config(SimpleNamespace(hf_config=config, hf_text_config=config))
    assert told == LLAMA
    assert BaseConfig.of(told) == BaseConfig.of(LLAMA)


def test_a_text_model_inside_another() -> None:
    text = hf(**LLAMA)
    told = read_base_config(
        SimpleNamespace(hf_config=hf(model_type="llava", text_config=text), hf_text_config=text)
    )
    assert told == {"model_type": "llava", "text_config": LLAMA}
    assert BaseConfig.of(told).multimodal


def test_experts_are_told_by_their_presence_alone() -> None:
    told = read_base_config(SimpleNamespace(hf_config=hf(**LLAMA, num_experts=64)))
    assert told == LLAMA | {"num_experts": True}
    assert BaseConfig.of(told) == BaseConfig.of(LLAMA | {"num_experts": 64})


def test_what_has_another_form_is_left_out() -> None:
    told = read_base_config(
        SimpleNamespace(hf_config=hf(intermediate_size=[1, 2], model_type="x" * 999, head_dim=None))
    )
    assert told == {"model_type": "x" * 100}


def test_without_a_config_nothing_is_told() -> None:
    assert read_base_config(None) == {}
    assert read_base_config(SimpleNamespace(hf_config=None)) == {}
