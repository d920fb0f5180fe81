"""`difffit generate` and `difffit generations`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group

from difffit.cli.arguments import DomainArgument, JobStatusOption, LimitOption, domain_id
from difffit.cli.base import State, command
from difffit.cli.views import record, steps_bar, table
from difffit.requests import GenerationSettings, Sampler

if TYPE_CHECKING:
    from difffit.models import Generation

app = typer.Typer(help="Images drawn with a domain's adapter.", no_args_is_help=True)
GenerationArgument = Annotated[str, typer.Argument(metavar="GENERATION", help="Its id.")]
OutputOption = Annotated[Path, typer.Option("--output", "-o", help="Folder for the images.")]
_FIELDS = ("id", "status", "class_name", "count", "seed", "steps", "guidance_scale", "sampler", "adapter_id")


def generate(
    state: State,
    domain: DomainArgument,
    class_name: Annotated[str | None, typer.Argument(metavar="CLASS", help="One of the adapter's classes.")] = None,
    class_id: Annotated[int | None, typer.Option(help="The class by its position instead.")] = None,
    count: Annotated[int | None, typer.Option("--count", "-n", help="Images to draw.")] = None,
    seed: Annotated[int | None, typer.Option(help="Image k uses seed + k.")] = None,
    steps: Annotated[int | None, typer.Option(help="Sampling steps.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="1 draws without guidance, at half the cost.")] = None,
    guidance_interval: Annotated[
        tuple[int, int] | None, typer.Option(help="Lowest and highest of the 1,000 noise levels that are guided.")
    ] = None,
    sampler: Annotated[Sampler | None, typer.Option(help="dpmpp_2m needs the fewest steps.")] = None,
    eta: Annotated[float | None, typer.Option(help="Noise of ddim.")] = None,
    adapter_id: Annotated[
        str | None, typer.Option("--adapter", help="A version's id, or `base`; the active one by default.")
    ] = None,
    priority: Annotated[int | None, typer.Option(help="Among your own requests.")] = None,
    deadline_seconds: Annotated[float | None, typer.Option("--deadline", help="Seconds from now.")] = None,
    output: OutputOption = Path(),
) -> None:
    """Draw images of a class and save them as PNGs that carry their settings."""
    asked = {
        "class_name": class_name,
        "class_id": class_id,
        "count": count,
        "seed": seed,
        "steps": steps,
        "guidance_scale": guidance_scale,
        "guidance_interval": guidance_interval,
        "sampler": sampler,
        "eta": eta,
        "adapter_id": adapter_id,
        "priority": priority,
        "deadline_seconds": deadline_seconds,
    }
    settings: GenerationSettings = {name: value for name, value in asked.items() if value is not None}  # type: ignore[assignment]
    owner = domain_id(state.client, domain)
    started = state.client.generations.create(owner, prefer_wait=1, **settings)
    _save(state, _drawn(state, started.id), output)


@command(app, "list")
def list_generations(
    state: State, domain: DomainArgument, status: JobStatusOption = None, limit: LimitOption = None
) -> None:
    """List a domain's generations, newest first."""
    found = list(state.client.generations.list(domain_id(state.client, domain), limit, status=status))
    columns = {
        "id": lambda one: one.id,
        "status": lambda one: one.status,
        "class": lambda one: one.class_name,
        "images": lambda one: one.count,
        "seed": lambda one: str(one.seed),
        "created": lambda one: one.created_at,
    }
    state.show(found, table(found, columns))


@command(app)
def get(state: State, generation: GenerationArgument) -> None:
    """Show one generation."""
    found = state.client.generations.get(generation)
    error = {"error": found.error.detail} if found.error else {}
    state.show(found, record(found, *_FIELDS, "progress", "created_at", **error))


@command(app)
def cancel(state: State, generation: GenerationArgument) -> None:
    """Cancel a generation: at once while it waits, at its next step while it runs."""
    found = state.client.generations.cancel(generation)
    state.show(found, record(found, *_FIELDS))


@command(app)
def download(state: State, generation: GenerationArgument, output: OutputOption = Path()) -> None:
    """Save a generation's images, waiting for them if need be."""
    _save(state, _drawn(state, generation), output)


def _drawn(state: State, id: str) -> "Generation":
    """Raises JobFailed."""
    with steps_bar(state, "Drawing") as bar:
        task = bar.add_task("", total=100, note="%")
        return state.client.generations.wait(
            id, on_change=lambda found: bar.update(task, completed=round(100 * found.progress))
        )


def _save(state: State, generation: "Generation", output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    paths = [picture.save(output) for picture in state.client.generations.pictures(generation)]
    shown: dict[str, Any] = generation.model_dump(mode="json")
    for image, path in zip(shown["images"], paths, strict=True):
        image["path"] = str(path)
    state.show(shown, Group(*(str(path) for path in paths)))
