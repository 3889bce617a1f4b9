"""The exact greedy answer of every version on the tiny base, by transformers and PEFT."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loradock.dev.engine_environment import EngineEnvironment
from loradock.dev.samples import ReferenceAnswer, Samples, reference_answers_now

MAX_TOKENS = 12
LEAST_MARGIN = 0.5
"""Logits of a batch differ from those of a single request by less than a thousandth: this can flip no token."""
MOST_PROMPTS = 24

BASE = ""
"""The name of the base model's own answers."""

_WORDS = ("ship", "moon", "captain", "sea", "friend", "harbour", "song", "fox", "hello", "night")


@dataclass(frozen=True)
class Question:
    """A prompt, and whether it is put as a chat message."""

    prompt: str
    chat: bool


@dataclass(frozen=True)
class Truth:
    """What each of the weights answers to each question; no two of them answer one the same."""

    answers: Mapping[str, Mapping[Question, ReferenceAnswer]]

    @property
    def questions(self) -> tuple[Question, ...]:
        return tuple(self.answers[BASE])

    def whose(self, question: Question, text: str) -> str | None:
        """The weights that would have given this text."""
        return next((name for name, given in self.answers.items() if given[question].text == text), None)


def learn(
    environment: EngineEnvironment, samples: Samples, adapters: Mapping[str, Path], cache: Path
) -> Truth:
    """Ask the reference, and keep the questions that tell all the weights apart beyond doubt."""
    prompts = [*samples.prompts, "Hello", "Hi there!", "Tell me a story.", "1 + 1 =", "ping"]
    prompts += [f"{first} and {second}" for first in _WORDS for second in _WORDS[:3]]
    given: dict[str, dict[Question, ReferenceAnswer]] = {name: {} for name in (BASE, *adapters)}
    for chat in (False, True):
        found = reference_answers_now(
            environment, samples.base, adapters, prompts, max_tokens=MAX_TOKENS, chat=chat, cache=cache
        )
        for name, answers in found.items():
            given[name] |= {Question(answer.prompt, chat): answer for answer in answers}
    telling = [question for question in given[BASE] if _tells_apart(given, question)][:MOST_PROMPTS]
    return Truth(
        {name: {question: answers[question] for question in telling} for name, answers in given.items()}
    )


def _tells_apart(given: Mapping[str, Mapping[Question, ReferenceAnswer]], question: Question) -> bool:
    answers = [by_question[question] for by_question in given.values()]
    distinct = {answer.text for answer in answers}
    return len(distinct) == len(answers) and all(answer.margin >= LEAST_MARGIN for answer in answers)
