"""The tiny model's adapters are real, and answer on vLLM what transformers and PEFT answer."""

import json
from pathlib import Path

import httpx
import pytest

from loradock.dev.engine_environment import EngineEnvironment
from loradock.dev.samples import Samples, reference_answers
from tests.fixtures.infra import VllmEngine

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(400)]


def test_no_path_of_the_machine_is_in_the_samples(tiny_model: Samples) -> None:
    for file in tiny_model.folder.rglob("*.json"):
        assert str(Path.home()) not in file.read_text()
        assert str(tiny_model.folder.parent) not in file.read_text()
    for adapter in tiny_model.adapters.values():
        config = json.loads((adapter / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == tiny_model.base_name


async def test_the_engine_answers_the_reference_tokens(
    tiny_model: Samples, engine_environment: EngineEnvironment, vllm_engine: VllmEngine
) -> None:
    answers = await reference_answers(
        engine_environment, tiny_model.base, tiny_model.adapters, tiny_model.prompts
    )
    assert set(answers) == {"", *tiny_model.adapters}
    for number, prompt in enumerate(tiny_model.prompts):
        assert len({name_answers[number].token_ids for name_answers in answers.values()}) == 4
        body = {"model": vllm_engine.base_model, "prompt": prompt, "max_tokens": 16, "temperature": 0}
        async with httpx.AsyncClient(base_url=vllm_engine.url) as client:
            reply = await client.post("/v1/completions", json={**body, "return_token_ids": True})
        assert tuple(reply.json()["choices"][0]["token_ids"]) == answers[""][number].token_ids
