"""Trains the mini base's autoencoder, 64x64 RGB <-> 16x16x8 latents: `python -m recipes.autoencoder`.

Resumes from `<output>/training.pt` if that file exists. Writes an AutoencoderKL in diffusers' format to `<output>`,
with `figures.json` and `reconstructions.png` (each row of drawings above a row of their reconstructions).
"""

import argparse
import copy
import json
import math
import random
import time
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from PIL import Image
from torch import Tensor
from torch.nn import functional

from core.ml.model.autoencoder import to_uint8
from core.ml.tuning.capture import Replayed, capture_for
from recipes.augmentation import Augmentation, augment

HELD_OUT_EVERY = 50  # one emoji in fifty is held out from training, in all sets
IMAGE_SIZE = 64
LATENT_CHANNELS = 8
CHANNELS = (24, 32, 64)
"""Channels at each resolution, from the image's to the latents'."""
LATENT_NOISE = 0.1  # standard deviation, relative to that of the latents
KL_WEIGHT = 1e-6
SQUARED_WEIGHT = 2.0
EDGE_WEIGHT = 1.0
AVERAGE_DECAY = 0.995
SCALES = (1.0, 1.0, 0.75, 0.5)  # each batch's latents and images are resized by one of these
CHECKPOINT_SECONDS = 60.0
PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--drawings", type=Path, default=Path("build/drawings"))
    parser.add_argument("--openmoji", type=Path, default=Path("build/openmoji"))
    parser.add_argument("--output", type=Path, default=Path("build/vae"))
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16", help="of convolutions while training")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    arguments.output.mkdir(parents=True, exist_ok=True)
    seen, unseen = read_drawings(arguments.drawings)
    openmoji = torch.cat(read_drawings(arguments.openmoji))
    checkpoint = arguments.output / "training.pt"
    device, precision = torch.device(arguments.device), PRECISIONS[arguments.precision]
    training = train(
        seen, checkpoint, arguments.steps, arguments.batch_size, arguments.learning_rate, device, precision
    )
    model = training.averaged.eval()
    torch.nn.Module.to(model, "cpu")
    scale_latents(model, seen)
    model.save_pretrained(arguments.output)
    figures = measure(model, unseen, openmoji) | {"steps": training.step, "seconds": round(training.seconds)}
    (arguments.output / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
    shown = torch.cat([sample(unseen), sample(openmoji)])
    save_reconstructions(model, shown, arguments.output / "reconstructions.png")


def new_autoencoder() -> AutoencoderKL:
    model: AutoencoderKL = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(CHANNELS),
        up_block_types=("UpDecoderBlock2D",) * len(CHANNELS),
        block_out_channels=CHANNELS,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=1,  # one group: groups of three channels would wash out colours
        sample_size=IMAGE_SIZE,
        mid_block_add_attention=False,
    )
    # The posterior starts narrow: at unit variance the decoder would first learn to ignore some latent channels.
    torch.nn.init.constant_(model.get_parameter("quant_conv.bias")[LATENT_CHANNELS:], -4.0)
    return model


def read_drawings(folder: Path) -> tuple[Tensor, Tensor]:
    """Returns the training images and the held-out images of a folder, sorted by path, each as (count, 3, 64, 64)
    uint8.

    Raises FileNotFoundError if the folder has no PNGs.
    """
    paths = sorted(folder.glob("*/*.png"))
    if not paths:
        raise FileNotFoundError(f"no drawings in {folder}: run recipes.drawings first")
    return read_pictures([path for path in paths if not is_held_out(path)]), read_pictures(
        [path for path in paths if is_held_out(path)]
    )


def is_held_out(path: Path) -> bool:
    emoji = path.stem.rpartition("--")[2]
    return zlib.crc32(emoji.encode()) % HELD_OUT_EVERY == 0


def read_pictures(paths: list[Path]) -> Tensor:
    pictures = np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()


class Training:
    """Training state: model, moving average and optimizer, with the number of steps and seconds over all runs. On a
    GPU, a step is one CUDA graph over fixed buffers."""

    def __init__(self, learning_rate: float, batch_size: int, device: torch.device, precision: torch.dtype) -> None:
        with device:
            self.model = new_autoencoder().train()
            self.pictures = torch.empty(batch_size, 3, IMAGE_SIZE, IMAGE_SIZE)
            side = IMAGE_SIZE // 2 ** (len(CHANNELS) - 1)
            self.noise = torch.empty(2, batch_size, LATENT_CHANNELS, side, side)
            self.rate, self.decay = torch.tensor(learning_rate), torch.tensor(0.0)
        self.pictures = self.pictures.contiguous(memory_format=torch.channels_last)
        for parameter in self.model.parameters():
            if parameter.ndim == 4:  # with this layout, convolutions are faster on a CPU
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(self.model)
        on_gpu = device.type == "cuda"
        self.optimizer = torch.optim.AdamW(self.model.parameters(), self.rate, (0.9, 0.99), capturable=on_gpu)
        self.optimizer.param_groups[0]["lr"] = self.rate
        self.step, self.seconds = 0, 0.0
        self._precision = precision
        self._steps = {scale: Replayed(partial(self._step, scale), capture_for(device)) for scale in set(SCALES)}

    def save(self, path: Path) -> None:
        """Replaces the checkpoint atomically, so that an interrupted run leaves the previous checkpoint complete."""
        parts = {name: getattr(self, name).state_dict() for name in ("model", "averaged", "optimizer")}
        torch.save({**parts, "step": self.step, "seconds": self.seconds}, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path, map_location=self.rate.device, weights_only=True)
        for name in ("model", "averaged", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.optimizer.param_groups[0]["lr"] = self.rate
        self.step, self.seconds = state["step"], state["seconds"]

    def learn(self, pictures: Tensor, learning_rate: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Makes one training step on images (batch, 3, 64, 64) in [-1, 1]. Returns the loss, and the mean squared error
        of the pixels; both are valid until the next step."""
        scale = random.Random(self.step).choice(SCALES)
        self.step += 1
        self.pictures.copy_(pictures)
        torch.randn(self.noise.shape, generator=generator, out=self.noise)
        self.rate.fill_(learning_rate)
        self.decay.fill_(min(AVERAGE_DECAY, self.step / (self.step + 10)))
        return self._steps[scale]()

    def _step(self, scale: float) -> tuple[Tensor, Tensor]:
        parameters = list(self.model.parameters())
        with torch.autocast(self.rate.device.type, self._precision, enabled=self._precision != torch.float32):
            loss, error = reconstruction_loss(self.model, self.pictures, self.noise, scale)
        # A graph needs gradients of its own: `backward` would add to those of an earlier step.
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        self.optimizer.step()
        follow(self.averaged, self.model, self.decay)
        return loss.detach(), error


def train(
    drawings: Tensor,
    checkpoint: Path,
    steps: int,
    batch_size: int,
    learning_rate: float,
    device: torch.device,
    precision: torch.dtype,
) -> Training:
    """Trains until step `steps`, from the checkpoint if it exists, otherwise from scratch."""
    torch.manual_seed(0)
    training = Training(learning_rate, batch_size, device, precision)
    if checkpoint.exists():
        training.load(checkpoint)
    generator = torch.Generator(device).manual_seed(training.step)
    drawings = drawings.to(device)
    last = saved = time.monotonic()
    while training.step < steps:
        chosen = torch.randint(len(drawings), (batch_size,), generator=generator, device=device)
        rate = learning_rate * warm_cosine(training.step, steps)
        loss, error = training.learn(augment(drawings[chosen], generator, Augmentation()), rate, generator)
        now = time.monotonic()
        training.seconds += now - last
        last = now
        if training.step % 50 == 0:
            progress = f"step {training.step:5} loss {loss.item():.4f} psnr {psnr(error):.2f} dB"
            print(f"{progress} {training.seconds:.0f} s", flush=True)
        if now - saved > CHECKPOINT_SECONDS or training.step == steps:
            training.save(checkpoint)
            saved = now
    return training


def warm_cosine(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / 100) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def reconstruction_loss(model: AutoencoderKL, pictures: Tensor, normal: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Returns the loss, and the mean squared error of the pixels in [-1, 1] units.

    The loss is the sum of absolute and squared errors of the pixels, absolute errors of their differences to right and
    lower neighbours, which keep edges sharp, and the KL divergence of the posterior from the unit normal. Latents get a
    little noise, so that the decoder tolerates the transformer's errors. Downscaled latents must decode to the
    downscaled image: such latents are smoother, and a transformer learns them faster (EQ-VAE, arXiv 2502.09509).
    `normal` (2, batch, channels, 16, 16) is unit noise, `scale` the factor of the downscaling.
    """
    posterior = model.encode(pictures).latent_dist
    latents = posterior.mean + posterior.std * normal[0]
    noise = normal[1] * LATENT_NOISE * posterior.mean.detach().std()
    if scale != 1:
        latents, pictures, noise = (resized(part, scale) for part in (latents, pictures, noise))
    difference = model.decode(latents + noise).sample - pictures
    edges = difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
    squared = difference.square().mean()
    pixels = difference.abs().mean() + SQUARED_WEIGHT * squared
    return pixels + EDGE_WEIGHT * edges + KL_WEIGHT * posterior.kl().mean(), squared.detach()


def resized(batch: Tensor, scale: float) -> Tensor:
    smaller: Tensor = functional.interpolate(batch, scale_factor=scale, mode="bilinear", antialias=True)
    return smaller


@torch.no_grad()
def follow(averaged: AutoencoderKL, model: AutoencoderKL, decay: Tensor) -> None:
    for slow, fast in zip(averaged.parameters(), model.parameters(), strict=True):
        slow.lerp_(fast, 1 - decay)


def psnr(error: Tensor) -> float:
    """Returns the peak signal-to-noise ratio in dB for a mean squared error in [-1, 1] units."""
    return 10 * math.log10(4 / max(error.item(), 1e-12))


@torch.no_grad()
def scale_latents(model: AutoencoderKL, pictures: Tensor) -> None:
    """Stores in the model's config the `scaling_factor` that brings the latents of the images to a standard deviation
    of one."""
    latents = torch.cat([model.encode(unit(batch)).latent_dist.mean for batch in pictures.split(64)])
    model.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))


@torch.no_grad()
def measure(model: AutoencoderKL, unseen: Tensor, openmoji: Tensor) -> dict[str, Any]:
    posterior = model.encode(unit(unseen)).latent_dist
    factor = model.config["scaling_factor"]
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "scaling_factor": factor,
        "scaled_latent_mean": (posterior.mean.mean((0, 2, 3)) * factor).tolist(),
        "scaled_latent_std": (posterior.mean.std((0, 2, 3)) * factor).tolist(),
        "scaled_posterior_std": (posterior.std.mean((0, 2, 3)) * factor).tolist(),
        "psnr_held_out": mean_psnr(model, unseen),
        "psnr_held_out_noisy_latents": mean_psnr(model, unseen, LATENT_NOISE / factor),
        "psnr_openmoji": mean_psnr(model, openmoji),
    }


def sample(pictures: Tensor, count: int = 32) -> Tensor:
    return pictures[:: max(1, len(pictures) // count)][:count]


def unit(pictures: Tensor) -> Tensor:
    return pictures.float() / 127.5 - 1


@torch.no_grad()
def reconstruct(model: AutoencoderKL, pictures: Tensor, noise: float = 0.0) -> Tensor:
    latents = model.encode(unit(pictures)).latent_dist.mean
    decoded: Tensor = model.decode(latents + noise * torch.randn_like(latents)).sample
    return decoded.clamp(-1, 1)


def mean_psnr(model: AutoencoderKL, pictures: Tensor, noise: float = 0.0) -> float:
    """Returns the mean of the PSNRs of the images, in dB."""
    errors = torch.cat(
        [(reconstruct(model, batch, noise) - unit(batch)).square().mean((1, 2, 3)) for batch in pictures.split(64)]
    )
    return round(sum(psnr(error) for error in errors) / len(errors), 2)


def save_reconstructions(model: AutoencoderKL, pictures: Tensor, path: Path, columns: int = 16) -> None:
    rows = []
    for batch in pictures.split(columns):
        decoded = to_uint8(reconstruct(model, batch))
        rows += [torch.cat(list(batch), dim=2), torch.cat(list(decoded), dim=2)]
    width = max(row.shape[2] for row in rows)
    rows = [functional.pad(row, (0, width - row.shape[2]), value=255) for row in rows]
    Image.fromarray(torch.cat(rows, dim=1).permute(1, 2, 0).numpy()).save(path, optimize=True)


if __name__ == "__main__":
    main()
