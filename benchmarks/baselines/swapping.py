"""Serves many domains with diffusers' own pipeline, which swaps weights for each request, as on one GPU without an
engine.

It is made as fast as possible: every domain's tensors are on the device with all factors folded in, only tensors that
differ from the base's are written, each once, and the images of a request share a batch.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from diffusers import DiTPipeline
from torch import Tensor

from benchmarks.baselines.diffusers_model import autoencoder, ddim, pixels, transformer
from core.artifact.sites import CLASS_TABLE
from core.ml.model.autoencoder import Autoencoder
from core.ml.model.diffusers_format import to_diffusers
from core.ml.model.dit import DiT
from core.ml.model.export import fold_into_weights


class SwappingPipeline(DiTPipeline):
    """Pipeline that serves requests one after the other. `domains` holds, for each domain, the tensors to write into
    the transformer before a request."""

    transformer: Any
    set_progress_bar_config: Any
    domains: dict[str, dict[str, Tensor]]

    @classmethod
    def of(cls, dit: DiT, coder: Autoencoder, adapters: Mapping[str, Mapping[str, Tensor]]) -> "SwappingPipeline":
        """Builds the pipeline. `adapters` maps each domain's name to its adapter's tensors; all domains have the same
        number of classes."""
        weights = {name: fold_into_weights(dit, _on(tensors, dit)) for name, tensors in adapters.items()}
        first = next(iter(weights.values()))
        config = replace(dit.config, num_classes=len(first[CLASS_TABLE]) - 1)
        network = transformer(dit, config, first)
        network.register_forward_pre_hook(_with_own_null_label, with_kwargs=True)
        pipeline = cls(network, autoencoder(coder, dit.positions.dtype), ddim())
        pipeline.set_progress_bar_config(disable=True)
        base = dict(dit.named_parameters())
        pipeline.domains = {
            name: _changed(
                to_diffusers({key: state[key] for key in state if _differs(state, base, key)}, config), network
            )
            for name, state in weights.items()
        }
        return pipeline

    @torch.inference_mode()
    def draw(self, domain: str, classes: list[int], seeds: list[int], *, steps: int, guidance_scale: float) -> Tensor:
        """Generates the images of one request. Returns 8-bit images [B, S, S, 3]."""
        parameters = dict(self.transformer.named_parameters())
        for name, tensor in self.domains[domain].items():
            parameters[name].copy_(tensor, non_blocking=True)
        call: Any = self
        images = call(
            class_labels=classes,
            guidance_scale=guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            num_inference_steps=steps,
            output_type="pt",
        ).images
        return pixels(images)


def _with_own_null_label(network: Any, args: tuple[Any, ...], values: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Replaces `DiTPipeline`'s null label 1000 by this transformer's null label. Class ids are below both, so they do
    not change."""
    values["class_labels"] = values["class_labels"].clamp(max=network.config.num_embeds_ada_norm)
    return args, values


def _differs(state: Mapping[str, Tensor], base: Mapping[str, Tensor], name: str) -> bool:
    return state[name].shape != base[name].shape or not torch.equal(state[name], base[name].to(state[name]))


def _changed(state: Mapping[str, Tensor], network: Any) -> dict[str, Tensor]:
    """Returns the tensors of `state` on the network's device and in its dtype, without duplicates of the shared
    embedder."""
    return {name: state[name].to(parameter) for name, parameter in network.named_parameters() if name in state}


def _on(tensors: Mapping[str, Tensor], dit: DiT) -> dict[str, Tensor]:
    return {name: tensor.to(dit.positions.device) for name, tensor in tensors.items()}
