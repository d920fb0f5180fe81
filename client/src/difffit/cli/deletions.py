"""Commands of `difffit deletions`, for the receipts of deletions."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType

from difffit.cli.arguments import LimitOption
from difffit.cli.base import State, command
from difffit.cli.views import record, size, table

if TYPE_CHECKING:
    from difffit.models import Deletion

app = typer.Typer(help="Show receipts of deletions.", no_args_is_help=True)


@command(app, "list")
def list_deletions(state: State, limit: LimitOption = None) -> None:
    """List the receipts of your deletions, newest first."""
    deletions = list(state.client.deletions.list(limit))
    state.show(deletions, view(deletions))


@command(app)
def get(state: State, deletion: Annotated[str, typer.Argument(metavar="DELETION", help="Id of the deletion.")]) -> None:
    """Show what was deleted, and when the deletion was complete."""
    receipt = state.client.deletions.get(deletion)
    fields = ("id", "kind", "target", "actor_key_id", "created_at", "done_at", "objects", "rows")
    state.show(receipt, record(receipt, *fields, bytes=size(receipt.bytes)))


def view(deletions: "list[Deletion]") -> RenderableType:
    columns = {
        "id": lambda deletion: deletion.id,
        "kind": lambda deletion: deletion.kind,
        "target": lambda deletion: deletion.target,
        "files removed": lambda deletion: deletion.objects,
        "size": lambda deletion: size(deletion.bytes),
        "deleted": lambda deletion: deletion.created_at,
        "completed": lambda deletion: deletion.done_at,
    }
    return table(deletions, columns)
