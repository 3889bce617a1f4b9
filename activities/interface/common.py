"""How an activity is described to workflows."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from loradock.core.models import Model

In = TypeVar("In", bound=Model, contravariant=True)  # noqa: PLC0105
Out = TypeVar("Out", bound=Model, covariant=True)  # noqa: PLC0105


@dataclass(frozen=True, slots=True)
class ActivitySpec(Generic[In, Out]):
    """An activity as workflows call it: name, and what goes in and comes out."""

    name: str
    takes: type[In]
    gives: type[Out]


class Done(Model):
    """An activity's answer when there is nothing to say."""
