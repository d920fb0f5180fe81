"""Runs one cell of a comparison table: one system (a fine-tuning method with its settings) fine-tunes a base on one
domain, and the images that it then generates are scored."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.bundled_base.finetuning import fine_tuned
from benchmarks.bundled_base.pictures import Artist, alike, served, serving
from benchmarks.paper.domains import Domain
from benchmarks.paper.systems import System
from core.artifact.sampling import SamplingSettings
from core.artifact.sites import CLASS_TABLE, Sites
from core.artifact.training import TrainingSettings
from core.ml.evaluation.yardsticks import Judges
from core.ml.model.adapter import TensorAdapter
from core.ml.model.checkpoint import LoadedBase
from core.ml.tuning.methods import adapter_of
from core.ml.tuning.plan import Event, Outcome, Progress, Started

PAPER_DEPTH = 28


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Training steps, generated images and sampling settings of a cell, the same for all cells."""

    steps: int
    batch_size: int
    pictures: int
    sampling: SamplingSettings

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"sampling": self.sampling.to_json()}


@dataclass(frozen=True)
class Bench:
    """Setup that all cells share: base, scoring networks and budget."""

    base: LoadedBase
    judges: Judges
    budget: Budget
    micro_batch_size: int | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """Returns the digests and settings that identify the setup. Cells with different identities are not
        comparable."""
        return {"base": self.base.description.digest, **self.judges.digests, "budget": self.budget.to_json()}

    def run(self, system: System, domain: Domain, seed: int) -> Iterator[dict[str, Any]]:
        """Runs one cell. Yields its row: the distances of generated images to the domain's held-out images, the number
        of trainable parameters, the held-out loss, and the seconds of the training steps: processor time on a CPU,
        since on a busy machine it describes a method better than clock time. Then yields the row with recommended
        guidance, if the system has one."""
        fits = fitted(system, self.base.dit.config.depth)
        outcome, seconds = self._train(fits, domain, seed)
        tensors = {name: tensor.to(self.base.dit.positions.device) for name, tensor in outcome.tensors.items()}
        labels = alike(domain.held_out.labels, self.budget.pictures)
        artist = Artist(self.base, self.budget.sampling, adapter_of(fits.sites, tensors), len(domain.class_names))
        row = {
            "domain": domain.name,
            "seed": seed,
            "system": system.name,
            "trainable": sum(tensor.numel() for tensor in tensors.values()),
            "seconds": seconds,
            "held_out_loss": outcome.losses["adapter"],
        }
        yield row | self.scores(artist.draw(labels, "drawing"), domain)
        if system.recommended is not None:
            own = {name: getattr(self.budget.sampling, name) for name in ("sampler", "steps", "timestep_spacing")}
            sampling = SamplingSettings.completed(own)
            if system.method == "full":
                pictures = guide_by_weaker(artist, tensors, sampling).draw(labels, "recommended guidance")
            else:
                with serving(self.base) as resident:
                    pictures, _ = served(resident, labels, sampling, ("adapter", lambda: tensors))
            yield row | {"system": system.recommended} | self.scores(pictures, domain)

    def scores(self, pictures: Tensor, domain: Domain) -> dict[str, float]:
        return {each.name: each.distance(pictures, domain.held_out.pixels) for each in self.judges.yardsticks}

    def _train(self, system: System, domain: Domain, seed: int) -> tuple[Outcome, float]:
        training = TrainingSettings(
            steps=self.budget.steps,
            batch_size=self.budget.batch_size,
            learning_rate=system.learning_rate,
            gradient_clip=1.0,
            micro_batch_size=self.micro_batch_size,
            seed=seed,
        )
        now = time.process_time if self.base.dit.positions.is_cpu else time.perf_counter
        started = ended = 0.0

        def clock(event: Event | None) -> None:
            nonlocal started, ended
            if isinstance(event, Started):
                started = now()
            elif isinstance(event, Progress):
                ended = now()

        outcome = fine_tuned(
            self.base, domain.class_names, domain.seen, system.method, system.sites, training=training, on_event=clock
        )
        return outcome, ended - started


def guide_by_weaker(artist: Artist, tensors: Mapping[str, Tensor], sampling: SamplingSettings) -> Artist:
    """Returns an artist that guides a fine-tune without factors (`tensors`) against a weaker version of it, as the
    engine guides folded adapters. The weaker version is interpolated between the base and the fine-tune; of its class
    table only the last row, the null class, is used."""

    def between(base: Tensor, own: Tensor) -> Tensor:
        return torch.lerp(base.float(), own.float(), sampling.guidance_adapter_scale)

    base = artist.base.dit.state_dict()
    weaker = {name: between(base[name], own) for name, own in tensors.items() if name != CLASS_TABLE}
    table = tensors[CLASS_TABLE]
    weaker[CLASS_TABLE] = torch.cat([table[:-1].float(), between(base[CLASS_TABLE][-1:], table[-1:])])
    return replace(artist, sampling=sampling, weaker=TensorAdapter(weaker))


def fitted(system: System, depth: int) -> System:
    """Returns the system with its block numbers rescaled from 28 blocks to `depth`, at the same fraction of the blocks:
    a last block of 14 becomes 4 when `depth` is 8."""
    sites = system.sites
    if not isinstance(sites, Sites) or sites.last_block is None:
        return system
    first = round((sites.first_block - 1) * depth / PAPER_DEPTH) + 1
    last = max(first, round(sites.last_block * depth / PAPER_DEPTH))
    return replace(system, sites=replace(sites, first_block=first, last_block=last))
