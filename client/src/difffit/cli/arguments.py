"""Arguments and options that several commands take."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from difffit import Client

DomainArgument = Annotated[str, typer.Argument(metavar="DOMAIN", help="Name or id of the domain.")]
LimitOption = Annotated[int | None, typer.Option("--limit", min=1, help="Rows at most; all of them by default.")]
JobStatusOption = Annotated[
    Literal["queued", "running", "succeeded", "failed", "cancelled"] | None,
    typer.Option("--status", help="Only these."),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
WaitOption = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it has ended.")]


def domain_id(client: "Client", name_or_id: str) -> str:
    """Raises NotFound."""
    if name_or_id.startswith("dom_"):
        return name_or_id
    for domain in client.domains.list():
        if domain.name == name_or_id:
            return domain.id
    return client.domains.get(name_or_id).id


def confirm(question: str, *, yes: bool) -> None:
    """Asks before what cannot be undone."""
    if not yes:
        typer.confirm(question, abort=True, err=True)
