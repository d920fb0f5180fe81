"""`difffit adapters`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from difffit.cli.arguments import DomainArgument, LimitOption, domain_id
from difffit.cli.base import State, command
from difffit.cli.views import record, short, size, table

app = typer.Typer(help="The versions of a domain.", no_args_is_help=True)
AdapterArgument = Annotated[str, typer.Argument(metavar="ADAPTER", help="Its id.")]
_FIELDS = ("id", "version", "status", "method", "preset", "parameters", "sha256", "base_digest", "created_at")


@command(app, "list")
def list_adapters(
    state: State,
    domain: DomainArgument,
    status: Annotated[Literal["ready", "quarantined"] | None, typer.Option(help="Only these.")] = None,
    limit: LimitOption = None,
) -> None:
    """List a domain's versions, newest first; the active one is marked."""
    owner = state.client.domains.get(domain_id(state.client, domain))
    found = list(state.client.adapters.list(owner.id, limit, status=status))
    columns = {
        "": lambda one: "*" if one.id == owner.active_adapter_id else "",
        "version": lambda one: one.version,
        "id": lambda one: one.id,
        "status": lambda one: one.status,
        "method": lambda one: one.method,
        "size": lambda one: size(one.size_bytes),
        "base": lambda one: short(one.base_digest),
        "created": lambda one: one.created_at,
    }
    state.show(found, table(found, columns))


@command(app)
def get(state: State, adapter: AdapterArgument) -> None:
    """Show one version and its classes."""
    found = state.client.adapters.get(adapter)
    view = record(found, *_FIELDS, size=size(found.size_bytes), classes=found.manifest.get("class_names", []))
    state.show(found, view)


@command(app)
def promote(state: State, adapter: AdapterArgument) -> None:
    """Make a version the active one. Promoting an older one is the way back."""
    owner = state.client.adapters.get(adapter).domain_id
    domain = state.client.adapters.promote(owner, adapter)
    state.show(domain, record(domain, "id", "name", "active_adapter_id"))


@command(app)
def download(
    state: State,
    adapter: AdapterArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="File, or a folder to put it in.")] = Path(),
) -> None:
    """Save a version as `.safetensors`."""
    path = state.client.adapters.download(adapter, output)
    state.show({"id": adapter, "path": str(path)}, str(path))


@command(app)
def upload(
    state: State,
    domain: DomainArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A `.safetensors`.")],
) -> None:
    """Upload an adapter that was made on the same base."""
    found = state.client.adapters.upload(domain_id(state.client, domain), file)
    state.show(found, record(found, *_FIELDS))
