"""Who gets the next request: one class per policy, each O(1) per request whatever the number of replicas."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Annotated, Any, Literal

from numpy.random import Generator
from pydantic import Field, SerializeAsAny, ValidatorFunctionWrapHandler, WrapValidator

from simfleet.serving.replica import Replica
from simfleet.spec import Spec


class Router:
    """Chooses among the replicas that serve a model, and counts what is outstanding on each."""

    def __init__(self, choices: Iterator[Replica]) -> None:
        self._choices = choices

    def take(self) -> Replica:
        """The replica for the next request."""
        replica = next(self._choices)
        replica.outstanding += 1
        return replica

    def release(self, replica: Replica) -> None:
        """A request on `replica` has ended."""
        replica.outstanding -= 1


class LeastRouter(Router):
    """Replicas in buckets by outstanding requests; counts move by one, so the emptiest bucket is always next door."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self._buckets: list[OrderedDict[Replica, None]] = [OrderedDict.fromkeys(replicas)]
        self._least = 0

    def take(self) -> Replica:
        replica = next(iter(self._buckets[self._least]))
        self._move(replica, replica.outstanding + 1)
        if not self._buckets[self._least]:
            self._least += 1
        return replica

    def release(self, replica: Replica) -> None:
        self._move(replica, replica.outstanding - 1)
        self._least = min(self._least, replica.outstanding)

    def _move(self, replica: Replica, outstanding: int) -> None:
        del self._buckets[replica.outstanding][replica]
        replica.outstanding = outstanding
        if outstanding == len(self._buckets):
            self._buckets.append(OrderedDict())
        self._buckets[outstanding][replica] = None


def _draws(rng: Generator, high: int) -> Iterator[int]:
    while True:
        yield from rng.integers(high, size=1024).tolist()


class RoundRobin(Spec):
    """Each replica in turn."""

    kind: Literal["round_robin"] = "round_robin"

    def router(self, replicas: Sequence[Replica], rng: Generator) -> Router:
        return Router(cycle(replicas))


class Random(Spec):
    """Any replica, with equal chances."""

    kind: Literal["random"]

    def router(self, replicas: Sequence[Replica], rng: Generator) -> Router:
        return Router(replicas[draw] for draw in _draws(rng, len(replicas)))


class PowerOfTwo(Spec):
    """Of two replicas drawn at random, the one with fewer outstanding requests."""

    kind: Literal["power_of_two"]

    def router(self, replicas: Sequence[Replica], rng: Generator) -> Router:
        draws = _draws(rng, len(replicas))
        pairs = ((replicas[first], replicas[second]) for first, second in zip(draws, draws, strict=False))
        return Router(min(pair, key=lambda replica: replica.outstanding) for pair in pairs)


class LeastLoaded(Spec):
    """The replica with the fewest outstanding requests; among equals the one that has been there longest."""

    kind: Literal["least_loaded"]

    def router(self, replicas: Sequence[Replica], rng: Generator) -> Router:
        return LeastRouter(replicas)


def _or_own(value: Any, shipped: ValidatorFunctionWrapHandler) -> Any:
    """A policy of one's own: any frozen Spec with the method `router`, passed as an instance."""
    return value if isinstance(value, Spec) and hasattr(value, "router") else shipped(value)


AnyRouting = Annotated[
    RoundRobin | Random | LeastLoaded | PowerOfTwo,
    Field(discriminator="kind"),
    WrapValidator(_or_own),
    SerializeAsAny(),
]
