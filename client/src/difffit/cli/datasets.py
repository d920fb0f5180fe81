"""Commands of `difffit datasets`, for training images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from difffit.cli.arguments import (
    AfterOption,
    BeforeOption,
    DomainArgument,
    LimitOption,
    OptionalDomainArgument,
    WaitOption,
    YesOption,
    confirm,
    domain_id,
)
from difffit.cli.base import State, command
from difffit.cli.views import bytes_bar, record, show_deleted, size, table
from difffit.filters import DatasetFilters

if TYPE_CHECKING:
    from difffit.models import Dataset

app = typer.Typer(help="Manage training images, one folder per class.", no_args_is_help=True)
_REFUSED = {"file": lambda rejected: rejected.file, "reason": lambda rejected: rejected.detail}
DatasetArgument = Annotated[str, typer.Argument(metavar="DATASET", help="Id of the data set.")]


@command(app)
def upload(
    state: State,
    domain: DomainArgument,
    path: Annotated[
        Path, typer.Argument(metavar="PATH", exists=True, help="Folder with one folder of images per class, or a zip.")
    ],
    name: Annotated[str | None, typer.Option(help="Name of the data set.")] = None,
    wait: WaitOption = True,
) -> None:
    """Upload training images, as a folder or a zip, and show the result of the server's checks.

    Large files are sent in parts. After an interruption, the same command sends only the missing parts.
    """
    from difffit.archives import left_out_note

    owner = domain_id(state.client, domain)
    if (note := left_out_note(path)) is not None:
        state.note(note)
    with bytes_bar(state, "Uploading") as progress:
        task = progress.add_task("")
        dataset = state.client.datasets.upload(
            owner, path, lambda sent, total: progress.update(task, completed=sent, total=total), name=name
        )
    if wait:
        with state.err.status("Checking the images"):
            dataset = _checked(state, dataset.id)
    state.show(dataset, _view(dataset))


@command(app, "list")
def list_datasets(
    state: State,
    domain: OptionalDomainArgument = None,
    status: Annotated[
        Literal["validating", "ready", "rejected"] | None, typer.Option(help="List only data sets with this status.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="List only data sets whose name contains this text.")] = None,
    after: AfterOption = None,
    before: BeforeOption = None,
    limit: LimitOption = None,
) -> None:
    """List data sets, newest first."""
    owner = None if domain is None else domain_id(state.client, domain)
    filters: DatasetFilters = {"name": name, "created_after": after, "created_before": before}
    datasets = list(state.client.datasets.list(owner, limit, status=status, **filters))
    columns = {
        "id": lambda dataset: dataset.id,
        "name": lambda dataset: dataset.name,
        "status": lambda dataset: dataset.status,
        "images": lambda dataset: dataset.images,
        "classes": lambda dataset: len(dataset.classes),
        "size": lambda dataset: size(dataset.size_bytes),
        "created": lambda dataset: dataset.created_at,
    }
    state.show(datasets, table(datasets, columns))


@command(app)
def uploads(state: State, domain: DomainArgument, limit: LimitOption = None) -> None:
    """List a domain's multipart uploads, newest first. To resume an upload, run the same `upload` command again."""
    rows = list(state.client.datasets.uploads.list(domain_id(state.client, domain), limit))
    columns = {
        "id": lambda upload: upload.id,
        "status": lambda upload: upload.status,
        "file": lambda upload: upload.filename,
        "size": lambda upload: size(upload.size_bytes),
        "expires": lambda upload: upload.expires_at,
    }
    state.show(rows, table(rows, columns))


@command(app)
def abort(
    state: State,
    domain: DomainArgument,
    upload: Annotated[str, typer.Argument(metavar="UPLOAD", help="Id of the upload.")],
) -> None:
    """Abort a multipart upload and delete the parts already sent."""
    state.client.datasets.uploads.abort(domain_id(state.client, domain), upload)
    state.show({"aborted": upload}, f"Aborted {upload}.")


@command(app)
def get(state: State, dataset: DatasetArgument) -> None:
    """Show a data set, its classes, and its first rejected files."""
    details = state.client.datasets.get(dataset)
    state.show(details, _view(details))


@command(app)
def images(
    state: State,
    dataset: DatasetArgument,
    class_name: Annotated[str | None, typer.Option("--class", help="List only images of this class.")] = None,
    warning: Annotated[
        str | None, typer.Option(help="List only images with this warning, such as near_duplicate.")
    ] = None,
    limit: LimitOption = None,
) -> None:
    """List the accepted images of a data set, with their warnings."""
    wanted = None if class_name is None else _class_id(state.client.datasets.get(dataset), class_name)
    rows = list(state.client.datasets.images(dataset, limit, class_id=wanted, warning=warning))
    columns = {
        "number": lambda image: str(image.number),
        "class": lambda image: image.class_name,
        "file": lambda image: image.file,
        "pixels": lambda image: f"{image.width}x{image.height}" if image.width else "",
        "warnings": lambda image: ", ".join(warning.code for warning in image.warnings),
    }
    state.show(rows, table(rows, columns))


@command(app)
def update(
    state: State, dataset: DatasetArgument, name: Annotated[str, typer.Option(help="New name; empty for none.")]
) -> None:
    """Rename a data set."""
    changed = state.client.datasets.update(dataset, name=name or None)
    state.show(changed, _view(changed))


@command(app)
def edit(
    state: State,
    dataset: DatasetArgument,
    add: Annotated[list[str] | None, typer.Option(help="Id of a data set whose images are added.")] = None,
    remove: Annotated[list[int] | None, typer.Option(help="Number of an image to leave out.")] = None,
    drop_class: Annotated[list[str] | None, typer.Option(help="Class to leave out.")] = None,
    rename_class: Annotated[
        list[str] | None, typer.Option(metavar="OLD=NEW", help="New name of a class. Equal names are merged.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the version.")] = None,
    wait: WaitOption = True,
) -> None:
    """Create a version of a data set with other images or classes. Options can be repeated."""
    version = state.client.datasets.edit(
        dataset,
        add=add or [],
        remove=remove or [],
        drop_classes=drop_class or [],
        rename_classes=dict(_renamed(text) for text in rename_class or []),
        name=name,
    )
    version = _checked(state, version.id) if wait else version
    state.show(version, _view(version))


@command(app)
def copy(
    state: State,
    dataset: DatasetArgument,
    domain: DomainArgument,
    name: Annotated[str | None, typer.Option(help="Name of the copy.")] = None,
    wait: WaitOption = True,
) -> None:
    """Copy a data set to another domain."""
    copied = state.client.datasets.copy(dataset, domain_id(state.client, domain), name=name)
    copied = _checked(state, copied.id) if wait else copied
    state.show(copied, _view(copied))


@command(app)
def sample(state: State, domain: DomainArgument, wait: WaitOption = True) -> None:
    """Add sample data to a domain: 160 drawings of OpenMoji in 8 classes, under CC BY-SA 4.0."""
    dataset = state.client.datasets.sample(domain_id(state.client, domain))
    dataset = _checked(state, dataset.id) if wait else dataset
    state.show(dataset, _view(dataset))


@command(app, "import")
def import_dataset(
    state: State,
    domain: DomainArgument,
    images: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="CSV or JSON lines with url and class_name."),
    ] = None,
    bucket: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Public S3 bucket, such as https://drawings.s3.eu-central-1.amazonaws.com."),
    ] = None,
    prefix: Annotated[str, typer.Option(help="Folder in the bucket that contains the folders of the classes.")] = "",
    name: Annotated[str | None, typer.Option(help="Name of the data set.")] = None,
    wait: WaitOption = True,
) -> None:
    """Let the server fetch training images from other hosts, if it allows that: by a file of URLs, or from a bucket."""
    from difffit.batches import read_images
    from difffit.errors import InvalidInput

    if (images is None) == (bucket is None):
        raise InvalidInput("Give either a file of URLs or --bucket.")
    owner = domain_id(state.client, domain)
    if bucket is not None:
        dataset = state.client.datasets.import_bucket(owner, bucket, prefix, name=name)
    elif images is not None:
        dataset = state.client.datasets.import_images(owner, read_images(images), name=name)
    dataset = _checked(state, dataset.id) if wait else dataset
    state.show(dataset, _view(dataset))


@command(app)
def download(
    state: State,
    dataset: DatasetArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Zip file, or folder for it.")] = Path(),
) -> None:
    """Save the accepted images of a data set as a zip with one folder per class, which can be uploaded again."""
    path = state.client.datasets.download(dataset, output)
    state.show({"path": str(path)}, str(path))


@command(app)
def delete(state: State, dataset: DatasetArgument, yes: YesOption = False) -> None:
    """Delete a data set with its images. Versions that were trained on it stay."""
    confirm(f"Delete {dataset} with its images?", yes=yes)
    show_deleted(state, dataset, state.client.datasets.delete(dataset))


@command(app)
def report(state: State, dataset: DatasetArgument, limit: LimitOption = None) -> None:
    """List the rejected files of a data set, with the reasons."""
    files = list(state.client.datasets.rejected(dataset, limit))
    state.show(files, table(files, _REFUSED))


def _renamed(text: str) -> tuple[str, str]:
    """Splits `OLD=NEW`. Raises InvalidInput."""
    from difffit.errors import InvalidInput

    old, separator, new = text.partition("=")
    if not separator:
        raise InvalidInput(f"'{text}' is not of the form OLD=NEW.")
    return old, new


def _class_id(dataset: "Dataset", name: str) -> int:
    """Returns the id of a class of a data set by its name. Raises InvalidInput."""
    from difffit.errors import InvalidInput

    ids = {label.name: label.id for label in dataset.classes}
    if name not in ids:
        raise InvalidInput(f"The data set has no class '{name}'. Its classes: {', '.join(ids)}.")
    return ids[name]


def _checked(state: State, id: str) -> "Dataset":
    """Waits until the server has checked the data set, and returns it. If the data set was rejected, prints its
    rejected files before it raises JobFailed."""
    from difffit.errors import JobFailed

    try:
        return state.client.datasets.wait(id)
    except JobFailed as error:
        state.note(_view(error.job))  # type: ignore[arg-type]  # this job is always a Dataset
        raise


def _view(dataset: "Dataset") -> RenderableType:
    parts: list[RenderableType] = [record(dataset, "id", "name", "status", "images", size=size(dataset.size_bytes))]
    if dataset.classes:
        columns = {
            "class": lambda label: str(label.id),
            "name": lambda label: label.name,
            "images": lambda label: label.images,
        }
        parts.append(table(dataset.classes, columns))
    if dataset.report.rejected:
        parts.append(table(dataset.report.rejected, _REFUSED))
        more = dataset.report.rejected_count - len(dataset.report.rejected)
        if more:
            parts.append(Text(f"{more:,} more: `difffit datasets report {dataset.id}` lists all.", "dim"))
    if dataset.report.ignored:
        parts.append(f"Files ignored because they are not images: {dataset.report.ignored}")
    parts += [
        f"Warning: {warning.file}. {warning.detail}" if warning.file else f"Warning: {warning.detail}"
        for warning in dataset.report.warnings
    ]
    return Group(*parts)
