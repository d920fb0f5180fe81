"""Baselines generate the right images, so that a comparison with them is meaningful."""

import pytest
import torch

from benchmarks.baselines.diffusers_model import pixels
from benchmarks.baselines.swapping import SwappingPipeline
from core.artifact.sampling import SamplingSettings
from core.ml.diffusion.sampling import sample, seeded_noise
from core.ml.model.adapter import TensorAdapter
from tests.benchmarks.small import DIFFUSERS, subject

STEPS, SCALE = 4, 3.0


def test_swapping_pipeline_generates_images_of_each_domain() -> None:
    small = subject()
    domains = {name: small.adapter(seed) for seed, name in enumerate("ab")}
    pipeline = SwappingPipeline.of(small.dit, small.autoencoder, domains)
    for name in "aba":
        images = pipeline.draw(name, [1, 6], [10, 11], steps=STEPS, guidance_scale=SCALE)
        latents = sample(
            lambda x, t, y: small.dit(x, t, y, TensorAdapter(domains[name])),  # noqa: B023
            seeded_noise([10, 11], (DIFFUSERS.in_channels, DIFFUSERS.input_size, DIFFUSERS.input_size)),
            torch.tensor([1, 6]),
            DIFFUSERS.num_classes,
            SamplingSettings(steps=STEPS, guidance_scale=SCALE),
            channels=4,
        )
        expected = pixels((small.autoencoder.decode(latents) / 2 + 0.5).clamp(0, 1))
        assert (images.int() - expected.int()).abs().max() <= 1
    assert len(expected.unique()) > 10


def test_peft_batch_gives_each_image_its_own_adapter() -> None:
    pytest.importorskip("peft")
    from benchmarks.baselines.peft_batch import PeftBatch

    batch = PeftBatch(subject().dit, subject().autoencoder, ["one", "two"])
    mixed = batch.draw(["one", "two", "one"], [0, 1, 2], [5, 6, 7], steps=STEPS, guidance_scale=SCALE)
    alone = [
        batch.draw([domain], [id], [seed], steps=STEPS, guidance_scale=SCALE)[0]
        for domain, id, seed in [("one", 0, 5), ("two", 1, 6), ("one", 2, 7)]
    ]
    assert (mixed.int() - torch.stack(alone).int()).abs().max() <= 1
    other = batch.draw(["two"], [0], [5], steps=STEPS, guidance_scale=SCALE)[0]
    assert (other.int() - alone[0].int()).abs().max() > 1
