"""Ten thousand broken, twisted and random configs and weights files: each is judged or refused by an error of ours."""

import json
import random
import resource
import struct
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loradock.artifacts.inspection import examine, inspect
from loradock.artifacts.peft_config import PeftConfig, parse_config
from loradock.artifacts.weights import DTYPE_BITS, header_length, parse_header
from loradock.core.base_config import BaseConfig
from loradock.core.base_fit import check_fit
from loradock.core.errors import LoradockError
from loradock.core.inspection import Verdict
from tests.artifacts.samples import lora_tensors, peft_config, safetensors_bytes

CASES = 10_000
CASE_SECONDS = 2.0
ALL_SECONDS = 100.0
GROWTH = 300 * 1024 * 1024

CODES = {
    "config_invalid",
    "weights_corrupt",
    "weights_missing",
    "weights_not_finite",
    "adapter_not_supported",
    "base_model_mismatch",
}
WORDS = (
    "",
    "\x00",
    "\ud800",
    "../..",
    "💥",
    "a" * 600,
    "layers.999999999999",
    "NaN",
    "lora_A",
    "q_proj",
    "-1",
    ".",
)
NUMBERS = (0, -1, 1, 2, 8, 513, 2**31, 2**63, 2**64, 10**40, 0.5, 1e308, float("nan"), float("inf"), True)

Random = random.Random


def value(dice: Random, depth: int = 3) -> Any:
    kind = dice.randrange(6 if depth else 4)
    if kind == 0:
        return dice.choice(NUMBERS)
    if kind == 1:
        return dice.choice(WORDS)
    if kind == 2:
        return None
    if kind == 3:
        return "".join(chr(dice.randrange(1, 0x3000)) for _ in range(dice.randrange(12)))
    if kind == 4:
        return [value(dice, depth - 1) for _ in range(dice.randrange(4))]
    return {str(value(dice, 0)): value(dice, depth - 1) for _ in range(dice.randrange(4))}


def twisted(dice: Random, content: Any) -> Any:
    """A copy with a few parts changed, gone, or put elsewhere."""
    content = json.loads(json.dumps(content))
    for _ in range(dice.randrange(1, 4)):
        place = content
        while isinstance(place, dict | list) and place and dice.random() < 0.7:
            key = dice.choice(list(place)) if isinstance(place, dict) else dice.randrange(len(place))
            if not isinstance(place[key], dict | list) or dice.random() < 0.4:
                place[key] = value(dice)
                break
            place = place[key]
        else:
            if isinstance(place, dict):
                place[str(value(dice, 0))] = value(dice)
    return content


def damaged(dice: Random, data: bytes) -> bytes:
    """Some bytes changed, cut, doubled, or put in."""
    changed = bytearray(data)
    for _ in range(dice.randrange(1, 5)):
        at = dice.randrange(len(changed) + 1)
        match dice.randrange(4):
            case 0:
                changed[at : at + 1] = bytes([dice.randrange(256)])
            case 1:
                del changed[at : at + dice.randrange(1, 40)]
            case 2:
                changed[at:at] = dice.randbytes(dice.randrange(1, 40))
            case _:
                changed[at:at] = changed[max(0, at - 30) : at]
    return bytes(changed)


def dumped(content: Any) -> bytes:
    return json.dumps(content).encode("utf-8", "surrogatepass")


def sample(dice: Random) -> bytes:
    modules = dice.sample(["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"], dice.randrange(1, 3))
    return safetensors_bytes(lora_tensors(rank=2, layers=dice.randrange(1, 3), hidden=8, modules=modules))


def odd_config(dice: Random) -> bytes:
    if dice.random() < 0.5:
        return dumped(twisted(dice, peft_config()))
    return damaged(dice, dumped(peft_config()))


def odd_header(dice: Random) -> bytes:
    """A weights file: damaged anywhere, or with a twisted header of the right length, or invented."""
    good = sample(dice)
    length = header_length(good[:8], len(good))
    kind = dice.randrange(5)
    if kind == 0:
        return damaged(dice, good)
    if kind == 4:
        at = dice.randrange(8 + length, len(good), 4)
        return (
            good[:at] + struct.pack("<f", dice.choice((float("nan"), float("-inf"), 1e-44))) + good[at + 4 :]
        )
    if kind == 1:
        return damaged(dice, good[: 8 + length + 32]) + good[8 + length :]
    header = json.loads(good[8 : 8 + length])
    text = dumped(twisted(dice, header) if kind == 2 else invented(dice))
    return struct.pack("<Q", len(text)) + text + good[8 + length :]


def invented(dice: Random) -> dict[str, Any]:
    names = [
        f"base_model.model.layers.{dice.randrange(3)}.{dice.choice(WORDS)}.lora_{dice.choice('AB')}.weight"
    ]
    names += [str(value(dice, 0)) for _ in range(dice.randrange(4))]
    return {
        name: {
            "dtype": dice.choice([*DTYPE_BITS, "F7", None]),
            "shape": [dice.choice(NUMBERS) for _ in range(dice.randrange(4))],
            "data_offsets": [dice.choice(NUMBERS), dice.choice(NUMBERS)],
        }
        for name in names
    }


def judge_config(dice: Random) -> str:
    config = parse_config(odd_config(dice))
    assert config.rank_of("model.layers.0.self_attn.q_proj") >= 1
    return "accepted"


def judge_header(dice: Random) -> str:
    data = odd_header(dice)
    length = header_length(data[:8], len(data))
    header = parse_header(data[8 : 8 + length], len(data) - 8 - length)
    found = inspect(PeftConfig(r=2, lora_alpha=4, target_modules=None), header)
    check_fit(found.groups, BaseConfig.of({"hidden_size": 8} if dice.random() < 0.9 else {"hidden_size": 16}))
    return "accepted"


def judge_base(dice: Random) -> str:
    content = twisted(
        dice, {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 8, "text_config": {}}
    )
    config = BaseConfig.of(content if isinstance(content, dict) else {})
    assert BaseConfig.model_validate_json(config.model_dump_json()) == config
    return "accepted"


def run(judge: Callable[[Random], str], cases: int, seed: int) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    for case in range(cases):
        dice = random.Random(f"{seed}-{case}")
        began = time.monotonic()
        try:
            outcome = judge(dice)
        except LoradockError as error:
            outcome = error.code
        except Exception as error:
            pytest.fail(f"{judge.__name__} case {seed}-{case}: {type(error).__name__}: {error}")
        seconds = time.monotonic() - began
        assert seconds < CASE_SECONDS, f"{judge.__name__} case {seed}-{case} took {seconds:.1f} s"
        outcomes[outcome] += 1
    return outcomes


def test_ten_thousand_cases_are_judged_or_refused_in_bounded_time_and_memory(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()

    def judge_folder(dice: Random) -> str:
        """The whole way, files and scan included: a report, whatever lies there."""
        config = odd_config(dice) if dice.random() < 0.3 else dumped(peft_config(rank=2))
        weights = sample(dice) if dice.random() < 0.3 else odd_header(dice)
        (folder / "adapter_config.json").write_bytes(config)
        (folder / "adapter_model.safetensors").write_bytes(weights)
        report = examine(folder)
        assert (report.failure is None) == (report.verdict is not Verdict.NOT_SERVABLE)
        assert len(report.model_dump_json()) < 1024 * 1024
        return "accepted" if report.failure is None else report.failure.code

    began = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = run(judge_config, 3000, 1)
    outcomes += run(judge_header, 4000, 2)
    outcomes += run(judge_base, 1000, 3)
    outcomes += run(judge_folder, CASES - outcomes.total(), 4)
    assert outcomes.total() == CASES
    assert outcomes.keys() <= CODES | {"accepted"}, outcomes
    # The corpus is not all noise: each way of ending is met.
    assert min(outcomes[code] for code in (*CODES - {"weights_missing"}, "accepted")) > 20, outcomes
    assert time.monotonic() - began < ALL_SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < GROWTH


@pytest.mark.parametrize(
    "make",
    [
        lambda: b'{"a":' * 1_000_000,
        lambda: b"[" * 4_000_000,
        lambda: b'{"' + b"a" * 8_000_000 + b'":1}',
        lambda: b'{"a":{"dtype":"F32","shape":[' + b"1," * 400_000 + b'1],"data_offsets":[0,4]}}',
        lambda: dumped(
            {f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(201_000)}
        ),
        lambda: b'{"a":' + b"9" * 5_000_000 + b"}",
    ],
)
def test_headers_made_to_cost_much_are_refused_quickly(make: Callable[[], bytes]) -> None:
    text = make()
    began = time.monotonic()
    with pytest.raises(LoradockError) as caught:
        parse_header(text, 4)
    assert caught.value.code == "weights_corrupt"
    assert time.monotonic() - began < 5


def test_an_adapter_of_ever_new_module_names_is_refused_before_its_report_is_too_large() -> None:
    tensors = {
        f"base_model.model.m{index}.x{'y' * 300}.lora_{half}.weight": ("F32", (2, 2), bytes(16))
        for index in range(5000)
        for half in "AB"
    }
    data = safetensors_bytes(tensors)
    length = header_length(data[:8], len(data))
    header = parse_header(data[8 : 8 + length], len(data) - 8 - length)
    with pytest.raises(LoradockError) as caught:
        inspect(PeftConfig(r=2, lora_alpha=4, target_modules=None), header)
    assert caught.value.code == "adapter_not_supported"
