"""Tiny model that replaces the mini base in the benchmarks' measurements."""

from dataclasses import replace
from functools import cache

import torch

from benchmarks.serving.subjects import CLASSES, Subject, random_autoencoder
from tests.core.ml.model.small import CONFIG, random_dit

DIFFUSERS = replace(CONFIG, num_classes=CLASSES, timestep_convention="diffusers", guidance_channels=4)
"""Config with which the model computes the same forward as diffusers."""


@cache
def subject() -> Subject:
    coder = random_autoencoder((8, 8), torch.device("cpu"))
    return Subject("mini", "small, CPU", random_dit(DIFFUSERS), coder, steps=2)
