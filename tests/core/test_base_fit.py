"""An adapter fits its base or is refused with the first module that does not; what cannot be compared is said."""

from typing import Any

import pytest

from loradock.core.base_config import BaseConfig
from loradock.core.base_fit import check_fit, with_base
from loradock.core.errors import LoradockError
from loradock.core.inspection import InspectionReport, ModuleGroup, Verdict

LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 512,
}
SIZES = {
    "self_attn.q_proj": (128, 128),
    "self_attn.k_proj": (128, 64),
    "self_attn.v_proj": (128, 64),
    "self_attn.o_proj": (128, 128),
    "mlp.gate_proj": (128, 256),
    "mlp.up_proj": (128, 256),
    "mlp.down_proj": (256, 128),
}


def group(
    module: str, *, layers: int = 2, sizes: tuple[int, int] | None = None, top: str = "model"
) -> ModuleGroup:
    size_in, size_out = sizes or SIZES[module]
    return ModuleGroup(
        pattern=f"{top}.layers.*.{module}",
        first=f"{top}.layers.0.{module}",
        deepest=f"{top}.layers.{layers - 1}.{module}",
        modules=layers,
        layers=layers,
        rank_min=8,
        rank_max=8,
        size_in=size_in,
        size_out=size_out,
    )


def mismatch(groups: list[ModuleGroup], config: dict[str, Any]) -> str:
    with pytest.raises(LoradockError) as caught:
        check_fit(groups, BaseConfig.of(config))
    assert caught.value.code == "base_model_mismatch"
    return caught.value.message


def test_every_module_of_a_llama_fits() -> None:
    check = check_fit([group(module) for module in SIZES], BaseConfig.of(LLAMA), base_model="tiny")
    assert (check.checked, check.base_model, check.notes) == (True, "tiny", ())
    assert check.fingerprint == BaseConfig.of(LLAMA).fingerprint


@pytest.mark.parametrize("module", SIZES)
def test_one_other_shape_is_named(module: str) -> None:
    groups = [group(one, sizes=(128, 96) if one == module else None) for one in SIZES]
    assert mismatch(groups, LLAMA).startswith(f"model.layers.0.{module} has ")


def test_one_layer_too_many_is_named() -> None:
    assert mismatch([group("mlp.up_proj", layers=3)], LLAMA) == (
        "model.layers.2.mlp.up_proj is in layer 3, the base has 2"
    )


@pytest.mark.parametrize("module", ["cross_attn.q_proj", "mlp.fc1", "self_attn.qkv_proj", "mlp.q_proj"])
def test_a_module_that_the_architecture_does_not_have_is_named(module: str) -> None:
    message = mismatch([group("self_attn.q_proj"), group(module, sizes=(128, 128))], LLAMA)
    assert message == f"model.layers.0.{module} is no module of a llama model"


def test_names_of_an_unknown_architecture_are_not_compared_and_that_is_said() -> None:
    check = check_fit([group("mixer.in_proj", sizes=(1, 1))], BaseConfig.of(LLAMA | {"model_type": "new"}))
    assert check.checked
    assert [note.partition(":")[0] for note in check.notes] == [
        "module names were not compared",
        "shapes were not compared",
    ]


def test_modules_of_another_tower_are_left_alone() -> None:
    wrapped = BaseConfig.of({"model_type": "llava", "text_config": LLAMA})
    vision = group("self_attn.q_proj", layers=27, sizes=(1152, 1152), top="model.vision_tower.encoder")
    check = check_fit([vision, group("self_attn.q_proj", top="model.language_model")], wrapped)
    assert "modules of other towers" in check.notes[0]
    with pytest.raises(LoradockError):
        check_fit([group("self_attn.q_proj", sizes=(64, 128), top="model.language_model")], wrapped)


@pytest.mark.parametrize("field", ["num_experts", "num_local_experts", "n_routed_experts"])
def test_widths_of_experts_are_not_taken_for_the_mlps(field: str) -> None:
    config = BaseConfig.of(LLAMA | {"model_type": "mixture", field: 8})
    check_fit([group("mlp.up_proj", sizes=(128, 99))], config)
    with pytest.raises(LoradockError):
        check_fit([group("self_attn.q_proj", sizes=(128, 99))], config)


def test_without_a_config_the_report_says_so() -> None:
    report = InspectionReport(verdict=Verdict.SERVABLE, modules=(group("self_attn.q_proj"),))
    check = with_base(report, None, base_model="tiny").base
    assert (check.checked, check.notes) == (
        False,
        ("not checked against a base: no config of 'tiny' is known",),
    )
    check = with_base(report, BaseConfig(), base_model="tiny").base
    assert not check.checked
    assert "neither layers nor sizes" in check.notes[0]


def test_measures_come_out_the_same_whoever_tells_them() -> None:
    told = {name: value for name, value in LLAMA.items() if name != "head_dim"}
    assert BaseConfig.of(told).fingerprint == BaseConfig.of(LLAMA).fingerprint
    assert BaseConfig.model_validate_json(BaseConfig.of(LLAMA).model_dump_json()) == BaseConfig.of(LLAMA)
    assert BaseConfig.of(LLAMA | {"torch_dtype": "float16"}).fingerprint == BaseConfig.of(LLAMA).fingerprint
    assert BaseConfig.of(LLAMA | {"hidden_size": 256}).fingerprint != BaseConfig.of(LLAMA).fingerprint


@pytest.mark.parametrize("value", [0, -1, 1.5, "128", True, None, 2**31, [128], {"x": 1}])
def test_a_number_of_an_impossible_form_counts_as_not_told(value: Any) -> None:
    assert BaseConfig.of(LLAMA | {"intermediate_size": value}).intermediate_size is None


def test_only_what_both_tell_can_differ() -> None:
    one = BaseConfig.of(LLAMA)
    assert one.difference(BaseConfig.of({"hidden_size": 128})) is None
    assert one.difference(BaseConfig.of({"hidden_size": 64})) == "hidden_size is 128 and 64"
