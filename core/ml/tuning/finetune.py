"""A fine-tune as work in slices: a generator that the engine's loop runs between steps of serving.

It yields events, which the caller stores. The device is never held longer than one slice: a micro-batch, a batch
of held-out images, one step of its samples. A micro-batch is yielded before it passes the model, so that those of
several fine-tunes can pass together.
"""

import time
from collections.abc import Generator, Iterable, Mapping
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from core.artifact.errors import EngineStopped
from core.artifact.footprint import Footprint
from core.artifact.sampling import SamplingSettings
from core.artifact.sites import CLASS_TABLE, trainable_shapes
from core.ml.diffusion.sampling import sample_steps, seeded_noise
from core.ml.errors import TrainingOutOfMemory
from core.ml.model.checkpoint import LoadedBase
from core.ml.model.device import is_out_of_memory, release_memory
from core.ml.tuning.checkpoint import pack
from core.ml.tuning.latents import Encode, Latents, concatenate, encode_batch, image_grid, prepare_images, to_image
from core.ml.tuning.methods import adapter_of
from core.ml.tuning.parallel import ALONE, Processes
from core.ml.tuning.passes import MicroBatch
from core.ml.tuning.plan import (
    Checkpoint,
    Encoding,
    Event,
    FinetunePlan,
    Outcome,
    Progress,
    Sample,
    SampleSkipped,
    Started,
)
from core.ml.tuning.reading import ReadAhead
from core.ml.tuning.start import start_tensors
from core.ml.tuning.trainer import StepReport, Trainer

Yielded = Event | Future[None] | MicroBatch | None
"""Events to store. Slices without an event yield a Future to wait for, rows that may share a pass, or None."""


def finetune(
    base: LoadedBase,
    plan: FinetunePlan,
    images: Iterable[tuple[int, Image.Image]],
    state: Mapping[str, Tensor] | None = None,
    processes: Processes = ALONE,
    *,
    read_ahead: bool = False,
) -> Generator[Yielded, None, Outcome]:
    """Trains one adapter, continuing from the `state` of a checkpoint of the same plan if given. The same base, plan
    and images give the same tensors, also across a resume. Classes that the base knows by name start from its
    embeddings; in the paper, whose base knows none of them, all start from scratch.

    With `read_ahead`, a separate thread reads the images. While none is ready, a Future is yielded instead of an event:
    there is work again when it is resolved. Without `read_ahead`, a slice waits for its images.

    With several processes, each runs this with the same plan, images and state, and yields the same events.

    Raises ValueError when the base does not support the plan's image size or lacks classes whose rows should stay,
    TrainingDiverged when the loss is not finite, TrainingOutOfMemory when one image does not fit. After an
    EngineStopped is thrown in, it yields one more checkpoint.
    """
    try:
        plan, max_rows = _divided(base, plan)
        return (yield from _finetune(base, plan, images, state, max_rows, processes=processes, read_ahead=read_ahead))
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise TrainingOutOfMemory(f"{type(error).__name__}: {error}") from error
        raise


def _divided(base: LoadedBase, plan: FinetunePlan) -> tuple[FinetunePlan, int]:
    """Returns the plan with a micro-batch that fits into a slice's time and the plan's memory, and how many rows of
    several fine-tunes fit together."""
    device, batch = base.dit.positions.device.type, plan.training.batch_size
    scale = base.description.scale_of(plan.image_size)
    footprint = Footprint.of(base.dit.config, plan.method, scale, device)
    at_once = footprint.images_at_once(batch, device, plan.memory_bytes)
    if not at_once:
        needed, limit = footprint.total_bytes(batch, 1), plan.memory_bytes or 0
        raise TrainingOutOfMemory(f"a single image needs {needed:,} bytes, and the limit is {limit:,}")
    micro = min(at_once, plan.training.micro_batch_size or batch)
    together = plan.training.micro_batch_size or footprint.rows_together(device, plan.memory_bytes)
    training = replace(plan.training, micro_batch_size=micro)
    return replace(plan, training=training), max(micro, together)


def _finetune(
    base: LoadedBase,
    plan: FinetunePlan,
    images: Iterable[tuple[int, Image.Image]],
    state: Mapping[str, Tensor] | None,
    max_rows: int,
    *,
    processes: Processes,
    read_ahead: bool,
) -> Generator[Yielded, None, Outcome]:
    dit, description = base.dit, plan.about(base.description.digest)
    start, frozen = _start(base, plan)
    size = base.description.image_size * base.description.scale_of(plan.image_size)
    latents = yield from _encoded(images, base.autoencoder.encode, size, read_ahead)
    make_adapter = partial(adapter_of, plan.sites)
    trainer = Trainer(
        dit, start, latents, plan.training, make_adapter, processes=processes, frozen=frozen, max_rows=max_rows
    )
    # Without gradients an image takes a fraction of the memory, and half of the time.
    rows = min(32, 2 * (plan.training.micro_batch_size or 1))
    loss_base = yield from trainer.held_out_parts({}, dit.config.null_class, batch_size=rows)
    if state is not None:
        trainer.restore(state)
    yield Started(loss_base, trainer.parameters.numel(), trainer.steps_done)
    try:
        yield from _steps(trainer, plan, base, description)
    except EngineStopped:
        if not trainer.done:  # its last events come once more
            yield Checkpoint(trainer.steps_done, pack(trainer.state(), description))
        raise
    losses = {"base": loss_base}
    for name, label in (("adapter", None), ("adapter_null", trainer.null_class)):
        losses[name] = yield from trainer.held_out_parts(trainer.averaged, label, batch_size=rows)
    return Outcome({name: tensor.cpu() for name, tensor in trainer.tensors().items()}, losses)


def _encoded(
    images: Iterable[tuple[int, Image.Image]], encode: Encode, size: int, read_ahead: bool
) -> Generator[Event | Future[None], None, Latents]:
    parts: list[Latents] = []
    batches = prepare_images(images, size)
    with closing(ReadAhead(batches) if read_ahead else batches) as source:
        for batch in source:
            if isinstance(batch, Future):
                yield batch
                continue
            parts.append(encode_batch(batch, encode))
            yield Encoding(sum(len(part) for part in parts))
    return concatenate(parts)


def _start(base: LoadedBase, plan: FinetunePlan) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns the adapter's trainable tensors and its frozen ones, at their start values. Raises ValueError when the
    class table is not trained and the base lacks one of the classes."""
    shapes = trainable_shapes(base.dit.config, plan.method, plan.sites, len(plan.class_names))
    known = base.description.labels_of(plan.class_names)
    tensors = start_tensors(base.dit, shapes, torch.Generator().manual_seed(plan.training.seed), known=known)
    if plan.train_class_table:
        return tensors, {}
    if unknown := [name for place, name in enumerate(plan.class_names) if place not in known]:
        raise ValueError(f"the base has no class {', '.join(unknown)}")
    return tensors, {CLASS_TABLE: tensors.pop(CLASS_TABLE)}


def _steps(
    trainer: Trainer, plan: FinetunePlan, base: LoadedBase, description: dict[str, Any]
) -> Generator[Event | MicroBatch | None, None, None]:
    losses: list[float] = []
    seconds = 0.0
    while not trainer.done:
        report, seconds = yield from _step(trainer, seconds)
        losses.append(report.loss)
        step = report.step
        if step % plan.progress_every == 0 or trainer.done:
            yield Progress(step, sum(losses) / len(losses), report.gradient_norm, seconds)
            losses, seconds = [], 0.0
        if step % plan.checkpoint_every == 0 and not trainer.done:
            yield Checkpoint(step, pack(trainer.state(), description))
        if step % plan.samples_every == 0 or trainer.done:
            yield from _sampled(trainer, base)


def _step(trainer: Trainer, seconds: float) -> Generator[MicroBatch, None, tuple[StepReport, float]]:
    """Makes one optimizer step and sets `seconds` to its own time, without that of others between its parts."""
    with closing(trainer.parts()) as parts:
        while True:
            started = time.perf_counter()
            try:
                micro_batch = next(parts)
            except StopIteration as end:
                return end.value, seconds + time.perf_counter() - started
            seconds += time.perf_counter() - started
            yield micro_batch
            seconds += micro_batch.seconds


def _sampled(trainer: Trainer, base: LoadedBase) -> Generator[Sample | SampleSkipped | None, None, None]:
    """Yields a sample, with fewer images at once when memory runs out: no training ends because of a preview."""
    while True:
        try:
            yield Sample(trainer.steps_done, (yield from _samples(trainer, base)))
            return
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        release_memory()
        sizes = trainer.sizes.in_use
        if len(sizes) == 1:
            yield SampleSkipped(trainer.steps_done)
            return
        trainer.sizes.shrink_to(len(sizes) - 1)


def _samples(trainer: Trainer, base: LoadedBase, most: int = 8) -> Generator[None, None, Image.Image]:
    config = base.dit.config
    labels = torch.arange(min(trainer.null_class, most))
    noise = seeded_noise(range(len(labels)), tuple(trainer.latents.mean.shape[2:]))
    model, device = trainer.route.model(trainer.tensors()), trainer.device
    images: list[Image.Image] = []
    yield  # the slice of the step before ends here
    for part in torch.arange(len(labels)).split(trainer.sizes.in_use[-1]):
        latents = yield from sample_steps(
            model,
            noise[part].to(device),
            labels[part].to(device),
            trainer.null_class,
            SamplingSettings(steps=20),
            channels=config.guidance_channels,
        )
        for latent in latents:
            images.append(to_image(base.autoencoder.decode(latent[None])[0]))
            yield
    return image_grid(images, columns=len(labels))
