"""Commands `difffit login`, `logout`, `status`, `whoami`, `base`, `usage` and `inspect`."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group

from difffit.cli.arguments import FromDayOption, ToDayOption, day_of
from difffit.cli.base import State
from difffit.cli.views import DAY_COLUMNS, record, size, table
from difffit.settings import (
    DEFAULT_URL,
    Settings,
    checked_url,
    config_file,
    forget_profile,
    profile_name,
    resolve,
    save_profile,
)


def login(
    state: State,
    url: Annotated[str | None, typer.Option(help="The server's address. Prompted for when omitted.")] = None,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Test the key before storing it.")] = True,
) -> None:
    """Store a server's address and an API key in a file that only you can read.

    The command prompts for the API key, or reads it from standard input: `difffit login --url URL < key.txt`. `difffit
    --profile NAME login` stores address and key under a name, for example to keep an administrator's key next to a
    tenant's.
    """
    name = profile_name(state.profile)
    address = checked_url(url or typer.prompt("Server", default=_known_url(), err=True))
    piped = not sys.stdin.isatty()
    key = (sys.stdin.readline() if piped else typer.prompt("API key", hide_input=True, err=True)).strip()
    if check:
        _check(address, key)
    path = save_profile(name, Settings(address, key))
    state.show({"profile": name, "url": address, "file": str(path)}, f"Stored in {path}.")


def logout(state: State) -> None:
    """Delete the server address and API key that `difffit login` stored."""
    name = profile_name(state.profile)
    forgotten = forget_profile(name)
    text = f"Deleted the profile '{name}'." if forgotten else f"There is no profile '{name}' in {config_file()}."
    state.show({"profile": name, "forgotten": forgotten}, text)


def status(state: State) -> None:
    """Show which server is used, whether it is ready, and whether it accepts the API key."""
    from difffit.cli.failures import LATER, SIGN_IN
    from difffit.errors import Unauthenticated

    client = state.client
    ready = client.ready()
    key = "none" if resolve(profile=state.profile).api_key is None else "not checked"
    if key != "none" and not ready.problems:
        try:
            client.key()
            key = "accepted"
        except Unauthenticated:
            key = "rejected"
    trouble = {**ready.problems, **ready.warnings}
    report = {"url": client.url, "api_key": key, **ready.model_dump(mode="json")}
    state.show(report, record(ready, "status", "workers", url=client.url, api_key=key, **trouble))
    if ready.problems:
        raise typer.Exit(LATER)
    if key == "rejected":
        state.note("Sign in with `difffit login`, or set DIFFFIT_API_KEY.")
        raise typer.Exit(SIGN_IN)


def whoami(state: State) -> None:
    """Show the tenant, scopes and expiry date of your API key."""
    key = state.client.key()
    state.show(key, record(key, "id", "name", "tenant_name", "scopes", "expires_at", url=state.client.url))


def base(
    state: State,
    classes: Annotated[bool, typer.Option("--classes", help="Show only the names of its classes.")] = False,
) -> None:
    """Show the server's base model, and the defaults and limits of the settings of generations and fine-tunes."""
    served = state.client.base()
    if classes:
        state.show({"class_names": served.class_names}, "\n".join(served.class_names))
        return
    facts = record(
        served, "name", "digest", "licence", "parameters", "image_sizes", classes=f"{len(served.class_names):,}"
    )
    columns = {
        "setting": lambda named: named[0],
        "default": lambda named: named[1].default,
        "minimum": lambda named: named[1].minimum,
        "maximum": lambda named: named[1].maximum,
        "choices": lambda named: named[1].choices,
    }
    settings = (served.generation_settings, served.finetune_settings)
    generations, finetunes = (table(named.items(), columns) for named in settings)
    state.show(served, Group(facts, "\nGenerations", generations, "Fine-tunes", finetunes))


def usage(state: State, from_day: FromDayOption = None, to_day: ToDayOption = None) -> None:
    """Show your tenant's total usage, its limits, and its usage per day, by default of the last 30 days."""
    totals = state.client.usage(from_day=day_of(from_day), to_day=day_of(to_day))
    facts = record(totals, "images", "model_evaluations", "training_seconds", stored=size(totals.stored_bytes))
    limits = {
        "quota": lambda named: named[0],
        "used": lambda named: _amount(named[0], named[1].used),
        "limit": lambda named: _amount(named[0], named[1].limit),
    }
    days = table(totals.days, DAY_COLUMNS)
    state.show(totals, Group(facts, "\nLimits", table(totals.quotas.items(), limits), "Days, in UTC", days))


def inspect(
    state: State,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", exists=True, dir_okay=False, help="Generated PNG, or adapter file (`.safetensors`)."
        ),
    ],
) -> None:
    """Show the settings stored in a generated image, or the metadata of an adapter file. Needs no server."""
    settings = _manifest(file) if file.suffix == ".safetensors" else _settings(file)
    state.show(settings, record(None, **settings))


def _amount(quota: str, number: int | None) -> str | int | None:
    return size(number) if quota == "stored_bytes" and number is not None else number


def _known_url() -> str:
    """Returns the configured server address, the default answer of the prompt."""
    try:
        return resolve().url
    except ValueError:
        return DEFAULT_URL


def _check(url: str, key: str) -> None:
    """Lists one domain, so that a wrong address or API key raises an error. Lists one tenant if the server forbids
    this, since an administrator's API key may not list domains."""
    from difffit import Client
    from difffit.errors import Forbidden

    with Client(url, key, max_retries=0) as client:
        try:
            next(client.domains.list(limit=1), None)
        except Forbidden:
            next(client.admin.tenants.list(limit=1), None)


def _settings(file: Path) -> dict[str, Any]:
    from difffit.pictures import read_settings

    return read_settings(file.read_bytes())


def _manifest(file: Path) -> dict[str, Any]:
    """Returns the adapter's metadata from the header of a safetensors file: 8 bytes with the header's length, then
    JSON."""
    from difffit.errors import InvalidInput

    with file.open("rb") as source:
        length = int.from_bytes(source.read(8), "little")
        header = source.read(min(length, 2**20))
    try:
        manifest: dict[str, Any] = json.loads(json.loads(header)["__metadata__"]["manifest"])
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(
            "The file is not an adapter of a DiffFit server. Pass a `.safetensors` that one produced."
        ) from error
    return manifest
