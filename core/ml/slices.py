"""Work in slices: a generator that yields between slices, so that other work can run, and returns its result."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


class Joint(ABC):
    """A slice that can be computed together with those of other work.

    Work yields it in front of the slice. Whoever runs the work may compute it with others, and resumes the work in any
    case; work whose slice is not computed by then computes it alone.
    """

    @abstractmethod
    def joins(self, group: Sequence["Joint"]) -> bool:
        """Whether it can be computed together with all of these, which can be computed together."""

    @abstractmethod
    def compute_with(self, others: Sequence["Joint"]) -> None:
        """Computes them all. If the device raises an error, none is computed."""


def run(work: Generator[Any, None, Result]) -> Result:
    """Runs all slices in a row and returns the result."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: Result = end.value
            return result


def whole(work: Callable[Arguments, Generator[Any, None, Result]]) -> Callable[Arguments, Result]:
    """The same work as a plain function."""

    @wraps(work)
    def run_all(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        return run(work(*args, **kwargs))

    return run_all
