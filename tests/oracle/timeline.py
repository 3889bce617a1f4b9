"""What an engine may say to a name at a given moment, as far as the operator knows, and what he must never hear."""

import threading
from collections import defaultdict
from dataclasses import dataclass
from enum import Enum

from tests.oracle.truth import BASE, Question, Truth


class Residence(Enum):
    """What the operator knows of a name on an engine."""

    ABSENT = "absent"
    """Never loaded, or its unload was reported done: nothing may answer under it."""
    CHANGING = "changing"
    """An operation is under way: the right answer or a clear refusal."""
    SERVED = "served"
    """A load was reported done: the right answer, nothing else."""
    DISTURBED = "disturbed"
    """The engine was killed: the right answer, a refusal, or no answer at all."""


@dataclass(frozen=True)
class Heard:
    """What came back to one request.

    Attributes:
        status: HTTP status; 0 when the connection broke.
        text: of a 200; None otherwise.
        finished: whether a stream came to its end.
        refusal: the engine's own words for a refusal.
    """

    status: int
    text: str | None = None
    finished: bool = True
    refusal: str = ""


@dataclass(frozen=True)
class Asked:
    """One request: where, for which name, what, from when to when (monotonic seconds)."""

    engine: str
    name: str
    question: Question
    began: float
    ended: float


class Timeline:
    """The states of names on engines over time; written by whoever operates, read by whoever judges.

    Args:
        weights: which weights a served name stands for; the base model's name stands for the base.
    """

    def __init__(self, truth: Truth, weights: dict[str, str]) -> None:
        self._truth = truth
        self._weights = weights
        self._lock = threading.Lock()
        self._history: dict[tuple[str, str], list[tuple[float, Residence]]] = defaultdict(list)

    def note(self, engine: str, name: str, residence: Residence, now: float) -> None:
        """From now on."""
        with self._lock:
            self._history[engine, name].append((now, residence))

    def now(self, engine: str, name: str) -> Residence:
        """The last that was noted."""
        with self._lock:
            history = self._history[engine, name]
            return history[-1][1] if history else self._at_first(name)

    def judge(self, asked: Asked, heard: Heard) -> str | None:
        """What is wrong with an answer; None when it was allowed at some moment between question and end."""
        states = self._during(asked)
        weights = self._weights.get(asked.name)
        if heard.status == 200:
            return self._judge_answer(asked, heard, weights, states)
        if Residence.DISTURBED in states:
            return None
        if heard.status in {404, 503} and states != {Residence.SERVED}:
            return None
        return f"{heard.status} {heard.refusal[:200]!r} though it was {_names(states)}"

    def _judge_answer(
        self, asked: Asked, heard: Heard, weights: str | None, states: set[Residence]
    ) -> str | None:
        if weights is None:
            return f"an answer of a name that stands for nothing: {heard.text!r}"
        if states == {Residence.ABSENT}:
            return f"an answer though it was absent all the time: {heard.text!r}"
        right = self._truth.answers[weights][asked.question].text
        if heard.text == right:
            return None
        if not heard.finished and right.startswith(heard.text or ""):
            return None if states != {Residence.SERVED} else "a stream was cut while it was served"
        whose = self._truth.whose(asked.question, heard.text or "")
        of = "nobody" if whose is None else whose or "the base"
        return f"the answer of {of}, {heard.text!r}, and not {right!r}; it was {_names(states)}"

    def _during(self, asked: Asked) -> set[Residence]:
        with self._lock:
            history = list(self._history[asked.engine, asked.name])
        before = [residence for at, residence in history if at <= asked.began]
        states = {before[-1] if before else self._at_first(asked.name)}
        return states | {residence for at, residence in history if asked.began < at <= asked.ended}

    def _at_first(self, name: str) -> Residence:
        return Residence.SERVED if self._weights.get(name) == BASE else Residence.ABSENT


def _names(states: set[Residence]) -> str:
    return " and ".join(sorted(state.value for state in states))
