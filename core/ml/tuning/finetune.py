"""Fine-tune as a generator: the engine's loop runs it one slice at a time, between sampling steps of image requests.

The generator yields events, which the caller stores. A slice keeps the device busy only for a short time: it is one
micro-batch, one batch of held-out images, or one sampling step of the sample images. Each micro-batch is yielded before
it passes the model, so that the engine can compute the micro-batches of several fine-tunes as one batch.
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
from core.artifact.sites import CLASS_TABLE, GUIDED, trainable_shapes
from core.ml.diffusion.sampling import sample_steps, seeded_noise
from core.ml.errors import TrainingOutOfMemory
from core.ml.model.checkpoint import LoadedBase
from core.ml.model.device import is_out_of_memory, release_memory
from core.ml.tuning.checkpoint import pack, steps_of
from core.ml.tuning.distillation import TAUGHT, GuidanceTrainer, taught_by
from core.ml.tuning.latents import Encode, Latents, concatenate, encode_batch, image_grid, prepare_images, to_image
from core.ml.tuning.methods import adapter_of
from core.ml.tuning.parallel import ALONE, Processes
from core.ml.tuning.passes import MicroBatch
from core.ml.tuning.plan import (
    Checkpoint,
    Encoding,
    Evaluation,
    Event,
    FinetunePlan,
    Outcome,
    Progress,
    Sample,
    SampleSkipped,
    Started,
)
from core.ml.tuning.reading import ReadAhead
from core.ml.tuning.start import continue_from, start_tensors
from core.ml.tuning.trainer import MICRO_BATCH, StepReport, Trainer

Yielded = Event | Future[None] | MicroBatch | None
"""Values that `finetune` yields: an event to store, a Future to wait for, a micro-batch that may be computed together
with those of other fine-tunes, or None."""


def finetune(
    base: LoadedBase,
    plan: FinetunePlan,
    images: Iterable[tuple[int, Image.Image]],
    state: Mapping[str, Tensor] | None = None,
    processes: Processes = ALONE,
    *,
    read_ahead: bool = False,
) -> Generator[Yielded, None, Outcome]:
    """Trains one adapter and returns its tensors and losses. Continues from `state`, the state in a checkpoint of the
    same plan, if it is given. The same base, plan and images give the same tensors, with or without such a resume:
    bit-identical ones on a CPU if batches are split alike, and equal up to rounding on a GPU, or where the memory limit
    splits them otherwise.

    Classes that the base knows by name start from the base's class embeddings; other classes start from random
    embeddings, as all classes do in the DiffFit paper (arXiv 2304.06648). A plan that continues from an adapter starts
    with the adapter's tensors instead, and with its embeddings of the classes that it knows by name.

    `images` are pairs of a class id and an image. With `read_ahead`, a separate thread reads them, and a Future is
    yielded while no image is ready: call `next` again once it is resolved. Without `read_ahead`, `next` blocks.

    With several processes, each process runs this with the same plan, images and state, and yields the same events.

    Raises InvalidRequest for training settings outside their limits. Raises ValueError when the base does not support
    the plan's image size, or when the plan keeps the base's class table but the base lacks a class. Raises
    TrainingDiverged when the loss is not finite, and TrainingOutOfMemory when a single image does not fit. When
    EngineStopped is thrown into the generator during training, it yields a last checkpoint.
    """
    plan.training.check()
    try:
        plan, max_rows = _divided(base, plan, state or {})
        return (yield from _finetune(base, plan, images, state, max_rows, processes=processes, read_ahead=read_ahead))
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise TrainingOutOfMemory(f"{type(error).__name__}: {error}") from error
        raise


def _divided(base: LoadedBase, plan: FinetunePlan, state: Mapping[str, Tensor]) -> tuple[FinetunePlan, int]:
    """Returns the plan with a micro-batch size that respects a slice's time and the plan's memory limit, and the max
    number of rows when micro-batches of several fine-tunes are computed together. A resumed run keeps the size that
    `state` contains, or takes a smaller one if that no longer fits. Raises TrainingOutOfMemory."""
    device, batch = base.dit.positions.device.type, plan.training.batch_size
    scale = base.description.scale_of(plan.image_size)
    footprint = Footprint.of(base.dit.config, plan.method, scale, device)
    at_once = footprint.images_at_once(batch, device, plan.memory_bytes)
    if not at_once:
        needed, limit = footprint.total_bytes(batch, 1), plan.memory_bytes or 0
        raise TrainingOutOfMemory(f"a single image needs {needed:,} bytes, and the limit is {limit:,}")
    micro = min(at_once, plan.training.micro_batch_size or batch, int(state.get(MICRO_BATCH, batch)))
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
    settings, ordinary = plan.training, plan.training.before_distillation
    shared: dict[str, Any] = {"processes": processes, "frozen": frozen, "max_rows": max_rows}
    # Counting more steps than the own ones would leave too much weight to the adapter that training starts from.
    averaged_before = min(plan.start.steps, ordinary.steps) if plan.start is not None else 0
    trainer = Trainer(dit, start, latents, ordinary, make_adapter, averaged_before=averaged_before, **shared)
    # Without gradients an image takes a fraction of the memory and half of the time, so batches can be larger.
    rows = min(32, 2 * (plan.training.micro_batch_size or 1))
    loss_base = yield from trainer.held_out_parts({}, dit.config.null_class, batch_size=rows)
    state = state or {}
    if state and TAUGHT not in state:
        trainer.restore(state)
    yield Started(loss_base, trainer.parameters.numel(), steps_of(state))
    if TAUGHT in state:
        steps_before, tensors = taught_by(state, trainer)
        adapter_step = steps_before
    else:
        yield from _trained(trainer, plan, base, description, rows)
        steps_before = trainer.steps_done
        adapter_step, tensors = trainer.result()
    losses = {"base": loss_base}
    for name, label in (("adapter", None), ("adapter_null", trainer.null_class)):
        losses[name] = yield from trainer.held_out_parts(tensors, label, batch_size=rows)
    if settings.distill_guidance is not None:
        guidance = GuidanceTrainer(dit, tensors, latents, settings, steps_before, **shared)
        if TAUGHT in state:
            guidance.restore(state)
        yield from _trained(guidance, plan, base, description, rows)
        adapter_step = steps_before + guidance.steps_done
        tensors |= {GUIDED + name: tensor for name, tensor in guidance.averaged.items()}
    stopped_early = steps_before < ordinary.steps
    copies = {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}
    return Outcome(copies, losses, adapter_step, "early_stopping" if stopped_early else "all_steps")


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
    """Returns the adapter's trainable tensors and its frozen tensors, at their start values. Raises ValueError when the
    plan does not train the class table, and neither the base nor the adapter to continue from has one of the
    classes."""
    shapes = trainable_shapes(base.dit.config, plan.method, plan.sites, len(plan.class_names))
    known = base.description.labels_of(plan.class_names)
    named = {*base.description.class_names, *(() if plan.start is None else plan.start.class_names)}
    tensors = start_tensors(base.dit, shapes, torch.Generator().manual_seed(plan.training.seed), known=known)
    if plan.start is not None:
        continue_from(tensors, plan.start, plan.class_names)
    if plan.train_class_table:
        return tensors, {}
    if unknown := [name for name in plan.class_names if name not in named]:
        raise ValueError(f"no known embeddings of the classes {', '.join(unknown)}")
    return tensors, {CLASS_TABLE: tensors.pop(CLASS_TABLE)}


def _trained(
    trainer: Trainer, plan: FinetunePlan, base: LoadedBase, description: dict[str, Any], rows: int
) -> Generator[Event | MicroBatch | None, None, None]:
    """Makes the trainer's steps. If the engine stops, yields a last checkpoint."""
    try:
        yield from _steps(trainer, plan, base, description, rows)
    except EngineStopped:
        if not trainer.done:  # when it is done, a resume has to yield the last events again
            yield Checkpoint(trainer.steps_before + trainer.steps_done, pack(trainer.state(), description))
        raise


def _steps(
    trainer: Trainer, plan: FinetunePlan, base: LoadedBase, description: dict[str, Any], rows: int
) -> Generator[Event | MicroBatch | None, None, None]:
    losses: list[float] = []
    seconds = 0.0
    yield from _evaluated(trainer, rows)  # a stop during an evaluation leaves a checkpoint from before it
    while not trainer.done:
        report, seconds = yield from _step(trainer, seconds)
        losses.append(report.loss)
        step = trainer.steps_before + report.step
        yield from _evaluated(trainer, rows)
        if step % plan.progress_every == 0 or trainer.done:
            yield Progress(step, sum(losses) / len(losses), report.gradient_norm, seconds)
            losses, seconds = [], 0.0
        if step % plan.checkpoint_every == 0 and not trainer.done:
            yield Checkpoint(step, pack(trainer.state(), description))
        if step % plan.samples_every == 0 or trainer.done:
            yield from _sampled(trainer, base, step)


def _step(trainer: Trainer, seconds: float) -> Generator[MicroBatch, None, tuple[StepReport, float]]:
    """Makes one optimizer step, and returns its report and `seconds` plus the device time that the step took. The time
    that other work takes between the step's slices does not count."""
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


def _evaluated(trainer: Trainer, rows: int) -> Generator[Evaluation | None, None, None]:
    """Evaluates the moving average in batches of `rows` and yields the result, if an evaluation is due."""
    if trainer.is_evaluation_due:
        yield None  # ends the slice of the training step before
        loss = yield from trainer.evaluation_parts(rows)
        yield Evaluation(trainer.steps_done, loss, trainer.best.step)


def _sampled(trainer: Trainer, base: LoadedBase, step: int) -> Generator[Sample | SampleSkipped | None, None, None]:
    """Generates and yields one sample event. When memory runs out, generates fewer images at once, and finally skips
    the sample, so that training does not fail because of it."""
    while True:
        try:
            yield Sample(step, (yield from _samples(trainer, base)))
            return
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        release_memory()
        sizes = trainer.sizes.in_use
        if len(sizes) == 1:
            yield SampleSkipped(step)
            return
        trainer.sizes.shrink_to(len(sizes) - 1)


def _samples(trainer: Trainer, base: LoadedBase, most: int = 8) -> Generator[None, None, Image.Image]:
    config = base.dit.config
    labels = torch.arange(min(trainer.null_class, most))
    noise = seeded_noise(range(len(labels)), tuple(trainer.latents.mean.shape[2:]))
    (model, sampling), device = trainer.sampled(), trainer.device
    images: list[Image.Image] = []
    yield  # ends the slice of the training step before
    for part in torch.arange(len(labels)).split(trainer.sizes.in_use[-1]):
        latents = yield from sample_steps(
            model,
            noise[part].to(device),
            labels[part].to(device),
            trainer.null_class,
            sampling,
            channels=config.guidance_channels,
        )
        for latent in latents:
            images.append(to_image(base.autoencoder.decode(latent[None])[0]))
            yield
    return image_grid(images, columns=len(labels))
