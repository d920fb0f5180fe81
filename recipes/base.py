"""Trains the bundled base from scratch: `python -m recipes.base`.

It runs the tuning method "full" on a freshly initialized transformer, with the same trainer that fine-tunes domains.
Run it again after an interruption: it continues from its last checkpoint.
"""

import argparse
import time
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from core.artifact.base import BaseConfig
from core.artifact.sampling import SamplingSettings
from core.artifact.sites import Sites, count, trainable_shapes
from core.artifact.training import TrainingSettings
from core.ml.diffusion.sampling import sample, seeded_noise
from core.ml.model.autoencoder import Autoencoder
from core.ml.model.checkpoint import save_base
from core.ml.model.dit import DiT, initialize
from core.ml.tuning.checkpoint import pack, unpack, write_file
from core.ml.tuning.latents import Latents, concatenate, encode_images, image_grid, to_image
from core.ml.tuning.start import start_tensors
from core.ml.tuning.trainer import Trainer
from recipes.drawings import read_folder

IMAGE_SIZE = 64
LICENCE = "Apache-2.0 (weights; trained on Noto Emoji Apache-2.0, Fluent Emoji MIT, Twemoji CC BY 4.0)"


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    autoencoder = Autoencoder.load(options.autoencoder)
    class_names, latents = _latents(options.drawings, autoencoder, options.output / "latents.safetensors")
    channels = latents.mean.shape[2]
    config = BaseConfig(
        input_size=IMAGE_SIZE // autoencoder.factor,
        in_channels=channels,
        hidden_size=192,
        depth=8,
        num_heads=6,
        num_classes=len(class_names),
        guidance_channels=channels,
    )
    dit = DiT(config)
    initialize(dit, torch.Generator().manual_seed(options.seed))
    trainer = Trainer(dit, _start(dit), latents, _settings(options))
    print(f"{count(trainer.learner.shapes):,} parameters, {len(trainer.latents)} drawings, {len(class_names)} classes")
    _train(trainer, autoencoder, options.output, options.minutes)
    _finish(trainer, autoencoder, class_names, options.output)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--drawings", type=Path, default=Path("build/drawings"))
    parser.add_argument("--autoencoder", type=Path, default=Path("core/ml/bundled/mini/vae"))
    parser.add_argument("--output", type=Path, default=Path("build/base"))
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--decay-steps", type=int, default=2_000, help="last steps over which the rate falls to zero")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--minutes", type=float, help="stop after this long; the next run continues")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _settings(options: argparse.Namespace) -> TrainingSettings:
    return TrainingSettings(
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        warmup_steps=200,
        decay_steps=options.decay_steps,
        gradient_clip=1.0,
        minimum_snr_gamma=5.0,
        timesteps="focused",
        sampling="balanced",
        held_out_fraction=0.03,
        seed=options.seed,
    )


def _latents(drawings: Path, autoencoder: Autoencoder, cache: Path) -> tuple[list[str], Latents]:
    class_names, images = read_folder(drawings)
    if not cache.exists():
        bar = tqdm(
            encode_images(images, autoencoder.encode, IMAGE_SIZE),
            total=-(-len(images) // 16),
            desc="encoding",
        )
        encoded = concatenate(list(bar))
        save_file({"mean": encoded.mean, "deviation": encoded.deviation, "labels": encoded.labels}, cache)
    return class_names, Latents(**load_file(cache))


def _start(dit: DiT) -> dict[str, torch.Tensor]:
    shapes = trainable_shapes(dit.config, "full", Sites(), dit.config.num_classes)
    return start_tensors(dit, shapes, torch.Generator(), keep_classes=True)


def _train(trainer: Trainer, autoencoder: Autoencoder, output: Path, minutes: float | None) -> None:
    checkpoint = output / "checkpoint.safetensors"
    description = {"config": trainer.dit.config.to_json()}
    if checkpoint.exists():
        trainer.restore(unpack(checkpoint.read_bytes(), description))
    started, losses = time.monotonic(), []
    bar = tqdm(total=trainer.settings.steps, initial=trainer.steps_done, desc="training", mininterval=30)
    while not trainer.done and (minutes is None or time.monotonic() - started < 60 * minutes):
        losses.append(trainer.step().mse)
        bar.update()
        if trainer.steps_done % 100 == 0:
            write_file(checkpoint, pack(trainer.state(), description))
            bar.set_postfix(mse=sum(losses[-100:]) / len(losses[-100:]))
        if trainer.steps_done % 500 == 0:
            held_out = trainer.held_out_loss(trainer.averaged, repeats=16)
            tqdm.write(f"step {trainer.steps_done}: held-out loss {held_out:.4f}")
            _grid(trainer, autoencoder).save(output / f"samples-{trainer.steps_done:06}.png")
    write_file(checkpoint, pack(trainer.state(), description))


def _grid(trainer: Trainer, autoencoder: Autoencoder) -> Image.Image:
    """Generates one image of each class with the moving average of the weights and guidance 4, and returns them as a
    grid."""
    config = trainer.dit.config
    labels = torch.arange(config.num_classes)
    noise = seeded_noise(range(config.num_classes), (config.in_channels, config.input_size, config.input_size))
    latents = sample(
        trainer.route.model(trainer.averaged),
        noise,
        labels,
        config.null_class,
        SamplingSettings(steps=25),
        channels=config.guidance_channels,
    )
    return image_grid([to_image(pixels) for pixels in autoencoder.decode(latents)], columns=12)


def _finish(trainer: Trainer, autoencoder: Autoencoder, class_names: list[str], output: Path) -> None:
    """Writes the moving average of the weights as a complete base folder, in bf16."""
    trainer.dit.load_state_dict(trainer.tensors())
    save_base(
        output / "mini",
        trainer.dit,
        autoencoder,
        name="mini",
        licence=LICENCE,
        class_names=class_names,
        dtype=torch.bfloat16,
    )
    print(f"{output / 'mini'}: step {trainer.steps_done}")


if __name__ == "__main__":
    main()
