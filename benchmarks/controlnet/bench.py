"""Fine-tunes one ControlNet adapter on the training drawings, and scores images that it generates for the edge maps of
held-out drawings.

Letters in shapes: K images, B batch rows, S side in pixels.
"""

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from rich.console import Console
from rich.progress import track
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.controlnet.adapter import ControlNetAdapter, Method
from benchmarks.controlnet.edges import edge_f_scores, edge_maps
from benchmarks.controlnet.loading import load_unet, start_controlnet
from core.artifact.sampling import SamplingSettings
from core.ml.diffusion.sampling import sample, seeded_noise
from core.ml.errors import TrainingDiverged
from core.ml.evaluation.drawings import Drawings, read_drawings
from core.ml.evaluation.yardsticks import Judges
from core.ml.model.autoencoder import Autoencoder, to_uint8
from core.ml.tuning.latents import Latents
from recipes.autoencoder import unit
from recipes.unet import Batch, Prompts, encoded, reduced_precision, unfold, with_variance

HINT_WIDTHS = (8, 16, 24, 32)
"""Channels of the hint block, which goes from the image's side to an eighth of it."""
DRAWN_AT_ONCE = 32
NO_HINT, BEST = "no hint", "the drawings, encoded and decoded"
"""Names of the references: the UNet alone, and the best that the autoencoder allows."""
LOGGED = 50
"""Last steps whose mean loss is stored."""


@dataclass(frozen=True)
class System:
    name: str
    method: Method
    learning_rate: float


@dataclass(frozen=True)
class Budget:
    steps: int
    batch_size: int
    pictures: int
    sampling: SamplingSettings


@dataclass(frozen=True)
class Model:
    """Frozen UNet with its class tokens and its autoencoder."""

    folder: Path
    unet: Any
    prompts: Prompts
    autoencoder: Autoencoder
    digest: str

    @classmethod
    def load(cls, folder: Path, autoencoder: Path) -> Self:
        """Loads what `recipes.unet` wrote. Raises CheckpointInvalid if it is something else."""
        unet = load_unet(folder)
        stored = load_file(folder / "prompts.safetensors")
        prompts = Prompts(len(stored["weight"]) - 1)
        prompts.load_state_dict(stored)
        weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        return cls(folder, unet, prompts.requires_grad_(False), Autoencoder.load(autoencoder), digest)

    def predict(self, network: nn.Module | None, x: Tensor, t: Tensor, y: Tensor, hints: Tensor) -> Tensor:
        """Returns the predicted noise, with the ControlNet's residuals if there is one. hints [B, 1, S, S]"""
        tokens, residuals = self.prompts(y), {}
        if network is not None:
            down, middle = network(x, t, tokens, hints, return_dict=False)
            residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        predicted: Tensor = self.unet(x, t, tokens, **residuals).sample
        return predicted

    def draw(
        self, network: nn.Module | None, labels: Tensor, hints: Tensor, sampling: SamplingSettings, what: str
    ) -> Tensor:
        """Generates one image for each label [K] and hint [K, 1, S, S], with seeds 0 to K - 1. Returns [K, 3, S, S]
        uint8."""
        places = torch.arange(len(labels)).split(DRAWN_AT_ONCE)
        bar = track(places, f"{what}: {len(labels)} images", console=Console(stderr=True))
        return torch.cat([self._batch(network, part, labels[part], hints[part], sampling) for part in bar])

    def _batch(
        self, network: nn.Module | None, seeds: Tensor, labels: Tensor, hints: Tensor, sampling: SamplingSettings
    ) -> Tensor:
        config = self.unet.config
        both = torch.cat([hints, hints]).float()  # for the class and for the null class

        def model(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            with reduced_precision(x.device):
                return with_variance(self.predict(network, x, t, y, both))

        folded = sample(
            model,
            seeded_noise(seeds.tolist(), (config.in_channels, config.sample_size, config.sample_size)),
            labels,
            self.prompts.null_class,
            sampling,
            channels=config.in_channels,
        )
        return to_uint8(self.autoencoder.decode(unfold(folded)))


@dataclass(frozen=True)
class Bench:
    """Setup that all systems share."""

    model: Model
    seen: Drawings
    latents: Latents
    """Latents of `seen`."""
    unseen: Drawings
    judges: Judges
    budget: Budget
    adapters: Path
    """Folder to which each adapter is written."""

    @classmethod
    def of(cls, model: Model, drawings: Path, budget: Budget, adapters: Path) -> Self:
        """Reads the drawings, and their latents from the folder of the UNet."""
        seen, unseen = read_drawings(drawings).split()
        adapters.mkdir(parents=True, exist_ok=True)
        latents = encoded(seen, model.autoencoder, model.folder / "latents.safetensors")
        return cls(model, seen, latents, unseen, Judges(), budget, adapters)

    @property
    def identity(self) -> dict[str, Any]:
        """Returns the digests and settings that identify the setup. Results with another identity are not
        comparable."""
        budget = vars(self.budget) | {"sampling": self.budget.sampling.to_json()}
        drawings = hashlib.sha256(self.seen.pixels.numpy().tobytes() + self.unseen.pixels.numpy().tobytes())
        return {"unet": self.model.digest, "drawings": drawings.hexdigest(), **self.judges.digests, "budget": budget}

    @property
    def wanted(self) -> Drawings:
        """Held-out drawings whose edges are the hints: evenly spaced, as many as the budget's images."""
        count = min(self.budget.pictures, len(self.unseen))
        return self.unseen.subset(((torch.arange(count) + 0.5) * len(self.unseen) / count).long())

    def path(self, system: System, seed: int) -> Path:
        return self.adapters / f"{system.method}-{seed}.safetensors"

    def run(self, system: System, seed: int) -> dict[str, Any]:
        """Trains one adapter and saves it. Returns its number of parameters, its scores, and the processor seconds and
        the memory of its training."""
        network = start_controlnet(self.model.unet, HINT_WIDTHS, seed)
        torch.manual_seed(seed)  # for LoRA's random matrices
        adapter = ControlNetAdapter(network, system.method)
        costs = self.train(adapter, system.learning_rate, seed)
        adapter.save(self.path(system, seed))
        count = sum(parameter.numel() for parameter in adapter.trainables.values())
        return {"trainable": count, "learning_rate": system.learning_rate, **costs, **self.scores(network, system.name)}

    def loaded(self, system: System, seed: int) -> nn.Module:
        """Returns the ControlNet with the saved adapter of a system."""
        network = start_controlnet(self.model.unet, HINT_WIDTHS, seed)
        return ControlNetAdapter.load(self.path(system, seed), network).network

    def train(self, adapter: ControlNetAdapter, learning_rate: float, seed: int) -> dict[str, float]:
        """Trains an adapter in place. All systems of a seed see the same images, timesteps and noise."""
        generator = torch.Generator().manual_seed(seed)
        edges = edge_maps(self.seen.pixels)
        parameters = list(adapter.trainables.values())
        optimizer = torch.optim.AdamW(parameters, learning_rate, weight_decay=0.0, foreach=True)
        losses, started, saved = [], time.process_time(), 0
        for step in track(range(self.budget.steps), adapter.method, console=Console(stderr=True)):
            batch = Batch.draw(self.latents, self.budget.batch_size, self.model.prompts.null_class, generator)
            if step == 0:
                saved = saved_bytes(lambda batch=batch: self._loss(adapter, batch, edges), adapter)  # type: ignore[misc]
                started = time.process_time()
            for group in optimizer.param_groups:  # falls to zero over the second half
                group["lr"] = learning_rate * min(1.0, 2 - 2 * step / self.budget.steps)
            loss = self._loss(adapter, batch, edges)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            losses.append(loss.item())
            if not loss.isfinite():
                raise TrainingDiverged(step + 1)
        seconds = time.process_time() - started
        last = losses[-LOGGED:]
        # Beside the activations, each trainable value has a gradient and two moments of AdamW.
        state = 3 * sum(parameter.numel() * parameter.element_size() for parameter in parameters)
        return {"loss": sum(last) / len(last), "seconds": seconds, "megabytes": (saved + state) / 1e6}

    def references(self) -> Iterable[dict[str, Any]]:
        """Yields the scores without a ControlNet, and those of the hints' own drawings through the autoencoder."""
        yield {"system": NO_HINT, "seed": 0, **self.scores(None, NO_HINT)}
        mean, _ = self.model.autoencoder.encode(unit(self.wanted.pixels))
        decoded = to_uint8(self.model.autoencoder.decode(mean))
        yield {"system": BEST, "seed": 0, **self._scores(decoded)}

    def scores(self, network: nn.Module | None, what: str) -> dict[str, float]:
        wanted = self.wanted
        hints = edge_maps(wanted.pixels)
        return self._scores(self.model.draw(network, wanted.labels, hints, self.budget.sampling, what))

    def _scores(self, pictures: Tensor) -> dict[str, float]:
        edges = edge_f_scores(edge_maps(pictures), edge_maps(self.wanted.pixels)).mean().item()
        distances = {each.name: each.distance(pictures, self.unseen.pixels) for each in self.judges.yardsticks}
        return {"edge F-score": edges, **distances}

    def _loss(self, adapter: ControlNetAdapter, batch: Batch, edges: Tensor) -> Tensor:
        hints = edges[batch.index]
        hints = torch.where(batch.mirrored.bool()[:, None, None, None], hints.flip(-1), hints).float()
        with reduced_precision(hints.device):
            return batch.loss(self.model.predict(adapter.network, batch.x_t, batch.t, batch.labels, hints))


def saved_bytes(loss: Callable[[], Tensor], adapter: ControlNetAdapter) -> int:
    """Returns the bytes of the tensors that a forward pass saves for its backward pass, without the weights."""
    weights = {parameter.data_ptr() for parameter in adapter.parameters.values()}
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = loss()  # holds the saved tensors, so that no storage is counted under a reused address
    del kept
    return sum(storages.values())
