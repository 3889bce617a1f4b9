"""The judge sees each kind of wrong, and lets pass what was allowed at the moment."""

import pytest

from loradock.dev.samples import ReferenceAnswer
from tests.oracle.timeline import Asked, Heard, Residence, Timeline
from tests.oracle.truth import BASE, Question, Truth

QUESTION = Question("Hello", chat=False)
TRUTH = Truth(
    {
        name: {QUESTION: ReferenceAnswer("Hello", (number,), text, 9.0)}
        for number, (name, text) in enumerate({BASE: "base", "one": "first words", "two": "second"}.items())
    }
)
ABSENT, CHANGING, SERVED, DISTURBED = Residence


def timeline(*states: tuple[float, Residence]) -> Timeline:
    made = Timeline(TRUTH, {"tiny": BASE, "a@1": "one", "a@2": "two"})
    for at, state in states:
        made.note("e0", "a@1", state, at)
    return made


def asked(began: float, ended: float, name: str = "a@1") -> Asked:
    return Asked("e0", name, QUESTION, began, ended)


@pytest.mark.parametrize(
    ("heard", "allowed"),
    [
        (Heard(200, "first words"), {CHANGING, SERVED, DISTURBED}),
        (Heard(200, "second"), set()),
        (Heard(200, "base"), set()),
        (Heard(200, "first"), set()),
        (Heard(200, "first", finished=False), {CHANGING, DISTURBED}),
        (Heard(200, "fist", finished=False), set()),
        (Heard(404), {ABSENT, CHANGING, DISTURBED}),
        (Heard(503), {ABSENT, CHANGING, DISTURBED}),
        (Heard(400), {DISTURBED}),
        (Heard(500), {DISTURBED}),
        (Heard(0), {DISTURBED}),
    ],
    ids=lambda value: str(value) if isinstance(value, Heard) else "",
)
def test_an_answer_is_judged_by_what_was_known(heard: Heard, allowed: set[Residence]) -> None:
    passed = {state for state in Residence if timeline((1, state)).judge(asked(2, 3), heard) is None}
    assert passed == allowed


def test_what_was_allowed_at_some_moment_of_a_request_is_allowed() -> None:
    made = timeline((1, SERVED), (5, CHANGING), (6, ABSENT))
    gone = Heard(404)
    assert made.judge(asked(2, 4.9), gone) is not None
    assert made.judge(asked(4, 5.5), gone) is None
    right = Heard(200, "first words")
    assert made.judge(asked(5.9, 8), right) is None
    assert made.judge(asked(6.5, 8), right) is not None


def test_the_base_is_always_served_and_an_unknown_name_never() -> None:
    made = timeline()
    assert made.judge(asked(1, 2, "tiny"), Heard(200, "base")) is None
    assert made.judge(asked(1, 2, "tiny"), Heard(200, "second")) is not None
    assert made.judge(asked(1, 2, "tiny"), Heard(503)) is not None
    assert made.judge(asked(1, 2, "nobody@1"), Heard(404)) is None
    assert made.judge(asked(1, 2, "nobody@1"), Heard(200, "base")) is not None


def test_it_is_told_whose_answer_a_wrong_one_was() -> None:
    wrong = timeline((1, SERVED)).judge(asked(2, 3), Heard(200, "second"))
    assert wrong is not None
    assert "the answer of two" in wrong
