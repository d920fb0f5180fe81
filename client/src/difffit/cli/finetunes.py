"""`difffit finetunes`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from difffit.cli.arguments import DomainArgument, JobStatusOption, LimitOption, domain_id
from difffit.cli.base import State, command
from difffit.cli.views import record, steps_bar, table
from difffit.requests import FinetuneSettings, Method, Preset

if TYPE_CHECKING:
    from difffit.models import Estimate, Finetune

app = typer.Typer(help="From a data set to an adapter, the domain's next version.", no_args_is_help=True)
FinetuneArgument = Annotated[str, typer.Argument(metavar="FINETUNE", help="Its id.")]
SamplesOption = Annotated[Path | None, typer.Option("--samples", help="Folder for drawings made on the way.")]
_FIELDS = ("id", "status", "method", "preset", "step", "steps", "loss", "held_out_loss_base", "held_out_loss_adapter")
_MORE = ("seconds", "trainable_parameters", "adapter_id", "created_at")


@command(app)
def start(
    state: State,
    domain: DomainArgument,
    dataset: Annotated[str | None, typer.Option(help="Id; the domain's newest ready data set by default.")] = None,
    method: Annotated[Method | None, typer.Option(help="What is trained.")] = None,
    preset: Annotated[Preset | None, typer.Option(help="Where DiffFit puts its scale factors and norms.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Constant.")] = None,
    seed: Annotated[int | None, typer.Option(help="Equal data, settings and seed give an equal adapter.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Pixels a side: the base's size, or twice that.")] = None,
    auto_promote: Annotated[bool | None, typer.Option(help="Make the new version active at once.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what it would take.")] = False,
    watch: Annotated[bool, typer.Option("--watch/--no-watch", help="Show how it goes until it has ended.")] = False,
    samples: SamplesOption = None,
) -> None:
    """Fine-tune the base on a data set. What is left out takes the server's defaults."""
    owner = domain_id(state.client, domain)
    dataset_id = dataset or _newest_dataset(state, owner)
    asked = {
        "method": method,
        "preset": preset,
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "image_size": image_size,
        "auto_promote": auto_promote,
    }
    settings: FinetuneSettings = {name: value for name, value in asked.items() if value is not None}  # type: ignore[assignment]
    if dry_run:
        estimate = state.client.finetunes.estimate(owner, dataset_id, **settings)
        state.show(estimate, _estimate(estimate))
        return
    finetune = state.client.finetunes.start(owner, dataset_id, **settings)
    if watch:
        finetune = _watch(state, finetune.id, samples)
    state.show(finetune, _view(finetune))
    if not watch:
        state.tell(f"`difffit finetunes watch {finetune.id}` shows how it goes.")


@command(app)
def watch(state: State, finetune: FinetuneArgument, samples: SamplesOption = None) -> None:
    """Show how a fine-tune goes until it has ended."""
    found = _watch(state, finetune, samples)
    state.show(found, _view(found))


@command(app)
def events(
    state: State,
    finetune: FinetuneArgument,
    after: Annotated[int, typer.Option(min=0, help="Id of the last event that is known.")] = 0,
) -> None:
    """Print events as they happen until it has ended, one JSON object a line."""
    for event in state.client.finetunes.events(finetune, after):
        typer.echo(json.dumps({"event": type(event).__name__.lower(), **event.model_dump(mode="json")}))


@command(app, "list")
def list_finetunes(
    state: State, domain: DomainArgument, status: JobStatusOption = None, limit: LimitOption = None
) -> None:
    """List a domain's fine-tunes, newest first."""
    found = list(state.client.finetunes.list(domain_id(state.client, domain), limit, status=status))
    columns = {
        "id": lambda one: one.id,
        "status": lambda one: one.status,
        "step": lambda one: f"{one.step}/{one.steps}",
        "loss": lambda one: one.loss,
        "adapter": lambda one: one.adapter_id,
        "created": lambda one: one.created_at,
    }
    state.show(found, table(found, columns))


@command(app)
def get(state: State, finetune: FinetuneArgument) -> None:
    """Show one fine-tune."""
    found = state.client.finetunes.get(finetune)
    state.show(found, _view(found))


@command(app)
def metrics(state: State, finetune: FinetuneArgument) -> None:
    """Show the loss curve."""
    found = state.client.finetunes.metrics(finetune)
    columns = {
        "step": lambda one: one.step,
        "loss": lambda one: one.loss,
        "gradient norm": lambda one: one.gradient_norm,
        "seconds": lambda one: one.seconds,
    }
    state.show(found, table(found.data, columns))


@command(app)
def cancel(state: State, finetune: FinetuneArgument) -> None:
    """Cancel a fine-tune: at once while it waits, at its next step while it runs."""
    found = state.client.finetunes.cancel(finetune)
    state.show(found, _view(found))


def _newest_dataset(state: State, owner: str) -> str:
    """Raises InvalidInput when there is none."""
    from difffit.errors import InvalidInput

    for dataset in state.client.datasets.list(owner):
        if dataset.status == "ready":
            return dataset.id
    raise InvalidInput("The domain has no data set that is ready. `difffit datasets upload` brings one.")


def _watch(state: State, id: str, samples: Path | None) -> "Finetune":
    """The fine-tune once it has succeeded. Raises JobFailed."""
    try:
        state.tell(f"Watching {id}. It goes on when you leave with Ctrl-C.")
        _follow(state, id, samples)
        return state.client.finetunes.wait(id)
    except KeyboardInterrupt:
        state.tell(f"`difffit finetunes watch {id}` shows it again, `difffit finetunes cancel {id}` ends it.")
        raise


def _follow(state: State, id: str, samples: Path | None) -> None:
    """Shows a bar, and keeps the drawings when there is a folder for them."""
    from difffit.events import Progress, Sample, Status

    with steps_bar(state, "Fine-tuning") as bar:
        task = bar.add_task("", total=None, note="waiting for a worker")
        for event in state.client.finetunes.events(id):
            match event:
                case Progress():
                    bar.update(task, completed=event.step, total=event.steps, note=f"loss {event.loss:.4f}")
                case Status(encoded_images=int(count)):
                    bar.update(task, note=f"{count} images encoded")
                case Sample() if samples is not None:
                    samples.mkdir(parents=True, exist_ok=True)
                    (samples / f"{id}-{event.step:06}.png").write_bytes(state.client.finetunes.sample(id, event.id))


def _view(finetune: "Finetune") -> Any:
    error = {"error": finetune.error.detail} if finetune.error else {}
    return record(finetune, *_FIELDS, *_MORE, **error)


def _estimate(estimate: "Estimate") -> Any:
    share = f"{100 * estimate.trainable_fraction:.2f} % of the base"
    fields = ("trainable_parameters", "adapter_bytes", "images_seen", "epochs", "images_at_once", "memory_bytes")
    return record(estimate, *fields, trainable_share=share)
