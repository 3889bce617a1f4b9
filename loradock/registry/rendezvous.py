"""Which of many engines get an adapter: weighted rendezvous hashing (highest random weight). Pure, the same everywhere.

Each engine draws a number for the adapter; the highest win. An engine that joins can only take places, one that leaves
only gives up its own: nothing else moves. The draw is by adapter and not by version, so that the versions of an adapter
come to the same engines.
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_BITS: Final = 52
"""What a float holds exactly, with the half that keeps the draw off 0 and 1."""


@dataclass(frozen=True, slots=True)
class Option:
    """An engine that can take a version.

    Attributes:
        serves: it serves the version now: it stays.
        wanted: an earlier load chose it for the version.
        cached: its host has the bytes.
        weight: room for versions of the adapter; twice the weight, twice the chance.
    """

    engine: str
    serves: bool = False
    wanted: bool = False
    cached: bool = False
    weight: float = 1.0


def score(adapter: str, engine: str, weight: float = 1.0) -> float:
    """An engine's number for an adapter, above 0; the highest win."""
    drawn = hashlib.blake2b(f"{adapter}\n{engine}".encode(), digest_size=8).digest()
    share = ((int.from_bytes(drawn, "big") >> (64 - _BITS)) + 0.5) / 2**_BITS
    return weight / -math.log(share)


def choose(adapter: str, options: Iterable[Option], replicas: int | None) -> list[Option]:
    """The engines for a version, the first choice first.

    Those that serve it stay, however many they are: a load takes nothing away. Then come those where it is wanted, then
    those that need not download it, then the highest scores.

    Args:
        replicas: how many are enough; None is all.
    """
    ranked = sorted(
        options,
        key=lambda option: (
            not option.serves,
            not option.wanted,
            not option.cached,
            -score(adapter, option.engine, option.weight),
            option.engine,
        ),
    )
    if replicas is None:
        return ranked
    return ranked[: max(replicas, sum(option.serves for option in ranked))]
