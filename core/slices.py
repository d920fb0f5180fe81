"""Work in slices: a generator that yields where others may go on, and returns its result."""

from collections.abc import Callable, Generator
from functools import wraps
from typing import Any, ParamSpec, TypeVar

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


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
