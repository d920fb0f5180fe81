"""`difffit datasets`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from difffit.cli.arguments import DomainArgument, LimitOption, WaitOption, domain_id
from difffit.cli.base import State, command
from difffit.cli.views import bytes_bar, record, size, table

if TYPE_CHECKING:
    from difffit.models import Dataset

app = typer.Typer(help="Images to learn from, one folder a class.", no_args_is_help=True)
_REFUSED = {"file": lambda one: one.file, "not used, because": lambda one: one.detail}
DatasetArgument = Annotated[str, typer.Argument(metavar="DATASET", help="Its id.")]


@command(app)
def upload(
    state: State,
    domain: DomainArgument,
    path: Annotated[
        Path, typer.Argument(metavar="PATH", exists=True, help="A folder with one folder of images a class, or a zip.")
    ],
    wait: WaitOption = True,
) -> None:
    """Upload a folder or a zip, and show what the server made of it.

    A large one goes in parts: when it broke off, the same command sends what is missing.
    """
    from difffit.archives import left_out_note

    owner = domain_id(state.client, domain)
    if (note := left_out_note(path)) is not None:
        state.tell(note)
    with bytes_bar(state, "Uploading") as progress:
        task = progress.add_task("")
        dataset = state.client.datasets.upload(
            owner, path, lambda sent, total: progress.update(task, completed=sent, total=total)
        )
    if wait:
        with state.err.status("Checking the images"):
            dataset = _checked(state, dataset.id)
    state.show(dataset, _view(dataset))


@command(app, "list")
def list_datasets(
    state: State,
    domain: DomainArgument,
    status: Annotated[Literal["validating", "ready", "rejected"] | None, typer.Option(help="Only these.")] = None,
    limit: LimitOption = None,
) -> None:
    """List a domain's data sets, newest first."""
    found = list(state.client.datasets.list(domain_id(state.client, domain), limit, status=status))
    columns = {
        "id": lambda one: one.id,
        "status": lambda one: one.status,
        "images": lambda one: one.images,
        "classes": lambda one: len(one.classes),
        "size": lambda one: size(one.size_bytes),
        "created": lambda one: one.created_at,
    }
    state.show(found, table(found, columns))


@command(app)
def uploads(state: State, domain: DomainArgument, limit: LimitOption = None) -> None:
    """List a domain's uploads in parts, newest first. One that broke off goes on with the same `upload` again."""
    found = list(state.client.datasets.uploads.list(domain_id(state.client, domain), limit))
    columns = {
        "id": lambda one: one.id,
        "status": lambda one: one.status,
        "file": lambda one: one.filename,
        "size": lambda one: size(one.size_bytes),
        "expires": lambda one: one.expires_at,
    }
    state.show(found, table(found, columns))


@command(app)
def abort(
    state: State, domain: DomainArgument, upload: Annotated[str, typer.Argument(metavar="UPLOAD", help="Its id.")]
) -> None:
    """Abort an upload in parts, and remove what was sent."""
    state.client.datasets.uploads.abort(domain_id(state.client, domain), upload)
    state.show({"aborted": upload}, f"Aborted {upload}.")


@command(app)
def get(state: State, dataset: DatasetArgument) -> None:
    """Show a data set, its classes, and the first files that were refused."""
    found = state.client.datasets.get(dataset)
    state.show(found, _view(found))


@command(app)
def report(state: State, dataset: DatasetArgument, limit: LimitOption = None) -> None:
    """List the files of a data set that were refused, and why."""
    found = list(state.client.datasets.rejected(dataset, limit))
    state.show(found, table(found, _REFUSED))


def _checked(state: State, id: str) -> "Dataset":
    """Raises JobFailed, after the refused files are shown."""
    from difffit.errors import JobFailed

    try:
        return state.client.datasets.wait(id)
    except JobFailed as error:
        state.tell(_view(error.job))  # type: ignore[arg-type]  # the job of a data set
        raise


def _view(dataset: "Dataset") -> RenderableType:
    parts: list[RenderableType] = [record(dataset, "id", "status", "images", size=size(dataset.size_bytes))]
    if dataset.classes:
        columns = {
            "class": lambda one: str(one.id),
            "name": lambda one: one.name,
            "images": lambda one: one.images,
        }
        parts.append(table(dataset.classes, columns))
    if dataset.report.rejected:
        parts.append(table(dataset.report.rejected, _REFUSED))
        more = dataset.report.rejected_count - len(dataset.report.rejected)
        if more:
            parts.append(Text(f"{more:,} more: `difffit datasets report {dataset.id}` lists all.", "dim"))
    if dataset.report.ignored:
        parts.append(f"Ignored, since they are not meant as images: {dataset.report.ignored}")
    parts += [
        f"Warning: {one.file}. {one.detail}" if one.file else f"Warning: {one.detail}"
        for one in dataset.report.warnings
    ]
    return Group(*parts)
