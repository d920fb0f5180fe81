"""Commands of `difffit images`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import RenderableType

from difffit.cli.arguments import (
    AdapterOption,
    AfterOption,
    BeforeOption,
    ClassOption,
    LimitOption,
    OptionalDomainArgument,
    YesOption,
    confirm,
    domain_id,
)
from difffit.cli.base import State, command
from difffit.cli.views import size, table
from difffit.filters import ImageFilters

if TYPE_CHECKING:
    from difffit.models import StoredImage

app = typer.Typer(help="Find, mark and delete generated images.", no_args_is_help=True)
ImageArgument = Annotated[str, typer.Argument(metavar="IMAGE", help="Id of the image, such as gen_…/0.")]
ImagesArgument = Annotated[list[str], typer.Argument(metavar="IMAGES…", help="Ids of the images, such as gen_…/0.")]


@command(app, "list")
def list_images(
    state: State,
    domain: OptionalDomainArgument = None,
    class_name: ClassOption = None,
    adapter_id: AdapterOption = None,
    after: AfterOption = None,
    before: BeforeOption = None,
    seed: Annotated[int | None, typer.Option(help="List only images with this seed.")] = None,
    favourite: Annotated[
        bool | None, typer.Option("--favourites/--no-favourites", help="List only favourites, or only others.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="List only images whose label contains this text.")] = None,
    limit: LimitOption = None,
) -> None:
    """List the images of a domain, or of all your domains, newest first."""
    owner = None if domain is None else domain_id(state.client, domain)
    filters: ImageFilters = {"class_name": class_name, "adapter_id": adapter_id, "seed": seed, "label": label}
    filters |= {"created_after": after, "created_before": before, "favourite": favourite}
    images = list(state.client.images.list(owner, limit, **filters))
    state.show(images, _view(images))


@command(app)
def update(
    state: State,
    image: ImageArgument,
    favourite: Annotated[
        bool | None, typer.Option("--favourite/--no-favourite", help="Mark it as a favourite, or no longer.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Text to find it by. An empty text removes the label.")] = None,
) -> None:
    """Mark an image as a favourite, or label it."""
    changed = state.client.images.update(image, favourite=favourite, label=label)
    state.show(changed, _view([changed]))


@command(app)
def download(
    state: State,
    images: ImagesArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Zip file, or folder for it.")] = Path(),
) -> None:
    """Save up to 500 images as a zip, with their classes, seeds and labels in `metadata.jsonl`."""
    path = state.client.images.download(images, output)
    state.show({"path": str(path)}, str(path))


@command(app)
def delete(state: State, images: ImagesArgument, yes: YesOption = False) -> None:
    """Delete images."""
    confirm(f"Delete {len(images)} image{'s' if len(images) > 1 else ''}?", yes=yes)
    deleted = state.client.images.delete(images)
    state.show({"deleted": list(deleted)}, "\n".join(f"Deleted {id}." for id in deleted) or "No such image.")


def _view(images: "list[StoredImage]") -> RenderableType:
    columns = {
        "id": lambda image: image.id,
        "class": lambda image: image.class_name,
        "seed": lambda image: str(image.seed),
        "favourite": lambda image: image.favourite,
        "label": lambda image: image.label,
        "size": lambda image: size(image.size_bytes),
        "created": lambda image: image.created_at,
    }
    return table(images, columns)
