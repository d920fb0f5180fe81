"""Base of all commands: the option `--json`, the SDK client, exit codes for errors, and the output streams."""

import functools
import inspect
import json
import logging
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer
from rich.console import Console, RenderableType
from rich.text import Text

from difffit.cli.failures import exit_code, render

if TYPE_CHECKING:
    from pydantic import BaseModel

    from difffit import Client

Parameters = ParamSpec("Parameters")
_WIDE = 250
"""Width of the output in columns, wider than most terminals: the terminal wraps longer lines, so that ids can be copied
and scripts get whole lines."""


@dataclass
class State:
    """State of one run of the command: its options, output streams and SDK client."""

    profile: str | None = None
    json: bool = False
    out: Console = field(default_factory=lambda: _console(sys.stdout, _WIDE))
    err: Console = field(default_factory=lambda: _console(sys.stderr))
    _client: "Client | None" = None

    @property
    def client(self) -> "Client":
        """SDK client, created on first use. Raises NotConfigured."""
        if self._client is None:
            from difffit import Client

            self._client = Client(profile=self.profile)
        return self._client

    def show(self, value: "BaseModel | Iterable[BaseModel] | dict[str, Any]", view: RenderableType) -> None:
        """Prints `value` as JSON if `--json` is set, else prints `view`, the same content for people."""
        if self.json:
            typer.echo(json.dumps(_plain(value), ensure_ascii=False))
        else:
            self.out.print(view)

    def note(self, text: RenderableType) -> None:
        """Prints a note to standard error, so that it does not mix with the output. Prints nothing if `--json` is
        set."""
        if not self.json:
            self.err.print(text, soft_wrap=isinstance(text, str))

    def close(self) -> None:
        if self._client is not None:
            self._client.close()


Function = Callable[Concatenate[State, Parameters], None]


def command(
    app: typer.Typer, name: str | None = None, **options: Any
) -> Callable[[Function[Parameters]], Function[Parameters]]:
    """Returns a decorator that registers a function as a command of `app`. The function's first argument is the state;
    its other arguments come from the command line."""

    def register(function: Function[Parameters]) -> Function[Parameters]:
        @functools.wraps(function)
        def run(context: typer.Context, json: bool, **arguments: Any) -> None:
            state = context.find_root().obj or State()
            state.json = json
            _run(state, function, arguments)

        _, *own = inspect.signature(function).parameters.values()
        kind = inspect.Parameter.KEYWORD_ONLY
        first = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        last = inspect.Parameter("json", kind, default=False, annotation=JsonOption)
        parameters = [first, *(parameter.replace(kind=kind) for parameter in own), last]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # Typer reads the options from it
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(name, **options)(run)
        return function

    return register


JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _run(state: State, function: Callable[..., None], arguments: dict[str, Any]) -> None:
    handler = _Retries(state)
    logger = logging.getLogger("difffit")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        function(state, **arguments)
    except Exception as error:
        code = exit_code(error)
        if code is None:
            raise
        render(state.err, error, as_json=state.json)
        raise typer.Exit(code) from error
    finally:
        logger.removeHandler(handler)
        state.close()


class _Retries(logging.Handler):
    """Logging handler that shows the SDK's messages about retries while the command waits for the server."""

    def __init__(self, state: State) -> None:
        super().__init__()
        self.state = state

    def emit(self, record: logging.LogRecord) -> None:
        self.state.note(Text(record.getMessage(), "dim"))


def _console(file: Any, width: int | None = None) -> Console:
    """Creates a console that prints text verbatim, since names that users chose may look like Rich markup."""
    return Console(file=file, width=width, highlight=False, markup=False, emoji=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return value
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    return [_plain(item) for item in value]
