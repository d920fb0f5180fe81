"""Commands of `difffit finetunes`, the jobs that train adapters on data sets."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group

from difffit.cli.arguments import (
    AfterOption,
    BatchSizeOption,
    BeforeOption,
    DistillGuidanceOption,
    DistillStepsOption,
    DomainArgument,
    EarlyStoppingOption,
    EvaluateEveryOption,
    ImageSizeOption,
    JobStatusOption,
    KeepOption,
    LearningRateOption,
    LimitOption,
    OptionalDomainArgument,
    SamplingOption,
    SeedOption,
    StepsOption,
    TrainClassTableOption,
    YesOption,
    confirm,
    domain_id,
)
from difffit.cli.base import State, command
from difffit.cli.views import record, show_deleted, steps_bar, table
from difffit.filters import FinetuneFilters
from difffit.requests import FinetuneSettings, Method, Preset

if TYPE_CHECKING:
    from difffit.events import Progress
    from difffit.models import Estimate, Finetune

app = typer.Typer(help="Train adapters from data sets.", no_args_is_help=True)
FinetuneArgument = Annotated[str, typer.Argument(metavar="FINETUNE", help="Id of the fine-tune.")]
SamplesOption = Annotated[
    Path | None, typer.Option("--samples", help="Folder for sample images generated during training.")
]
_FIELDS = ("id", "status", "method", "preset", "step", "steps", "loss", "held_out_loss_base", "held_out_loss_adapter")
_MORE = ("seconds", "trainable_parameters", "adapter_id", "adapter_step", "stop_reason", "created_at")


@command(app)
def start(
    state: State,
    domain: DomainArgument,
    dataset: Annotated[str | None, typer.Option(help="Id of the data set. The newest ready one by default.")] = None,
    method: Annotated[Method | None, typer.Option(help="Training method.")] = None,
    preset: Annotated[Preset | None, typer.Option(help="Places where DiffFit adds scale factors and norms.")] = None,
    steps: StepsOption = None,
    batch_size: BatchSizeOption = None,
    learning_rate: LearningRateOption = None,
    seed: SeedOption = None,
    image_size: ImageSizeOption = None,
    sampling: SamplingOption = None,
    evaluate_every: EvaluateEveryOption = None,
    keep: KeepOption = None,
    early_stopping: EarlyStoppingOption = None,
    distill_guidance: DistillGuidanceOption = None,
    distill_steps: DistillStepsOption = None,
    from_adapter_id: Annotated[
        str | None, typer.Option("--from", help="Id of a version to continue from. The base by default.")
    ] = None,
    train_class_table: TrainClassTableOption = None,
    auto_promote: Annotated[bool | None, typer.Option(help="Make the new version active at once.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show only the estimated cost.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch/--no-watch", help="Show progress until the fine-tune has ended.")
    ] = False,
    samples: SamplesOption = None,
) -> None:
    """Fine-tune the base model on a data set. Omitted options take the server's defaults."""
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
        "sampling": sampling,
        "evaluate_every": evaluate_every,
        "keep": keep,
        "early_stopping": early_stopping,
        "distill_guidance": distill_guidance,
        "distill_steps": distill_steps,
        "train_class_table": train_class_table,
        "from_adapter_id": from_adapter_id,
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
        state.note(f"Follow its progress with `difffit finetunes watch {finetune.id}`.")


@command(app)
def watch(state: State, finetune: FinetuneArgument, samples: SamplesOption = None) -> None:
    """Show the progress of a fine-tune until it has ended."""
    ended = _watch(state, finetune, samples)
    state.show(ended, _view(ended))


@command(app)
def events(
    state: State,
    finetune: FinetuneArgument,
    after: Annotated[int, typer.Option(min=0, help="Id of the last event already seen.")] = 0,
) -> None:
    """Print the events of a fine-tune as they happen, one JSON object per line, until it has ended."""
    for event in state.client.finetunes.events(finetune, after):
        typer.echo(json.dumps({"event": type(event).__name__.lower(), **event.model_dump(mode="json")}))


@command(app, "list")
def list_finetunes(
    state: State,
    domain: OptionalDomainArgument = None,
    status: JobStatusOption = None,
    after: AfterOption = None,
    before: BeforeOption = None,
    limit: LimitOption = None,
) -> None:
    """List the fine-tunes of a domain, or of all your domains, newest first."""
    owner = None if domain is None else domain_id(state.client, domain)
    filters: FinetuneFilters = {"created_after": after, "created_before": before}
    finetunes = list(state.client.finetunes.list(owner, limit, status=status, **filters))
    columns = {
        "id": lambda finetune: finetune.id,
        "status": lambda finetune: finetune.status,
        "step": lambda finetune: f"{finetune.step}/{finetune.steps}",
        "loss": lambda finetune: finetune.loss,
        "adapter": lambda finetune: finetune.adapter_id,
        "created": lambda finetune: finetune.created_at,
    }
    state.show(finetunes, table(finetunes, columns))


@command(app)
def get(state: State, finetune: FinetuneArgument) -> None:
    """Show one fine-tune."""
    details = state.client.finetunes.get(finetune)
    state.show(details, _view(details))


@command(app)
def metrics(state: State, finetune: FinetuneArgument) -> None:
    """Show the loss curve of a fine-tune, and its losses on held-out images."""
    curve = state.client.finetunes.metrics(finetune)
    columns = {
        "step": lambda point: point.step,
        "loss": lambda point: point.loss,
        "gradient norm": lambda point: point.gradient_norm,
        "seconds": lambda point: point.seconds,
    }
    evaluated = {
        "step": lambda point: point.step,
        "held-out loss": lambda point: point.held_out_loss,
        "best step": lambda point: point.best_step,
    }
    state.show(curve, Group(table(curve.data, columns), table(curve.evaluations, evaluated)))


@command(app)
def cancel(state: State, finetune: FinetuneArgument) -> None:
    """Cancel a fine-tune: immediately if queued, after the current training step if running."""
    details = state.client.finetunes.cancel(finetune)
    state.show(details, _view(details))


@command(app)
def delete(state: State, finetune: FinetuneArgument, yes: YesOption = False) -> None:
    """Delete a fine-tune that has ended, with its events and sample images, once its version is deleted."""
    confirm(f"Delete {finetune} with its events and sample images?", yes=yes)
    show_deleted(state, finetune, state.client.finetunes.delete(finetune))


def _newest_dataset(state: State, owner: str) -> str:
    """Returns the id of the domain's newest data set that is ready. Raises InvalidInput if there is none."""
    from difffit.errors import InvalidInput

    for dataset in state.client.datasets.list(owner):
        if dataset.status == "ready":
            return dataset.id
    raise InvalidInput("The domain has no data set that is ready. Upload one with `difffit datasets upload`.")


def _watch(state: State, id: str, samples: Path | None) -> "Finetune":
    """Shows the progress of a fine-tune and returns the fine-tune once it has succeeded. Raises JobFailed."""
    try:
        state.note(f"Watching {id}. It continues when you leave with Ctrl-C.")
        _follow(state, id, samples)
        return state.client.finetunes.wait(id)
    except KeyboardInterrupt:
        state.note(
            f"Watch it again with `difffit finetunes watch {id}`, or end it with `difffit finetunes cancel {id}`."
        )
        raise


def _follow(state: State, id: str, samples: Path | None) -> None:
    """Shows a progress bar until the fine-tune has ended, and saves its sample images to the folder `samples`, if
    given."""
    from difffit.events import Evaluation, Progress, Sample, Status

    lines = _Lines(state)
    with steps_bar(state, "Fine-tuning") as bar:
        task = bar.add_task("", total=None, note="waiting for a worker")
        held_out = ""
        for event in state.client.finetunes.events(id):
            match event:
                case Progress():
                    bar.update(task, completed=event.step, total=event.steps, note=f"loss {event.loss:.4f}{held_out}")
                    lines.add(event)
                case Evaluation():
                    held_out = f", held out {event.held_out_loss:.4f} (best: step {event.best_step:,})"
                case Status(encoded_images=int(count)):
                    bar.update(task, note=f"{count} images encoded")
                case Sample() if samples is not None:
                    samples.mkdir(parents=True, exist_ok=True)
                    (samples / f"{id}-{event.step:06}.png").write_bytes(state.client.finetunes.sample(id, event.id))


class _Lines:
    """Prints progress as lines where the output is not a terminal, such as in the log of a build: about twenty lines
    for a fine-tune."""

    def __init__(self, state: State) -> None:
        self.state, self.next = state, 0

    def add(self, event: "Progress") -> None:
        if not self.state.err.is_terminal and event.step >= self.next:
            self.next = event.step + -(-event.steps // 20)
            self.state.note(f"step {event.step} of {event.steps}, loss {event.loss:.4f}")


def _view(finetune: "Finetune") -> Any:
    error = {"error": finetune.error.detail} if finetune.error else {}
    return record(finetune, *_FIELDS, *_MORE, **error)


def _estimate(estimate: "Estimate") -> Any:
    percentage = f"{100 * estimate.trainable_fraction:.2f} % of the base"
    fields = ("trainable_parameters", "adapter_bytes", "images_seen", "epochs", "suggested_steps", "images_at_once")
    seconds = "unknown before your first fine-tune" if estimate.seconds is None else f"{estimate.seconds:.0f} s"
    more = {"trainable_fraction": percentage, "device_time": seconds}
    return record(estimate, *fields, "memory_bytes", **more)
