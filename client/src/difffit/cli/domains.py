"""`difffit domains`."""

from typing import Annotated

import typer

from difffit.cli.arguments import DomainArgument, LimitOption, YesOption, confirm, domain_id
from difffit.cli.base import State, command
from difffit.cli.views import record, table

app = typer.Typer(help="Image styles that the base is taught.", no_args_is_help=True)
_FIELDS = ("id", "name", "description", "base_model", "active_adapter_id", "created_at")


@command(app)
def create(
    state: State,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Unique among your domains.")],
    description: Annotated[str | None, typer.Option(help="For people.")] = None,
) -> None:
    """Create a domain."""
    domain = state.client.domains.create(name, description)
    state.show(domain, record(domain, *_FIELDS))


@command(app, "list")
def list_domains(state: State, limit: LimitOption = None) -> None:
    """List your domains, newest first."""
    found = list(state.client.domains.list(limit))
    columns = {
        "id": lambda one: one.id,
        "name": lambda one: one.name,
        "active adapter": lambda one: one.active_adapter_id,
        "created": lambda one: one.created_at,
    }
    state.show(found, table(found, columns))


@command(app)
def get(state: State, domain: DomainArgument) -> None:
    """Show one domain."""
    found = state.client.domains.get(domain_id(state.client, domain))
    state.show(found, record(found, *_FIELDS))


@command(app)
def update(
    state: State,
    domain: DomainArgument,
    name: Annotated[str | None, typer.Option(help="Its new name.")] = None,
    description: Annotated[str | None, typer.Option(help="Its new description.")] = None,
) -> None:
    """Change a domain's name or description."""
    changed = state.client.domains.update(domain_id(state.client, domain), name=name, description=description)
    state.show(changed, record(changed, *_FIELDS))


@command(app)
def delete(state: State, domain: DomainArgument, yes: YesOption = False) -> None:
    """Delete a domain with its data sets, fine-tunes, adapters and images."""
    found = state.client.domains.get(domain_id(state.client, domain))
    confirm(f"Delete '{found.name}' with all its data sets, adapters and images?", yes=yes)
    receipt = state.client.domains.delete(found.id)
    state.show({"deleted": found.id, "receipt": receipt}, f"Deleted {found.id}. Its files follow: see {receipt}.")
