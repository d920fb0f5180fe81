"""Commands of `difffit domains`."""

from typing import Annotated

import typer

from difffit.cli.arguments import (
    DomainArgument,
    KeepFavouritesOption,
    KeepImageDaysOption,
    LimitOption,
    YesOption,
    confirm,
    domain_id,
)
from difffit.cli.base import State, command
from difffit.cli.views import record, show_deleted, table

app = typer.Typer(help="Manage domains: image styles on which the base is fine-tuned.", no_args_is_help=True)
_FIELDS = ("id", "name", "description", "base_model", "active_adapter_id", "keep_image_days", "created_at")


@command(app)
def create(
    state: State,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Unique among your domains.")],
    description: Annotated[str | None, typer.Option(help="Free text.")] = None,
) -> None:
    """Create a domain, to which you can then upload training images."""
    domain = state.client.domains.create(name, description)
    state.show(domain, record(domain, *_FIELDS))


@command(app, "list")
def list_domains(
    state: State,
    limit: LimitOption = None,
    name: Annotated[str | None, typer.Option(help="List only domains whose name contains this text.")] = None,
) -> None:
    """List your domains, newest first."""
    domains = list(state.client.domains.list(limit, name_contains=name))
    columns = {
        "id": lambda domain: domain.id,
        "name": lambda domain: domain.name,
        "active adapter": lambda domain: domain.active_adapter_id,
        "created": lambda domain: domain.created_at,
    }
    state.show(domains, table(domains, columns))


@command(app)
def get(state: State, domain: DomainArgument) -> None:
    """Show one domain."""
    details = state.client.domains.get(domain_id(state.client, domain))
    state.show(details, record(details, *_FIELDS))


@command(app)
def update(
    state: State,
    domain: DomainArgument,
    name: Annotated[str | None, typer.Option(help="New name.")] = None,
    description: Annotated[str | None, typer.Option(help="New description.")] = None,
    keep_image_days: KeepImageDaysOption = None,
    keep_favourites: KeepFavouritesOption = None,
) -> None:
    """Change a domain's name, description or retention of images."""
    changed = state.client.domains.update(
        domain_id(state.client, domain),
        name=name,
        description=description,
        keep_image_days=keep_image_days,
        keep_favourites=keep_favourites,
    )
    state.show(changed, record(changed, *_FIELDS))


@command(app)
def delete(state: State, domain: DomainArgument, yes: YesOption = False) -> None:
    """Delete a domain and its data sets, fine-tunes, adapters and images."""
    details = state.client.domains.get(domain_id(state.client, domain))
    confirm(f"Delete '{details.name}' and all its data sets, adapters and images?", yes=yes)
    show_deleted(state, details.id, state.client.domains.delete(details.id))
