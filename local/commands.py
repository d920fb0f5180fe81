"""The commands `difffit train`, `difffit sample`, `difffit evaluate` and `difffit export`.

They import torch only when they run, so that `--help` is fast.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from core.artifact.sampling import SamplerName, TimestepSpacing
from core.artifact.seeds import MAX_SEED
from core.artifact.sites import Method
from difffit.cli.arguments import (
    BatchSizeOption,
    DistillGuidanceOption,
    DistillStepsOption,
    EarlyStoppingOption,
    EvaluateEveryOption,
    ImageSizeOption,
    KeepOption,
    LearningRateOption,
    SamplingOption,
    SeedOption,
    StepsOption,
    TrainClassTableOption,
)
from difffit.cli.base import State, command
from difffit.cli.views import record
from difffit.errors import DiffFitError, NotConfigured

train_app = typer.Typer()
sample_app = typer.Typer()
evaluate_app = typer.Typer()
export_app = typer.Typer()
PANEL = "Without a server"
BaseOption = Annotated[
    str | None,
    typer.Option("--base", help="Base model: `mini`, a folder, a `.pt` file or a hub id. Default: DIFFFIT_BASE_MODEL."),
]
DeviceOption = Annotated[str | None, typer.Option(help="Device: `cpu`, `cuda` or `cuda:1`. Default: DIFFFIT_DEVICE.")]


@command(train_app, "train", rich_help_panel=PANEL)
def train(
    state: State,
    images: Annotated[
        Path,
        typer.Argument(metavar="IMAGES", exists=True, help="Folder with one folder of images per class, or a zip."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Adapter to write.")] = Path("adapter.safetensors"),
    base: BaseOption = None,
    method: Annotated[Method | None, typer.Option(help="Training method.")] = None,
    preset: Annotated[str | None, typer.Option(help="Parameters that DiffFit trains: `paper` or `literal`.")] = None,
    site: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="Setting of the method, such as `rank=16` or `first_block=15`. Repeatable."
        ),
    ] = None,
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
    train_class_table: TrainClassTableOption = None,
    device: DeviceOption = None,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 50,
    samples_every: Annotated[int, typer.Option(min=1, help="Steps between sample images.")] = 100,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start from scratch, ignoring the checkpoint of an earlier run.")
    ] = False,
    micro_batch_size: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Images per forward pass. Fewer need less memory.")
    ] = None,
    distributed: Annotated[
        bool,
        typer.Option("--distributed", help="Run as one of the processes of `accelerate launch` or `torchrun`."),
    ] = False,
) -> None:
    """Fine-tune a base on a local folder of images.

    Next to the adapter it writes sample images, and a checkpoint from which the same command resumes after an
    interruption. The adapter equals the one that a server would train on the same images.
    """
    asked = {
        "method": method,
        "preset": preset,
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "sampling": sampling,
        "evaluate_every": evaluate_every,
        "keep": keep,
        "early_stopping": early_stopping,
        "distill_guidance": distill_guidance,
        "distill_steps": distill_steps,
    }
    with _explained():
        from core.ml.tuning.parallel import ALONE, started_processes
        from local.train import Run

        processes = started_processes() if distributed else ALONE
        run = Run(
            images=images, output=output, base=base, device=device, asked=_given(asked), site=site or [],
            checkpoint_every=checkpoint_every, samples_every=samples_every, restart=restart,
            keep_classes=train_class_table is False, micro_batch_size=micro_batch_size, processes=processes,
            image_size=image_size,
        )  # fmt: skip
        summary = run.train(state)
    if run.writes:
        state.show(summary, record(None, **summary))


@command(sample_app, "sample", rich_help_panel=PANEL)
def sample(
    state: State,
    adapter: Annotated[
        Path | None,
        typer.Argument(exists=True, dir_okay=False, help="Adapter file. Without it, the base generates the images."),
    ] = None,
    class_name: Annotated[
        list[str] | None, typer.Option("--class", help="Class to generate. Repeatable. All classes by default.")
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Images per class.")] = 4,
    seed: Annotated[
        int | None, typer.Option(min=0, max=MAX_SEED - 1, help="Image k uses seed + k. Random by default.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, max=1000, help="Sampling steps.")] = None,
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
    sampler: Annotated[SamplerName | None, typer.Option(help="dpmpp_2m needs the fewest steps.")] = None,
    eta: Annotated[float | None, typer.Option(min=0, max=1, help="Noise added by ddim, from 0 to 1.")] = None,
    timestep_spacing: Annotated[
        TimestepSpacing | None, typer.Option(help="Spacing of the steps' noise levels: `trailing`, or DiT's own `dit`.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the images.")] = Path("samples"),
    base: BaseOption = None,
    device: DeviceOption = None,
) -> None:
    """Generate images with a local adapter file, or with the base.

    Images that already exist in the folder with the same settings are not generated again. The images equal those of a
    server.
    """
    asked = {
        "steps": steps,
        "adapter_scale": adapter_scale,
        "guidance_scale": guidance_scale,
        "guidance_adapter_scale": guidance_adapter_scale,
        "guidance_interval": guidance_interval,
        "sampler": sampler,
        "eta": eta,
        "timestep_spacing": timestep_spacing,
    }
    with _explained():
        from core.artifact.seeds import random_seed
        from local.sample import Run

        run = Run(
            adapter=adapter,
            class_names=class_name or [],
            count=count,
            seed=random_seed() if seed is None else seed,
            chosen=_given(asked),
            output=output,
            base=base,
            device=device,
        )
        paths = run.sample(state)
    state.show({"images": [str(path) for path in paths]}, "\n".join(str(path) for path in paths))


@command(evaluate_app, "evaluate", rich_help_panel=PANEL)
def evaluate(
    state: State,
    generated: Annotated[
        str,
        typer.Argument(
            metavar="DOMAIN", help="Name or id of a domain, whose images are generated, or a folder of them."
        ),
    ],
    real: Annotated[
        Path,
        typer.Argument(
            metavar="REAL_FOLDER", exists=True, file_okay=False, help="Folder of real images, best by class."
        ),
    ],
    count: Annotated[
        int | None, typer.Option("--count", "-n", min=4, help="Images to generate. As many as the real by default.")
    ] = None,
    adapter_id: Annotated[str | None, typer.Option("--adapter", help="Id of a version. Default: the active.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED - 1, help="Image k of a class uses seed + k.")] = 0,
    steps: Annotated[int | None, typer.Option(min=1, max=1000, help="Sampling steps.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Guidance. 1 switches it off.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the images.")] = Path("evaluated"),
    inception: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Inception's TorchScript weights, for the FID.")
    ] = None,
) -> None:
    """Measure the distance of generated images to real ones.

    Prints the Fréchet distance by each network at hand: the FID if Inception's weights are given, the ImageNet network
    if the extra `benchmarks` is installed, and, for images of 64 pixels, the bundled classifier of drawings. The
    distance between halves of the real images shows what chance alone causes. Compare only figures with equal numbers
    of images.
    """
    asked = {"adapter_id": adapter_id, "steps": steps, "guidance_scale": guidance_scale}
    with _explained():
        from local.evaluate import Run

        run = Run(
            generated=generated,
            real=real,
            count=count,
            seed=seed,
            chosen=_given(asked),
            output=output,
            inception=inception,
        )
        summary = run.evaluate(state)
    state.show(summary, record(None, **summary))


@command(export_app, "export", rich_help_panel=PANEL)
def export(
    state: State,
    adapter: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Adapter file.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="New folder to write.")] = Path("model"),
    format: Annotated[
        Literal["diffusers", "dit"],
        typer.Option(help="`diffusers`: for its DiTPipeline. `dit`: weights under the original DiT's names."),
    ] = "diffusers",
    base: BaseOption = None,
) -> None:
    """Write a model with an adapter folded into its weights, which runs without this package.

    diffusers' pipeline has its own timestep features and guides all latent channels, so that its images differ slightly
    for most bases. A folder of the format `dit` is also a base for the other commands.
    """
    with _explained():
        from local.export import Export

        summary = Export(adapter, output, format, base).write()
    state.show(summary, record(None, **summary))


@contextmanager
def _explained() -> Iterator[None]:
    """Converts errors of the server's code, and missing packages, into errors that the client's command line
    displays."""
    try:
        from core.artifact.errors import CoreError
    except ModuleNotFoundError as error:
        raise _incomplete(error) from error
    try:
        yield
    except CoreError as error:
        raise LocalError(error) from error
    except ModuleNotFoundError as error:
        raise _incomplete(error) from error


class LocalError(DiffFitError):
    """Error of the server's code, raised as an error of the client."""

    def __init__(self, error: Any) -> None:
        super().__init__(error.detail)
        self.title, self.code, self.errors = error.title, error.code, error.errors
        self.status: int = error.status if error.status < 500 else 0  # no server is at fault here: the work failed


def _incomplete(error: ModuleNotFoundError) -> NotConfigured:
    return NotConfigured(f"{error.name} is not installed. Install the worker's parts: pip install '.[worker]'")


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
