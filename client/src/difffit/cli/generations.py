"""Command `difffit generate`, and commands of `difffit generations`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group

from difffit.cli.arguments import (
    AdapterOption,
    AfterOption,
    BeforeOption,
    ClassOption,
    DomainArgument,
    JobStatusOption,
    LimitOption,
    OptionalDomainArgument,
    WaitOption,
    YesOption,
    confirm,
    domain_id,
)
from difffit.cli.base import State, command
from difffit.cli.views import record, show_deleted, steps_bar, table
from difffit.filters import GenerationFilters
from difffit.requests import GenerationSettings, Sampler, TimestepSpacing

if TYPE_CHECKING:
    from difffit.models import Generation

app = typer.Typer(help="Manage images generated with a domain's adapter.", no_args_is_help=True)
GenerationArgument = Annotated[str, typer.Argument(metavar="GENERATION", help="Id of the generation.")]
OutputOption = Annotated[
    Path, typer.Option("--output", "-o", help="Folder for the images; for one image also its file, `.png`.")
]
_FIELDS = ("id", "status", "class_name", "count", "seed", "steps", "guidance_scale", "sampler", "adapter_id")


def generate(
    state: State,
    domain: DomainArgument,
    class_names: Annotated[
        list[str] | None, typer.Argument(metavar="[CLASS]…", help="Classes of the adapter, each with the same seeds.")
    ] = None,
    class_id: Annotated[int | None, typer.Option(help="Index of the class, instead of its name.")] = None,
    count: Annotated[int | None, typer.Option("--count", "-n", help="Number of images of each class.")] = None,
    seed: Annotated[int | None, typer.Option(help="Image k uses seed + k. Random by default.")] = None,
    steps: Annotated[int | None, typer.Option(help="Sampling steps.")] = None,
    adapter_scale: Annotated[
        float | None, typer.Option(help="Strength of the adapter, from 0 (the base) over 1 to 1.5.")
    ] = None,
    guidance_scale: Annotated[
        float | None, typer.Option(help="Guidance. 1 switches it off: one model evaluation per step.")
    ] = None,
    guidance_adapter_scale: Annotated[
        float | None,
        typer.Option(help="Scale of the adapter to guide against: 1 for the adapter itself, 0 for the base."),
    ] = None,
    guidance_interval: Annotated[
        tuple[int, int] | None, typer.Option(help="Lowest and highest noise level (of 1,000) with guidance.")
    ] = None,
    sampler: Annotated[Sampler | None, typer.Option(help="dpmpp_2m needs the fewest steps.")] = None,
    eta: Annotated[float | None, typer.Option(help="Noise added by ddim, from 0 to 1.")] = None,
    timestep_spacing: Annotated[
        TimestepSpacing | None, typer.Option(help="Spacing of the steps' noise levels: `trailing`, or DiT's own `dit`.")
    ] = None,
    adapter_id: Annotated[
        str | None, typer.Option("--adapter", help="Id of a version, or `base`. The active version by default.")
    ] = None,
    mix_adapter_id: Annotated[
        str | None,
        typer.Option("--mix-adapter", help="Id of another version, of any of your domains, to mix in."),
    ] = None,
    mix_weight: Annotated[
        float | None, typer.Option(help="Weight of that version: 0 is the first version, 1 the other.")
    ] = None,
    priority: Annotated[int | None, typer.Option(help="Priority among your own requests.")] = None,
    deadline_seconds: Annotated[
        float | None, typer.Option("--deadline", help="Seconds until the request expires.")
    ] = None,
    previews: Annotated[int | None, typer.Option(min=0, max=10, help="Previews to store and save per image.")] = None,
    webhook_id: Annotated[
        str | None, typer.Option("--webhook", help="Id of a webhook to which the end is sent.")
    ] = None,
    webhook_url: Annotated[str | None, typer.Option(help="URL to use instead of the webhook's own.")] = None,
    batch: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="File with one request per line: CSV with a header, or JSON lines. Its columns are `name`, for the "
            "file of the image, and settings such as class_name, count and seed; options apply to lines without them.",
        ),
    ] = None,
    wait: WaitOption = True,
    output: OutputOption = Path(),
) -> None:
    """Generate images and save them as PNGs, which contain the settings used.

    After an interruption, the same command with `--batch` continues where it stopped.
    """
    asked = {
        "class_id": class_id,
        "count": count,
        "seed": seed,
        "steps": steps,
        "adapter_scale": adapter_scale,
        "guidance_scale": guidance_scale,
        "guidance_adapter_scale": guidance_adapter_scale,
        "guidance_interval": guidance_interval,
        "sampler": sampler,
        "eta": eta,
        "timestep_spacing": timestep_spacing,
        "adapter_id": adapter_id,
        "mix_adapter_id": mix_adapter_id,
        "mix_weight": mix_weight,
        "priority": priority,
        "deadline_seconds": deadline_seconds,
        "previews": previews,
        "webhook_id": webhook_id,
        "webhook_url": webhook_url,
    }
    settings: GenerationSettings = {name: value for name, value in asked.items() if value is not None}  # type: ignore[assignment]
    classes = class_names or []
    if len(classes) == 1:
        settings["class_name"] = classes[0]
    if batch is not None:
        _run_batch(state, domain, batch, settings, output, can_run=wait and len(classes) < 2)
        return
    if wait:
        _check_output(output, (count or 1) * max(1, len(classes)))
    owner, prefer_wait = domain_id(state.client, domain), 1 if wait else 0
    if len(classes) > 1:
        started = state.client.generations.create_batch(owner, classes, prefer_wait=prefer_wait, **settings)
    else:
        started = (state.client.generations.create(owner, prefer_wait=prefer_wait, **settings),)
    if wait:
        _save(state, _wait(state, [generation.id for generation in started]), output, with_previews=bool(previews))
        return
    state.show(_one_or_all(started), Group(*(record(generation, *_FIELDS) for generation in started)))
    for generation in started:
        state.note(f"Save its images with `difffit generations download {generation.id}`.")


@command(app, "list")
def list_generations(
    state: State,
    domain: OptionalDomainArgument = None,
    status: JobStatusOption = None,
    class_name: ClassOption = None,
    adapter_id: AdapterOption = None,
    after: AfterOption = None,
    before: BeforeOption = None,
    limit: LimitOption = None,
) -> None:
    """List the generations of a domain, or of all your domains, newest first."""
    owner = None if domain is None else domain_id(state.client, domain)
    filters: GenerationFilters = {"class_name": class_name, "adapter_id": adapter_id}
    filters |= {"created_after": after, "created_before": before}
    generations = list(state.client.generations.list(owner, limit, status=status, **filters))
    columns = {
        "id": lambda generation: generation.id,
        "status": lambda generation: generation.status,
        "class": lambda generation: generation.class_name,
        "images": lambda generation: generation.count,
        "seed": lambda generation: str(generation.seed),
        "created": lambda generation: generation.created_at,
    }
    state.show(generations, table(generations, columns))


@command(app)
def get(state: State, generation: GenerationArgument) -> None:
    """Show one generation."""
    details = state.client.generations.get(generation)
    error = {"error": details.error.detail} if details.error else {}
    state.show(details, record(details, *_FIELDS, "progress", "created_at", **error))


@command(app)
def cancel(state: State, generation: GenerationArgument) -> None:
    """Cancel a generation: immediately if queued, after the current sampling step if running."""
    details = state.client.generations.cancel(generation)
    state.show(details, record(details, *_FIELDS))


@command(app)
def download(
    state: State,
    generation: GenerationArgument,
    output: OutputOption = Path(),
    previews: Annotated[bool, typer.Option("--previews", help="Save its previews next to its images.")] = False,
) -> None:
    """Save a generation's images as PNGs. Waits until they are finished."""
    _check_output(output, state.client.generations.get(generation).count)
    _save(state, _wait(state, [generation]), output, with_previews=previews)


@command(app)
def delete(state: State, generation: GenerationArgument, yes: YesOption = False) -> None:
    """Delete a generation that has ended, with its images."""
    confirm(f"Delete {generation} and its images?", yes=yes)
    show_deleted(state, generation, state.client.generations.delete(generation))


def _run_batch(
    state: State, domain: str, file: Path, settings: GenerationSettings, output: Path, *, can_run: bool
) -> None:
    from difffit.batches import read_batch
    from difffit.cli.batches import Batch
    from difffit.errors import InvalidInput

    if not can_run:
        raise InvalidInput("--batch takes at most one CLASS, for lines that name none, and no --no-wait.")
    requests = read_batch(file, settings)
    Batch(state, domain_id(state.client, domain), output).run(requests)


def _wait(state: State, ids: Sequence[str]) -> "list[Generation]":
    """Shows a progress bar and returns the generations once all have succeeded. Raises JobFailed."""
    done: list[Generation] = []
    try:
        with steps_bar(state, "Generating") as bar:
            task = bar.add_task("", total=100, note="%")
            for id in ids:
                done.append(
                    state.client.generations.wait(
                        id,
                        on_change=lambda generation: bar.update(
                            task, completed=round(100 * (len(done) + generation.progress) / len(ids))
                        ),
                    )
                )
    except KeyboardInterrupt:
        for id in ids[len(done) :]:
            state.note(
                f"{id} continues. Save its images with `difffit generations download {id}`, or end it with "
                f"`difffit generations cancel {id}`."
            )
        raise
    return done


def _check_output(output: Path, count: int) -> None:
    """Creates the folder for the images before any are generated. Raises InvalidInput if `output` names one file for
    several images, OSError if the folder cannot be created."""
    from difffit.errors import InvalidInput

    if _is_file(output) and count > 1:
        raise InvalidInput(f"{output} is one file, but there are {count} images. Name a folder with --output.")
    (output.parent if _is_file(output) else output).mkdir(parents=True, exist_ok=True)


def _is_file(output: Path) -> bool:
    return output.suffix.lower() == ".png" and not output.is_dir()


def _save(state: State, generations: "Sequence[Generation]", output: Path, *, with_previews: bool) -> None:
    """Saves the images, and next to each one its previews, such as `fruit-7-step-10.png`, if they are wanted."""
    shown: list[dict[str, Any]] = []
    for generation in generations:
        pictures = state.client.generations.pictures(generation)
        shown.append(generation.model_dump(mode="json"))
        saved = {picture.index: picture.save(output) for picture in pictures}
        for image in shown[-1]["images"]:
            image["path"] = str(saved[image["index"]])
        for preview in shown[-1]["previews"]:
            index, step = preview["index"], preview["step"]
            if with_previews and index in saved:
                path = saved[index].with_name(f"{saved[index].stem}-step-{step}.png")
                path.write_bytes(state.client.generations.preview(generation.id, index, step))
                preview["path"] = str(path)
    paths = [file["path"] for each in shown for file in (*each["images"], *each["previews"]) if "path" in file]
    state.show(_one_or_all(shown), Group(*paths))


def _one_or_all(values: Sequence[Any]) -> Any:
    """Returns the only value, or a list of several, as commands print them with `--json`."""
    return values[0] if len(values) == 1 else list(values)
