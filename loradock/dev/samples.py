"""The tiny base model and the sample adapters on disk, and the answers that they should give."""

import asyncio
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loradock.core.errors import LoradockError
from loradock.dev.child import ChildSpec
from loradock.dev.engine_environment import EngineEnvironment

_MARKER = "samples.json"
_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Samples:
    """A folder made by `tiny_model.py` or `simulated_model.py`.

    Attributes:
        base: folder of the base model.
        base_name: what engines call it.
        adapters: folders by sample name, e.g. `greeter-v1`.
        prompts: those for which the adapters are known to answer differently.
    """

    folder: Path
    base: Path
    base_name: str
    adapters: dict[str, Path]
    prompts: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path) -> "Samples":
        """Read a complete folder.

        Raises:
            LoradockError: `stack_failed` when it is not complete.
        """
        try:
            content: dict[str, Any] = json.loads((folder / _MARKER).read_text())
            adapters = {name: folder / name for name in content["adapters"]}
            return cls(folder, folder / content["base"], content["base"], adapters, tuple(content["prompts"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LoradockError(
                "stack_failed", f"the samples in {folder} are not complete: {error}"
            ) from None


@dataclass(frozen=True, slots=True)
class ReferenceAnswer:
    """What transformers and PEFT answer greedily; `token_ids` ends with the end token where the model stopped.

    Attributes:
        margin: the least distance of a chosen token's logit to the next best.
    """

    prompt: str
    token_ids: tuple[int, ...]
    text: str
    margin: float


def tiny_model_spec(environment: EngineEnvironment, folder: Path, *, cache: Path) -> ChildSpec:
    """The process that makes the tiny model and its adapters; quick when they are there."""
    return ChildSpec(
        name="tiny-model",
        command=(str(environment.python), "-P", str(_HERE / "tiny_model.py"), str(folder)),
        env=environment.variables(cache),
        timeout=300.0,
    )


async def reference_answers(
    environment: EngineEnvironment,
    base: Path,
    adapters: Mapping[str, Path],
    prompts: Sequence[str],
    *,
    max_tokens: int = 16,
    chat: bool = False,
    cache: Path | None = None,
) -> dict[str, list[ReferenceAnswer]]:
    """Greedy answers by transformers and PEFT for every adapter; the base model's are under the empty name.

    One process of about four seconds for all of them together.

    Raises:
        LoradockError: `stack_failed`.
    """
    return await asyncio.to_thread(
        reference_answers_now,
        environment,
        base,
        adapters,
        prompts,
        max_tokens=max_tokens,
        chat=chat,
        cache=cache,
    )


def reference_answers_now(
    environment: EngineEnvironment,
    base: Path,
    adapters: Mapping[str, Path],
    prompts: Sequence[str],
    *,
    max_tokens: int = 16,
    chat: bool = False,
    cache: Path | None = None,
) -> dict[str, list[ReferenceAnswer]]:
    """`reference_answers`, blocking."""
    request = {
        "base": str(base),
        "adapters": {name: str(folder) for name, folder in adapters.items()},
        "prompts": list(prompts),
        "max_tokens": max_tokens,
        "chat": chat,
    }
    try:
        done = subprocess.run(
            [str(environment.python), "-P", str(_HERE / "reference.py")],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            env=environment.variables(cache or base.parent),
            timeout=300,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise LoradockError("stack_failed", f"the reference run failed: {error.stderr[-1400:]}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LoradockError("stack_failed", f"the reference run failed: {type(error).__name__}") from None
    return {name: [_answer(one) for one in answers] for name, answers in json.loads(done.stdout).items()}


def _answer(content: dict[str, Any]) -> ReferenceAnswer:
    return ReferenceAnswer(content["prompt"], tuple(content["token_ids"]), content["text"], content["margin"])
