"""Work in slices: a generator that yields between slices, so that other work can use the device, and returns its
result."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


class Joint(ABC):
    """A slice of work that can be computed together with slices of other work.

    The generator of the work yields its Joint before it computes the slice. The code that runs the generator may
    compute the slice together with others, and then resumes the generator in any case. If the slice is not computed by
    then, the generator computes it alone.
    """

    @abstractmethod
    def joins(self, group: Sequence["Joint"]) -> bool:
        """Returns whether this slice can be computed together with the slices of `group`, all of which can be computed
        together."""

    @abstractmethod
    def compute_with(self, others: Sequence["Joint"]) -> None:
        """Computes this slice and all of `others` together. If the device raises an error, none of the slices is
        computed."""


def run(work: Generator[Any, None, Result]) -> Result:
    """Runs a generator to its end, slice after slice, and returns its result."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: Result = end.value
            return result


def whole(work: Callable[Arguments, Generator[Any, None, Result]]) -> Callable[Arguments, Result]:
    """Converts a function that returns a generator of slices into a plain function, which runs all slices and returns
    the result."""

    @wraps(work)
    def run_all(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        return run(work(*args, **kwargs))

    return run_all
