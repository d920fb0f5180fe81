"""Trains the small UNet on which the benchmarks run ControlNet: `python -m recipes.unet`.

The UNet has the form of Stable Diffusion's, and denoises the latents of the bundled autoencoder. Latents are folded 2x2
into channels, as DiT's patches are: 8 channels of 16x16 become 32 of 8x8, an eighth of the image's side, as in Stable
Diffusion. Instead of a text it reads a few learned tokens per class. Run it again after an interruption: it continues
from its last checkpoint. The learning rate is constant until the last `--decay-steps`.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from core.artifact.sampling import SamplingSettings
from core.ml.diffusion.sampling import Model, sample, seeded_noise
from core.ml.diffusion.schedule import SCHEDULE
from core.ml.evaluation.drawings import Drawings, read_drawings
from core.ml.model.autoencoder import Autoencoder
from core.ml.tuning.checkpoint import pack, unpack, write_file
from core.ml.tuning.latents import Latents, concatenate, encode_batch, image_grid, to_image
from recipes.autoencoder import CHECKPOINT_SECONDS, unit

PATCH = 2
"""Side of the squares of latent positions that are folded into channels."""
TOKENS, TOKEN_WIDTH = 4, 64
"""Number and width of the learned tokens of each class."""
LABEL_DROPOUT = 0.1
MINIMUM_SNR_GAMMA = 5.0
ENCODED_AT_ONCE = 32


class Prompts(nn.Embedding):
    """Learned tokens of each class, which take the place of a text's features. The last row means no class."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes + 1, TOKENS * TOKEN_WIDTH)

    @property
    def null_class(self) -> int:
        return self.num_embeddings - 1

    def forward(self, labels: Tensor) -> Tensor:
        """Returns the tokens [B, TOKENS, TOKEN_WIDTH] of class labels [B]."""
        return super().forward(labels).view(-1, TOKENS, TOKEN_WIDTH)


@dataclass(frozen=True)
class Batch:
    """Noisy images of a training step."""

    index: Tensor
    """[B] places of the images in the latents"""
    mirrored: Tensor
    """[B] 1 for the mirror image, else 0"""
    labels: Tensor
    """[B] class labels, some of them replaced by the null class"""
    noise: Tensor
    """[B, C, H, W], as all latents here folded"""
    t: Tensor
    x_t: Tensor

    @classmethod
    def draw(cls, latents: Latents, size: int, null_class: int, generator: torch.Generator) -> "Batch":
        index = torch.randint(len(latents), (size,), generator=generator)
        mirrored = torch.randint(2, (size,), generator=generator)
        mean, deviation = latents.mean[mirrored, index], latents.deviation[mirrored, index]
        x0 = fold(mean + deviation * torch.randn(mean.shape, generator=generator))
        noise = torch.randn(x0.shape, generator=generator)
        t = torch.randint(len(SCHEDULE.betas), (size,), generator=generator)
        dropped = torch.rand(size, generator=generator) < LABEL_DROPOUT
        labels = latents.labels[index].masked_fill(dropped, null_class)
        return cls(index, mirrored, labels, noise, t, SCHEDULE.add_noise(x0, noise, t))

    def loss(self, predicted: Tensor) -> Tensor:
        """Returns the mean squared error of the predicted noise, with less weight where little noise was added."""
        weight = (MINIMUM_SNR_GAMMA / SCHEDULE.signal_to_noise[self.t]).clamp(max=1)
        error = (predicted.float() - self.noise.to(predicted.device)).square().flatten(1).mean(1)
        return (weight.to(error) * error).mean()


class Training:
    """UNet and class tokens in training, with the moving average of their parameters."""

    def __init__(self, network: nn.ModuleDict, options: argparse.Namespace) -> None:
        self.network, self.options, self.steps_done = network, options, 0
        self.parameters = dict(network.named_parameters())
        self.average = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self.optimizer = torch.optim.AdamW(self.parameters.values(), weight_decay=0.0, foreach=True)

    def step(self, latents: Latents) -> float:
        """Makes a step. Its random numbers depend only on the seed and the step, so that a resumed run is the same."""
        options = self.options
        generator = torch.Generator().manual_seed(options.seed * 1_000_003 + self.steps_done)
        prompts: Any = self.network["prompts"]
        batch = Batch.draw(latents, options.batch_size, prompts.null_class, generator)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate()
        x, t, y = (tensor.to(options.device) for tensor in (batch.x_t, batch.t, batch.labels))
        with reduced_precision(x.device):
            predicted = self.network["unet"](x, t, prompts(y)).sample
        loss = batch.loss(predicted)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        self.optimizer.step()
        self.steps_done += 1
        self._update_average()
        return loss.item()

    def state(self) -> dict[str, Tensor]:
        state = {"steps_done": torch.tensor(self.steps_done)}
        for name, parameter in self.parameters.items():
            moments = self.optimizer.state[parameter]
            state |= {f"parameter.{name}": parameter.detach(), f"average.{name}": self.average[name]}
            state |= {f"{key}.{name}": moments[key] for key in ("exp_avg", "exp_avg_sq")}
        return state

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        self.steps_done = int(state["steps_done"])
        for name, parameter in self.parameters.items():
            parameter.copy_(state[f"parameter.{name}"])
            self.average[name].copy_(state[f"average.{name}"])
            moments = {key: state[f"{key}.{name}"].to(parameter) for key in ("exp_avg", "exp_avg_sq")}
            self.optimizer.state[parameter] = {"step": torch.tensor(float(self.steps_done)), **moments}

    @torch.no_grad()
    def use_average(self) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(self.average[name])

    def _learning_rate(self) -> float:
        options, step = self.options, self.steps_done
        decay = (options.steps - step) / max(options.decay_steps, 1)
        return float(options.learning_rate * min(1.0, (step + 1) / options.warmup_steps, decay))

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.options.moving_average, (1 + self.steps_done) / (10 + self.steps_done))
        torch._foreach_lerp_(list(self.average.values()), list(self.parameters.values()), 1 - decay)


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    autoencoder = Autoencoder.load(options.autoencoder, device=torch.device(options.device))
    seen, _ = read_drawings(options.drawings).split()
    latents = encoded(seen, autoencoder, options.output / "latents.safetensors")
    torch.manual_seed(options.seed)
    network = nn.ModuleDict({
        "unet": small_unet(autoencoder.latent_channels * PATCH**2, latents.mean.shape[-1] // PATCH, options.widths),
        "prompts": Prompts(len(seen.class_names)),
    }).to(options.device)  # fmt: skip
    training = Training(network, options)
    count = sum(parameter.numel() for parameter in training.parameters.values())
    print(f"{count:,} parameters, {len(latents)} drawings, {len(seen.class_names)} classes")
    _train(training, latents, {"classes": seen.class_names, "widths": options.widths})
    training.use_average()
    unet: Any = network["unet"]
    unet.save_pretrained(options.output / "unet")
    save_file(network["prompts"].state_dict(), options.output / "prompts.safetensors")
    _samples(network, autoencoder).save(options.output / "samples.png")
    print(f"{options.output}: step {training.steps_done}")


def small_unet(channels: int, side: int, widths: Sequence[int]) -> Any:
    """Returns a UNet of Stable Diffusion's blocks with random weights, for folded latents [channels, side, side]."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=tuple(widths),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=TOKEN_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


@contextmanager
def reduced_precision(device: torch.device) -> Iterator[None]:
    """Computes in bf16. Attention is computed as plain matrix products, since the backward pass of PyTorch's CPU kernel
    is much slower in bf16."""
    with torch.autocast(device.type, torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        yield


def fold(latents: Tensor) -> Tensor:
    return F.pixel_unshuffle(latents, PATCH)


def unfold(folded: Tensor) -> Tensor:
    return F.pixel_shuffle(folded, PATCH)


def encoded(drawings: Drawings, autoencoder: Autoencoder, cache: Path) -> Latents:
    """Returns the latents of drawings, which are encoded only if the file `cache` does not exist. Raises SystemExit if
    it holds latents of other drawings."""
    if not cache.exists():
        places = torch.arange(len(drawings)).split(ENCODED_AT_ONCE)
        parts = [
            encode_batch((drawings.labels[part], unit(drawings.pixels[part])), autoencoder.encode)
            for part in tqdm(places, desc="encoding", mininterval=30)
        ]
        save_file(vars(concatenate(parts)), cache)
    latents = Latents(**load_file(cache))
    if not torch.equal(latents.labels, drawings.labels):
        raise SystemExit(f"{cache} holds latents of other drawings. Delete it to encode them again.")
    return latents


def with_variance(predicted: Tensor) -> Tensor:
    """Adds the channels in which DiT predicts the variance, as zeros: samplers expect them."""
    return torch.cat([predicted, torch.zeros_like(predicted)], 1)


def _train(training: Training, latents: Latents, description: dict[str, Any]) -> None:
    options = training.options
    checkpoint = options.output / "checkpoint.safetensors"
    if checkpoint.exists():
        training.restore(unpack(checkpoint.read_bytes(), description))
    saved, losses = time.monotonic(), list[float]()
    bar = tqdm(total=options.steps, initial=training.steps_done, desc="training", mininterval=30)
    while training.steps_done < options.steps:
        losses.append(training.step(latents))
        bar.update()
        if time.monotonic() - saved > CHECKPOINT_SECONDS or training.steps_done == options.steps:
            write_file(checkpoint, pack(training.state(), description))
            tqdm.write(f"step {training.steps_done}: loss {sum(losses) / len(losses):.4f}")
            saved = time.monotonic()
            losses.clear()


def _samples(network: nn.ModuleDict, autoencoder: Autoencoder) -> Any:
    """Returns a grid with a generated image of each class."""
    unet, prompts = network["unet"], network["prompts"]
    assert isinstance(prompts, Prompts)
    model: Model = lambda x, t, y: with_variance(unet(x, t, prompts(y)).sample)  # noqa: E731
    labels = torch.arange(prompts.null_class)
    side: Any = unet.config
    noise = seeded_noise(range(len(labels)), (side.in_channels, side.sample_size, side.sample_size))
    device = prompts.weight.device
    folded = sample(
        model,
        noise.to(device),
        labels.to(device),
        prompts.null_class,
        SamplingSettings(steps=20, sampler="dpmpp_2m"),
        channels=side.in_channels,
    )
    return image_grid([to_image(pixels) for pixels in autoencoder.decode(unfold(folded))], columns=8)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--drawings", type=Path, default=Path("build/drawings"))
    parser.add_argument("--autoencoder", type=Path, default=Path("core/ml/bundled/mini/vae"))
    parser.add_argument("--output", type=Path, default=Path("build/unet"))
    parser.add_argument("--widths", type=int, nargs=2, default=[64, 128], help="channels at both resolutions")
    parser.add_argument("--steps", type=int, default=3_000)
    parser.add_argument("--decay-steps", type=int, default=1_000, help="last steps over which the rate falls to zero")
    parser.add_argument("--warmup-steps", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--moving-average", type=float, default=0.998, help="decay of the averaged weights")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
