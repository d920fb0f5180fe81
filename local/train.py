"""Runs a fine-tune on this machine, as a worker would, with files in place of the database and the object store."""

import hashlib
import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress as Bar
from torch import Tensor

from core.artifact.errors import InvalidRequest
from core.artifact.sites import PRESETS, SITES, MethodSites, Sites, sites_of, trainable_shapes
from core.artifact.training import DEFAULT_TRAINING, PRETRAINING_RATE
from core.ml.errors import CheckpointInvalid
from core.ml.model.checkpoint import LoadedBase
from core.ml.tuning.checkpoint import unpack, write_file
from core.ml.tuning.finetune import finetune
from core.ml.tuning.parallel import ALONE, Processes
from core.ml.tuning.plan import (
    ABOUT_DEFAULTS,
    Checkpoint,
    Encoding,
    Evaluation,
    FinetunePlan,
    Outcome,
    Progress,
    Sample,
    Started,
)
from core.service.config import Settings, get_settings
from core.service.datasets import archive
from core.service.datasets import service as datasets
from core.service.datasets.report import Report
from core.service.finetunes.service import FinetuneRequest
from difffit.archives import left_out_note, open_archive
from difffit.cli.base import State
from difffit.cli.views import steps_bar
from local.base import load


@dataclass
class Run:
    images: Path
    output: Path
    base: str | None
    device: str | None
    asked: dict[str, Any]
    """Method, preset, and fields of TrainingSettings, by name. Missing fields take the server's defaults."""
    site: list[str]
    """NAME=VALUE pairs that override settings of the preset, or the method's defaults."""
    checkpoint_every: int
    samples_every: int
    restart: bool
    micro_batch_size: int | None = None
    processes: Processes = ALONE
    image_size: int | None = None
    keep_classes: bool = False
    started: int = 0
    """Training step that the run started at: 0, or the step of a checkpoint."""
    parameters: int = 0
    """Number of trainable parameters."""

    def train(self, state: State) -> dict[str, Any]:
        """Trains, writes the adapter file, and returns a summary for the command's output. Raises ArchiveInvalid,
        BaseMissing, CheckpointInvalid, InvalidRequest, TrainingDiverged."""
        settings, request = get_settings(), self._request()
        if request.preset not in PRESETS:
            raise InvalidRequest("--preset", f"must be one of {', '.join(PRESETS)}")
        if (note := left_out_note(self.images)) is not None:
            state.note(note)
        with open_archive(self.images) as packed:
            limits = datasets.limits(settings)
            report = archive.validate(packed.file, limits)
            for rejected in report.rejected:
                state.note(f"Not used: {rejected.file}. {rejected.detail}")
            for warned in report.warnings:
                state.note(f"Warning: {warned.file}. {warned.detail}" if warned.file else f"Warning: {warned.detail}")
            base = load(settings, self.base, self.device or self._own_device(settings))
            plan = self._plan(request, report, base)
            members = [member.to_json() for member in report.members]
            pictures = archive.read_images(packed.file, members, limits)
            plan, checkpoint = self._resumed(plan, base)
            work = finetune(base, plan, pictures, checkpoint, self.processes)
            with steps_bar(state, "Training") as bar:
                outcome = self._follow(work, bar, plan.training.steps, len(members))
        return self._publish(outcome, plan, base)

    @property
    def checkpoint_path(self) -> Path:
        return self.output.with_suffix(".checkpoint")

    @property
    def writes(self) -> bool:
        """Whether this process writes files. If several processes train together, only the first writes, since all have
        the same result."""
        return self.processes.index == 0

    def _own_device(self, settings: Settings) -> str | None:
        """Returns the GPU of this process (`cuda:1`, for example) if several processes train together, else None."""
        several = self.processes.count > 1 and settings.device != "cpu" and torch.cuda.is_available()
        return f"cuda:{torch.cuda.current_device()}" if several else None

    def _request(self) -> FinetuneRequest:
        asked = ({"learning_rate": PRETRAINING_RATE} if self.asked.get("method") == "full" else {}) | self.asked
        own = {name: asked.pop(name) for name in ("method", "preset") if name in asked}
        training = replace(DEFAULT_TRAINING, **asked)
        training.check()
        return FinetuneRequest(dataset_id="", training=training, **own)

    def _plan(self, request: FinetuneRequest, report: Report, base: LoadedBase) -> FinetunePlan:
        try:
            sites = _sites(request, self.site)
            guidance = request.training.distill_guidance is not None
            names, config = report.class_names, base.description.config
            trainable_shapes(config, request.method, sites, len(names), guidance=guidance)
        except ValueError as error:
            raise InvalidRequest("--site", str(error)) from error
        try:
            scale = base.description.scale_of(self.image_size)
        except ValueError as error:
            raise InvalidRequest("--image-size", str(error)) from error
        unknown = sorted(set(report.class_names) - set(base.description.class_names))
        if self.keep_classes and unknown:
            raise InvalidRequest("--keep-classes", f"the base has no class {', '.join(unknown)}")
        return FinetunePlan(
            method=request.method,
            sites=sites,
            class_names=tuple(report.class_names),
            dataset_digest=report.digest,
            training=replace(request.training, micro_batch_size=self.micro_batch_size),
            image_size=None if scale == 1 else self.image_size,
            train_class_table=not self.keep_classes,
            checkpoint_every=self.checkpoint_every,
            samples_every=self.samples_every,
            preset=request.preset if sites == PRESETS[request.preset] else None,
        )

    def _resumed(self, plan: FinetunePlan, base: LoadedBase) -> tuple[FinetunePlan, Mapping[str, Tensor] | None]:
        """Returns the plan, and the trainer's state from the checkpoint of an interrupted run; None if there is no
        checkpoint, or with `restart`. A checkpoint of a release without evaluations continues without them, unless the
        command asks for them. Raises CheckpointInvalid."""
        if self.restart or not self.checkpoint_path.is_file():
            return plan, None
        data, plans = self.checkpoint_path.read_bytes(), [plan]
        if not self.asked.keys() & {"evaluate_every", "keep", "early_stopping"}:
            plans.append(replace(plan, training=replace(plan.training, evaluate_every=0, keep="last")))
        problems = []
        for candidate in plans:
            try:
                return candidate, unpack(data, candidate.about(base.description.digest), ABOUT_DEFAULTS)
            except CheckpointInvalid as error:
                problems.append(error.detail)
        raise CheckpointInvalid(f"{self.checkpoint_path}: {problems[0]} Use `--restart` to start from scratch.")

    def _follow(self, work: Generator[Any, None, Outcome], bar: Bar, steps: int, images: int) -> Outcome:
        task = bar.add_task("", total=steps, note="loading")
        held_out = ""
        self.output.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                event = next(work)
            except StopIteration as end:
                outcome: Outcome = end.value
                return outcome
            match event:
                case Encoding(done=done):
                    bar.update(task, note=f"{done} of {images} images encoded")
                case Started(step=step):
                    self.started, self.parameters = step, event.trainable_parameters
                    bar.update(task, completed=step, note="")
                case Progress():
                    bar.update(task, completed=event.step, note=f"loss {event.loss:.4f}{held_out}")
                case Evaluation():
                    held_out = f", held out {event.held_out_loss:.4f} (best: step {event.best_step:,})"
                case Checkpoint() if self.writes:
                    write_file(self.checkpoint_path, event.data)
                case Sample() if self.writes:
                    event.image.save(self.output.with_name(f"{self.output.stem}-{event.step:06}.png"))

    def _publish(self, outcome: Outcome, plan: FinetunePlan, base: LoadedBase) -> dict[str, Any]:
        data = outcome.encoded(plan.manifest(base.description))
        if self.writes:
            write_file(self.output, data)
            self.checkpoint_path.unlink(missing_ok=True)
        return {
            "adapter": str(self.output),
            "sha256": hashlib.sha256(data).hexdigest(),
            "size_bytes": len(data),
            "parameters": self.parameters,
            "classes": list(plan.class_names),
            "steps": plan.training.steps,
            "started_at_step": self.started,
            "adapter_step": outcome.adapter_step,
            "stop_reason": outcome.stop_reason,
            **{f"held_out_loss_{name}": loss for name, loss in outcome.losses.items()},
        }


def _sites(request: FinetuneRequest, words: list[str]) -> MethodSites:
    """Returns the places and sizes that the method trains: the preset's or the method's defaults, changed by the
    NAME=VALUE pairs in `words`. Raises ValueError."""
    kind = SITES[request.method]
    start = PRESETS[request.preset] if kind is Sites else kind()
    pairs = [word.partition("=") for word in words]
    return sites_of(request.method, start.to_json() | {name: _value(text) for name, _, text in pairs})


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
