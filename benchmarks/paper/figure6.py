"""Reruns Figure 6 of the DiffFit paper on the bundled base: the distance to a domain over training, for five
methods."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.bundled_base.pictures import Artist, alike
from benchmarks.paper import domains
from benchmarks.paper.curves import Figure, Line, Started, identity_of, options_of
from benchmarks.paper.domains import Domain
from benchmarks.paper.settings import judges_of, loaded_base, parsed, sampling_of
from benchmarks.paper.systems import TABLE_1, System
from core.artifact.sites import trainable_shapes
from core.artifact.training import TrainingSettings
from core.ml.evaluation.yardsticks import Judges
from core.ml.tuning.latents import concatenate, encode_images
from core.ml.tuning.methods import adapter_of
from core.ml.tuning.start import start_tensors
from core.ml.tuning.trainer import Trainer

METHODS = ("Full Fine-tuning", "Adapt-Parallel", "BitFit", "VPT-Deep", "DiffFit")
"""Methods that the paper's Figure 6 compares. The paper does not say which of its two kinds of AdaptFormer it shows;
the parallel one is taken here."""
FIGURE = Figure(
    name="figure6",
    title="Figure 6: distance to a domain over training",
    text=(
        "Fine-tunes of the bundled base with the rates of the paper's Table 1, stopped at some steps. "
        "The distance is the feature distance to drawings of the domain that no fine-tune has seen: no "
        "FID, and not to be compared with the paper's."
    ),
    scores=("feature distance",),
    panel=lambda point: str(point["domain"]),
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = options_of(FIGURE.name, __doc__)
    domains.add_options(parser)
    options = parsed(parser, arguments)
    base = loaded_base(options)
    artist = Artist.of_base(base, sampling_of(options))
    bench = Bench(artist, judges_of(options), options)
    loaded = domains.asked_for(options, base.description.image_size)
    systems = [system for system in TABLE_1 if system.name in METHODS]
    lines = [
        Line({"line": system.name, "domain": domain.name, "seed": seed}, partial(bench.start, system, domain, seed))
        for seed in range(options.seeds)
        for domain in loaded
        for system in systems
    ]
    FIGURE.run(lines, identity_of(base, bench.judges, options), options)


@dataclass(frozen=True)
class Bench:
    """Setup that all curves share."""

    artist: Artist
    judges: Judges
    options: argparse.Namespace

    def start(self, system: System, domain: Domain, seed: int) -> Started:
        trainer = self._trainer(system, domain, seed)
        labels = alike(domain.held_out.labels, self.options.pictures)

        def score(tensors: Mapping[str, Tensor]) -> Mapping[str, float]:
            adapter = adapter_of(system.sites, tensors)
            artist = replace(self.artist, adapter=adapter, null_class=trainer.null_class)
            pictures = artist.draw(labels, "drawing")
            return {each.name: each.distance(pictures, domain.held_out.pixels) for each in self.judges.yardsticks}

        return trainer, score

    def _trainer(self, system: System, domain: Domain, seed: int) -> Trainer:
        """Returns a trainer with the settings of Table 1. Classes that the base knows by name start from the base's
        embeddings."""
        base, names = self.artist.base, domain.class_names
        latents = encode_images(domain.seen, base.autoencoder.encode, base.description.image_size)
        shapes = trainable_shapes(base.dit.config, system.method, system.sites, len(names))
        labels = base.description.labels_of(names)
        start = start_tensors(base.dit, shapes, torch.Generator().manual_seed(seed), known=labels)
        settings = TrainingSettings(
            steps=max(self.options.at),
            batch_size=self.options.batch_size,
            learning_rate=system.learning_rate,
            gradient_clip=1.0,
            seed=seed,
        )
        return Trainer(base.dit, start, concatenate(list(latents)), settings, partial(adapter_of, system.sites))
