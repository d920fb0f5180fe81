"""`difffit login`, `logout`, `status`, `usage` and `inspect`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from difffit.cli.base import State
from difffit.cli.views import record
from difffit.settings import DEFAULT_PROFILE, Settings, config_file, forget_profile, resolve, save_profile


def login(
    state: State,
    url: Annotated[str | None, typer.Option(help="Where the server is; asked for when left out.")] = None,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Try the key before it is stored.")] = True,
) -> None:
    """Store a server's address and an API key, readable for you alone.

    The key is asked for, or read from standard input: `difffit login --url URL < key.txt`. `difffit --profile NAME
    login` stores it under a name, to keep an administrator's key beside a tenant's.
    """
    name = state.profile or DEFAULT_PROFILE
    address = (url or typer.prompt("Server", default=_known_url(), err=True)).rstrip("/")
    key = typer.prompt("API key", hide_input=True, err=True).strip()
    if check:
        _check(address, key)
    path = save_profile(name, Settings(address, key))
    state.show({"profile": name, "url": address, "file": str(path)}, f"Stored in {path}.")


def logout(state: State) -> None:
    """Forget what `login` has stored."""
    name = state.profile or DEFAULT_PROFILE
    forgotten = forget_profile(name)
    text = f"Forgot '{name}'." if forgotten else f"There was no '{name}' in {config_file()}."
    state.show({"profile": name, "forgotten": forgotten}, text)


def status(state: State) -> None:
    """Show which server and key are in force, and whether the server has all it needs."""
    client = state.client
    ready = client.ready()
    key = "none" if resolve(profile=state.profile).api_key is None else "set"
    trouble = {**ready.problems, **ready.warnings}
    about = {"url": client.url, "api_key": key, **ready.model_dump(mode="json")}
    state.show(about, record(ready, "status", "workers", url=client.url, api_key=key, **trouble))
    if ready.problems:
        from difffit.cli.failures import LATER

        raise typer.Exit(LATER)


def usage(state: State) -> None:
    """Show what you used: images, row-steps, training seconds, stored bytes."""
    found = state.client.usage()
    state.show(found, record(found, "images", "row_steps", "training_seconds", "stored_bytes"))


def inspect(
    state: State,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A PNG or a `.safetensors`.")
    ],
) -> None:
    """Show what an image was drawn with, or what an adapter's file says of itself. Needs no server."""
    found = _manifest(file) if file.suffix == ".safetensors" else _settings(file)
    state.show(found, record(None, **found))


def _known_url() -> str:
    """What is in force now, to be offered."""
    try:
        return resolve().url
    except ValueError:
        return resolve("").url


def _check(url: str, key: str) -> None:
    """Raises what a wrong address or key gives. An administrator's key may not read domains, but it is known."""
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
    """Out of the header of a safetensors file, which is JSON behind its length."""
    from difffit.errors import InvalidInput

    with file.open("rb") as source:
        length = int.from_bytes(source.read(8), "little")
        header = source.read(min(length, 2**20))
    try:
        manifest: dict[str, Any] = json.loads(json.loads(header)["__metadata__"]["manifest"])
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput("This is not an adapter of a DiffFit server.") from error
    return manifest
