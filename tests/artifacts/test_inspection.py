"""What can be served passes with its traits; everything else is refused and says why."""

import json
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loradock.artifacts.inspection import check_base, inspect_folder
from loradock.artifacts.peft_config import parse_config
from loradock.core.errors import LoradockError
from tests.artifacts.helpers import refused
from tests.artifacts.samples import lora_tensors, make_adapter, peft_config, safetensors_bytes

LLAMA = {
    "num_hidden_layers": 2,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
ALL_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def with_tensors(folder: Path, tensors: Mapping[str, Any], **config: Any) -> Path:
    make_adapter(folder, config=config)
    (folder / "adapter_model.safetensors").write_bytes(safetensors_bytes(tensors))
    return folder


def floats(*shape: int) -> tuple[str, tuple[int, ...], bytes]:
    count = 1
    for size in shape:
        count *= size
    return "F32", shape, struct.pack(f"<{count}f", *([0.5] * count))


def test_the_traits_of_a_plain_adapter(tmp_path: Path) -> None:
    found = inspect_folder(make_adapter(tmp_path, rank=4, layers=3, modules=ALL_MODULES, base="org/base"))
    traits = found.traits
    assert traits.peft_base_model == "org/base"
    assert (traits.rank, traits.alpha, traits.use_rslora, traits.dtype) == (4, 8.0, False, "F32")
    assert traits.target_modules == tuple(sorted(ALL_MODULES))
    assert (traits.layers, traits.tensors) == (3, 3 * 7 * 2)
    sizes = sum(module.rank * (module.size_in + module.size_out) for module in found.modules)
    assert traits.parameters == sizes


def test_the_rank_is_the_one_that_an_engine_compares(tmp_path: Path) -> None:
    found = inspect_folder(make_adapter(tmp_path, rank=4, config={"rank_pattern": {"unused": 64}}))
    assert found.traits.rank == 64


@pytest.mark.parametrize(
    "pattern",
    [
        {"v_proj": 2},
        {"self_attn.v_proj": 2},
        {"^model.layers.0.self_attn.v_proj": 2},
        {r"model\.layers\.0\.self_attn\.v_proj": 2},
        {"v_proj": 2, "self_attn.v_proj": 7},
    ],
)
def test_ranks_by_pattern_are_understood(tmp_path: Path, pattern: dict[str, int]) -> None:
    tensors = {
        **lora_tensors(rank=4, layers=1, modules=("q_proj",)),
        **lora_tensors(rank=2, layers=1, modules=("v_proj",)),
    }
    found = inspect_folder(with_tensors(tmp_path, tensors, r=4, rank_pattern=pattern))
    assert {module.target: module.rank for module in found.modules} == {"q_proj": 4, "v_proj": 2}


@pytest.mark.parametrize("pattern", [{}, {"proj": 2}, {"^v_proj": 2}, {"q_proj": 2}, {"v_proj": 3}])
def test_a_rank_that_the_config_does_not_give_is_refused(tmp_path: Path, pattern: dict[str, int]) -> None:
    tensors = {
        **lora_tensors(rank=4, layers=1, modules=("q_proj",)),
        **lora_tensors(rank=2, layers=1, modules=("v_proj",)),
    }
    with refused("config_invalid"):
        inspect_folder(with_tensors(tmp_path, tensors, r=4, rank_pattern=pattern))


@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
@pytest.mark.parametrize("key", ["(a+)+$", "q_proj|v_proj", ".*", "a" * 600, "", "x.", "[ab]", "a{2}"])
def test_a_pattern_that_an_engine_would_run_is_refused_at_once(tmp_path: Path, field: str, key: str) -> None:
    begin = time.monotonic()
    with refused("adapter_not_supported"):
        inspect_folder(make_adapter(tmp_path, config={field: {key: 8}}))
    assert time.monotonic() - begin < 2


@pytest.mark.parametrize(
    "config",
    [
        {"use_dora": True},
        {"lora_bias": True},
        {"bias": "all"},
        {"bias": "lora_only"},
        {"modules_to_save": ["lm_head"]},
        {"layer_replication": [[0, 2]]},
        {"alora_invocation_tokens": [1]},
        {"use_qalora": True},
        {"use_bdlora": {"x": 1}},
        {"trainable_token_indices": [1]},
        {"target_parameters": ["experts.gate_up_proj"]},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "pissa_niter_16"},
    ],
)
def test_what_vllm_cannot_serve_is_named(tmp_path: Path, config: dict[str, Any]) -> None:
    with refused("adapter_not_supported") as caught:
        inspect_folder(make_adapter(tmp_path, config=config))
    assert caught.value.details["field"] == next(iter(config))


@pytest.mark.parametrize("start", ["gaussian", "eva", "orthogonal", True, False])
def test_starts_that_leave_the_base_alone_pass(tmp_path: Path, start: Any) -> None:
    inspect_folder(make_adapter(tmp_path, config={"init_lora_weights": start}))


@pytest.mark.parametrize(
    "config",
    [
        {"peft_type": "IA3"},
        {"peft_type": None},
        {"r": 0},
        {"r": -1},
        {"r": 8.5},
        {"r": "8"},
        {"r": True},
        {"r": None},
        {"r": 10**9},
        {"lora_alpha": None},
        {"lora_alpha": "x"},
        {"lora_alpha": 1e300},
        {"rank_pattern": {"q_proj": 0}},
        {"rank_pattern": {"q_proj": "8"}},
        {"rank_pattern": []},
        {"target_modules": 7},
        {"target_modules": [1]},
        {"base_model_name_or_path": ["x"]},
        {"base_model_name_or_path": "x" * 5000},
    ],
)
def test_a_config_that_cannot_be_right_is_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    with refused("config_invalid"):
        inspect_folder(make_adapter(tmp_path, config=config))


@pytest.mark.parametrize("field", ["peft_type", "r", "lora_alpha", "target_modules"])
def test_a_config_without_a_needed_field_is_refused(field: str) -> None:
    content = peft_config()
    del content[field]
    with refused("config_invalid"):
        parse_config(json.dumps(content).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"1",
        b"null",
        b"\xff{}",
        b"{" * 50_000,
        b'{"r": NaN}',
        b'{"r":1,"r":2}',
        b" " * 2_000_000,
    ],
)
def test_what_is_no_config_is_refused(data: bytes) -> None:
    with refused("config_invalid"):
        parse_config(data)


def test_missing_files_are_told_apart(tmp_path: Path) -> None:
    with refused("config_missing"):
        inspect_folder(tmp_path)
    make_adapter(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with refused("weights_missing"):
        inspect_folder(tmp_path)


PREFIX = "base_model.model.model.layers.0.self_attn.q_proj"
A, B = f"{PREFIX}.lora_A.weight", f"{PREFIX}.lora_B.weight"


@pytest.mark.parametrize(
    ("tensors", "code"),
    [
        ({}, "weights_corrupt"),
        ({A: floats(8, 4)}, "weights_corrupt"),
        ({A: floats(8, 4), B: floats(4, 7)}, "weights_corrupt"),
        (
            {A: floats(8, 4), B: floats(4, 8), A.removeprefix("base_model.model."): floats(8, 4)},
            "weights_corrupt",
        ),
        ({A: floats(4, 4), B: floats(4, 4)}, "config_invalid"),
        ({A: floats(8, 4, 1), B: floats(4, 8)}, "adapter_not_supported"),
        ({A: floats(32), B: floats(4, 8)}, "adapter_not_supported"),
        ({A: ("I32", (8, 4), b"x" * 128), B: floats(4, 8)}, "adapter_not_supported"),
        ({A: ("F32", (8, 0), b""), B: floats(4, 8)}, "adapter_not_supported"),
        (
            {A: floats(8, 4), B: floats(4, 8), f"{PREFIX}.lora_magnitude_vector": floats(4)},
            "adapter_not_supported",
        ),
        ({A: floats(8, 4), B: floats(4, 8), f"{PREFIX}.lora_B.bias": floats(4)}, "adapter_not_supported"),
        ({A: floats(8, 4), B: floats(4, 8), f"{PREFIX}.weight": floats(4)}, "adapter_not_supported"),
        ({A: floats(8, 4), B: floats(4, 8), "lora_A.weight": floats(4)}, "adapter_not_supported"),
        (
            {
                "base_model.model.model.embed_tokens.lora_embedding_A": floats(8, 9),
                "base_model.model.model.embed_tokens.lora_embedding_B": floats(4, 8),
            },
            "adapter_not_supported",
        ),
        (
            {
                "base_model.model.lm_head.lora_A.weight": floats(8, 4),
                "base_model.model.lm_head.lora_B.weight": floats(9, 8),
            },
            "adapter_not_supported",
        ),
    ],
)
def test_tensors_that_are_no_plain_lora_are_refused(
    tmp_path: Path, tensors: dict[str, Any], code: str
) -> None:
    with refused(code):
        inspect_folder(with_tensors(tmp_path, tensors))


def test_names_without_pefts_prefix_are_understood(tmp_path: Path) -> None:
    tensors = {
        "model.layers.7.mlp.up.lora_A.weight": floats(8, 4),
        "model.layers.7.mlp.up.lora_B.weight": floats(6, 8),
    }
    traits = inspect_folder(with_tensors(tmp_path, tensors)).traits
    assert (traits.layers, traits.target_modules) == (8, ("up",))


def test_the_right_base_passes(tmp_path: Path) -> None:
    found = inspect_folder(make_adapter(tmp_path, modules=ALL_MODULES))
    check_base(found, LLAMA)
    check_base(found, {"text_config": LLAMA, "hidden_size": 7})
    check_base(found, {})


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": 1},
        {"hidden_size": 64},
        {"num_key_value_heads": 4},
        {"intermediate_size": 512},
        {"head_dim": 64},
    ],
)
def test_another_base_is_refused(tmp_path: Path, change: dict[str, int]) -> None:
    found = inspect_folder(make_adapter(tmp_path, modules=ALL_MODULES))
    with refused("base_model_mismatch"):
        check_base(found, LLAMA | change)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
CHANGES = st.dictionaries(st.sampled_from([*peft_config(), "unknown"]), JSON, max_size=4)


@settings(max_examples=500, deadline=None)
@given(CHANGES)
def test_any_config_is_accepted_or_our_error(changes: dict[str, Any]) -> None:
    try:
        config = parse_config(json.dumps(peft_config() | changes).encode())
    except LoradockError as error:
        assert error.code in {"config_invalid", "adapter_not_supported"}
    else:
        assert config.rank_of("model.layers.0.self_attn.q_proj") >= 1
