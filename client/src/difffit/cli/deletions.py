"""`difffit deletions`."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType

from difffit.cli.arguments import LimitOption
from difffit.cli.base import State, command
from difffit.cli.views import record, size, table

if TYPE_CHECKING:
    from difffit.models import Deletion

app = typer.Typer(help="Receipts of what was deleted.", no_args_is_help=True)


@command(app, "list")
def list_deletions(state: State, limit: LimitOption = None) -> None:
    """List the receipts of your deleted domains, newest first."""
    found = list(state.client.deletions.list(limit))
    state.show(found, view(found))


@command(app)
def get(state: State, deletion: Annotated[str, typer.Argument(metavar="DELETION", help="Its id.")]) -> None:
    """Show what went, and when the last of it was gone."""
    found = state.client.deletions.get(deletion)
    fields = ("id", "kind", "target", "actor_key_id", "created_at", "done_at", "objects", "rows")
    state.show(found, record(found, *fields, bytes=size(found.bytes)))


def view(found: "list[Deletion]") -> RenderableType:
    columns = {
        "id": lambda one: one.id,
        "of": lambda one: one.target,
        "files removed": lambda one: one.objects,
        "size": lambda one: size(one.bytes),
        "deleted": lambda one: one.created_at,
        "all gone": lambda one: one.done_at,
    }
    return table(found, columns)
