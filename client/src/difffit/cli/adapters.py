"""Commands of `difffit adapters`, for the adapters of a domain, which are its versions."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from difffit.cli.arguments import (
    AfterOption,
    BeforeOption,
    DomainArgument,
    LimitOption,
    OptionalDomainArgument,
    YesOption,
    confirm,
    domain_id,
)
from difffit.cli.base import State, command
from difffit.cli.views import record, short, show_deleted, size, table
from difffit.filters import AdapterFilters

if TYPE_CHECKING:
    from difffit.models import Adapter

app = typer.Typer(help="Manage adapters, the versions of a domain.", no_args_is_help=True)
AdapterArgument = Annotated[str, typer.Argument(metavar="ADAPTER", help="Id of the adapter.")]
_FIELDS = (
    "id",
    "version",
    "name",
    "note",
    "status",
    "method",
    "preset",
    "parameters",
    "sha256",
    "base_digest",
    "created_at",
)


@command(app, "list")
def list_adapters(
    state: State,
    domain: OptionalDomainArgument = None,
    status: Annotated[
        Literal["ready", "quarantined"] | None, typer.Option(help="List only adapters with this status.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="List only versions whose name contains this text.")] = None,
    class_name: Annotated[str | None, typer.Option("--class", help="List only versions with this class.")] = None,
    after: AfterOption = None,
    before: BeforeOption = None,
    limit: LimitOption = None,
) -> None:
    """List the adapters (versions) of a domain, or of all your domains, newest first. An asterisk marks the active
    version of a domain."""
    client = state.client
    owner = None if domain is None else domain_id(client, domain)
    owners = client.domains.list() if owner is None else [client.domains.get(owner)]
    active = {each.active_adapter_id for each in owners}
    filters: AdapterFilters = {"name": name, "class_name": class_name}
    filters |= {"created_after": after, "created_before": before}
    versions = list(client.adapters.list(owner, limit, status=status, **filters))
    columns = {
        "": lambda adapter: "*" if adapter.id in active else "",
        "version": lambda adapter: adapter.version,
        "name": lambda adapter: adapter.name,
        "id": lambda adapter: adapter.id,
        "status": lambda adapter: adapter.status,
        "method": lambda adapter: adapter.method,
        "size": lambda adapter: size(adapter.size_bytes),
        "base": lambda adapter: short(adapter.base_digest),
        "created": lambda adapter: adapter.created_at,
    }
    state.show(versions, table(versions, columns))


@command(app)
def get(state: State, adapter: AdapterArgument) -> None:
    """Show one adapter and its classes."""
    version = state.client.adapters.get(adapter)
    state.show(version, _view(version))


@command(app)
def update(
    state: State,
    adapter: AdapterArgument,
    name: Annotated[str | None, typer.Option(help="New name. An empty name removes it.")] = None,
    note: Annotated[str | None, typer.Option(help="New note.")] = None,
    rename: Annotated[
        list[str] | None, typer.Option("--rename", metavar="OLD=NEW", help="New name of a class. Repeatable.")
    ] = None,
) -> None:
    """Change an adapter's name or note, or rename its classes."""
    class_names = dict(_renaming(pair) for pair in rename) if rename else None
    version = state.client.adapters.update(adapter, name=name, note=note, class_names=class_names)
    state.show(version, _view(version))


@command(app)
def promote(state: State, adapter: AdapterArgument) -> None:
    """Make an adapter the active version of its domain. To roll back, promote an older version."""
    owner = state.client.adapters.get(adapter).domain_id
    domain = state.client.adapters.promote(owner, adapter)
    state.show(domain, record(domain, "id", "name", "active_adapter_id"))


@command(app)
def download(
    state: State,
    adapter: AdapterArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="File or folder to save to.")] = Path(),
) -> None:
    """Save an adapter as a `.safetensors` file."""
    path = state.client.adapters.download(adapter, output)
    state.show({"id": adapter, "path": str(path)}, str(path))


@command(app)
def upload(
    state: State,
    domain: DomainArgument,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="Adapter file (`.safetensors`).")
    ],
) -> None:
    """Upload an adapter that was trained on the server's base model."""
    version = state.client.adapters.upload(domain_id(state.client, domain), file)
    state.show(version, record(version, *_FIELDS))


@command(app)
def delete(state: State, adapter: AdapterArgument, yes: YesOption = False) -> None:
    """Delete an adapter that is not the active version. Its images stay."""
    version = state.client.adapters.get(adapter)
    confirm(f"Delete version {version.version} ({adapter})?", yes=yes)
    show_deleted(state, adapter, state.client.adapters.delete(adapter))


def _renaming(pair: str) -> tuple[str, str]:
    """Returns the old and the new name of a pair OLD=NEW."""
    old, separator, new = pair.partition("=")
    if not separator:
        raise typer.BadParameter(f"'{pair}' is not of the form OLD=NEW.", param_hint="--rename")
    return old, new


def _view(version: "Adapter") -> Any:
    return record(version, *_FIELDS, "class_names", size=size(version.size_bytes))
