"""What each adapter should answer: by transformers and PEFT, or by the simulated engine's own rule."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from loradock.artifacts.sources.file import FileSource
from loradock.artifacts.staging import Staging
from loradock.dev.demo_client import Answer
from loradock.dev.options import EngineKind, StackOptions
from loradock.dev.samples import Samples, reference_answers
from loradock.engines.simulated.answers import simulated_text


@dataclass(frozen=True)
class Truth:
    """The right answers to one prompt.

    Attributes:
        answers: by sample name, the base model under the empty name.
        says: how an answer was checked, for people.
    """

    answers: dict[str, Answer]
    says: str

    def is_of(self, sample: str, answer: Answer) -> bool:
        """Whether an answer is the one of these weights: by its tokens where there are any, else by its text."""
        right = self.answers[sample]
        if right.token_ids is not None:
            return answer.token_ids == right.token_ids
        return answer.text == right.text


async def learn_truth(options: StackOptions, samples: Samples, prompt: str, max_tokens: int) -> Truth:
    """Find the right answers out.

    Raises:
        LoradockError: `stack_failed`.
    """
    if options.engine_kind is EngineKind.SIMULATED:
        digests = {name: _digest(folder) for name, folder in samples.adapters.items()}
        texts = {name: simulated_text(digest, prompt, max_tokens) for name, digest in digests.items()}
        texts[""] = simulated_text(None, prompt, max_tokens)
        return Truth(
            {name: Answer(text, None) for name, text in texts.items()}, "the simulated engine's rule"
        )
    reference = await reference_answers(
        options.environment,
        samples.base,
        samples.adapters,
        [prompt],
        max_tokens=max_tokens,
        cache=options.cache,
    )
    answers = {name: Answer(one[0].text, one[0].token_ids) for name, one in reference.items()}
    return Truth(answers, "exactly the tokens of transformers+PEFT")


def _digest(folder: Path) -> str:
    with tempfile.TemporaryDirectory() as temporary:
        staging = Staging(Path(temporary), FileSource((folder,), max_files=100), max_bytes=2**30)
        return staging.stage(folder.resolve().as_uri()).manifest.digest
