"""Placement is stable: an engine that joins or leaves moves nothing but its own places, and loads spread by room."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from loradock.registry.rendezvous import Option, choose, score

OPTIONS = st.lists(
    st.builds(
        Option,
        engine=st.text("abcdef0123-", min_size=1, max_size=6),
        serves=st.booleans(),
        wanted=st.booleans(),
        cached=st.booleans(),
        weight=st.integers(1, 16).map(float),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda option: option.engine,
)
REPLICAS = st.none() | st.integers(1, 6)
ADAPTERS = st.sampled_from(["greeter", "acme/greeter", "support"])


def names(options: list[Option]) -> set[str]:
    return {option.engine for option in options}


@given(ADAPTERS, OPTIONS, REPLICAS)
def test_an_engine_that_joins_takes_one_place_at_most_and_no_other_moves(
    adapter: str, options: list[Option], replicas: int | None
) -> None:
    *before, joined = options
    first = names(choose(adapter, before, replicas))
    then = names(choose(adapter, options, replicas))
    assert then <= first | {joined.engine}
    assert len(first - then) <= 1


@given(ADAPTERS, OPTIONS, REPLICAS)
def test_an_engine_that_leaves_gives_up_its_own_place_alone(
    adapter: str, options: list[Option], replicas: int | None
) -> None:
    *left, gone = options
    first = names(choose(adapter, options, replicas))
    then = names(choose(adapter, left, replicas))
    assert first - {gone.engine} <= then
    assert len(then - first) <= (gone.engine in first)


@given(ADAPTERS, OPTIONS, REPLICAS)
def test_what_serves_stays_and_no_more_are_chosen_than_asked_for(
    adapter: str, options: list[Option], replicas: int | None
) -> None:
    chosen = choose(adapter, options, replicas)
    serving = {option.engine for option in options if option.serves}
    assert serving <= names(chosen)
    least = len(options) if replicas is None else min(replicas, len(options))
    assert len(chosen) == max(least, len(serving))


@given(ADAPTERS, OPTIONS, st.integers(1, 6), st.randoms(use_true_random=False))
def test_the_order_in_which_engines_are_listed_does_not_matter(
    adapter: str, options: list[Option], replicas: int, random: object
) -> None:
    shuffled = list(options)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert choose(adapter, shuffled, replicas) == choose(adapter, options, replicas)


def places(engines: list[Option]) -> dict[str, set[str]]:
    adapters = [f"adapter-{number}" for number in range(1000)]
    return {adapter: names(choose(adapter, engines, 2)) for adapter in adapters}


def test_one_engine_more_moves_few_adapters_and_takes_its_share() -> None:
    engines = [Option(engine=f"e{number}") for number in range(20)]
    before, after = places(engines), places([*engines, Option(engine="e20")])
    moved = sum(before[adapter] != after[adapter] for adapter in before)
    assert 60 <= moved <= 140  # two of 21 places are 95 of 1000 adapters


def test_adapters_spread_by_room() -> None:
    engines = [Option(engine=f"e{number}", weight=4.0 if number < 5 else 1.0) for number in range(10)]
    counts = Counter(engine for chosen in places(engines).values() for engine in chosen)
    big = sum(counts[f"e{number}"] for number in range(5))
    assert 1400 <= big <= 1700  # four fifths of the first place, a little less of the second
    assert min(counts.values()) > 40


def test_a_score_is_above_zero_and_the_same_everywhere() -> None:
    """The number is part of what plans show and rely on: a change here would move every adapter."""
    assert all(0 < score("a", f"e{number}") < 10**17 for number in range(1000))
    assert (round(score("greeter", "e0"), 3), round(score("acme/greeter", "host-7"), 3)) == (0.963, 3.854)
