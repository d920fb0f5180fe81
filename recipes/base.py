"""Trains the bundled base from scratch: `python -m recipes.base`.

It runs the tuning method "full" on a freshly initialized transformer, with the trainer that fine-tunes domains, made
faster by `recipes.fast`. Run it again after an interruption: it continues from its last checkpoint. The learning rate
is constant until the last `--decay-steps`: a run with more `--steps` can continue from a checkpoint before them.
`torchrun --nproc-per-node 2 -m recipes.base` trains on two CPU cores or GPUs.
"""

import argparse
import time
from pathlib import Path

import torch
from accelerate import PartialState
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
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
from core.ml.tuning.latents import Latents, concatenate, encode_batch, image_grid, to_image
from core.ml.tuning.parallel import started_processes
from core.ml.tuning.start import start_tensors
from core.ml.tuning.trainer import Trainer
from recipes.augmentation import Augmentation, augment
from recipes.autoencoder import CHECKPOINT_SECONDS, IMAGE_SIZE, is_held_out, read_pictures, unit
from recipes.drawings import read_paths
from recipes.fast import fast_trainer

ENCODED_AT_ONCE = 32
"""Drawings in a batch for the autoencoder, without their copies."""
LICENCE = (
    "Apache-2.0 (weights; trained on Noto Emoji and FxEmojis Apache-2.0, Fluent Emoji MIT, Twemoji and Streamline "
    "Emojis CC BY 4.0)"
)
CHANGES = Augmentation(
    flipped=0, resized=1, sizes=(0.9, 1.15), shift=0.06, recoloured=0.15, outlined=0.25, tints=(1, 1)
)
"""Changes of the copies that the transformer learns beside the drawings themselves. The trainer adds mirror images."""


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    autoencoder = Autoencoder.load(options.autoencoder, device=torch.device(options.device))
    processes = started_processes()
    with PartialState().main_process_first():
        class_names, latents, held_out = _latents(options, autoencoder)
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
    dit.to(options.device)
    trainer = fast_trainer(dit, _start(dit), latents, _settings(options), processes)
    trainer.held_out = held_out
    print(f"{count(trainer.learner.shapes):,} parameters, {len(trainer.latents)} drawings, {len(class_names)} classes")
    _train(trainer, autoencoder, options)
    if processes.index == 0:
        _finish(trainer, autoencoder, class_names, options.output)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--drawings", type=Path, default=Path("build/drawings"))
    parser.add_argument("--autoencoder", type=Path, default=Path("core/ml/bundled/mini/vae"))
    parser.add_argument("--output", type=Path, default=Path("build/base"))
    parser.add_argument("--copies", type=int, default=3, help="changed copies of each drawing")
    parser.add_argument("--steps", type=int, default=8_000)
    parser.add_argument("--decay-steps", type=int, default=2_500, help="last steps over which the rate falls to zero")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--moving-average", type=float, default=0.9995, help="decay of the averaged weights")
    parser.add_argument("--evaluate-every", type=int, default=1_000, help="steps between sample images and losses")
    parser.add_argument("--learning-rate", type=float, default=2.5e-3)
    parser.add_argument("--minutes", type=float, help="stop after this long; the next run continues")
    parser.add_argument("--device", default="cpu")
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
        ema_decay=options.moving_average,
        minimum_snr_gamma=5.0,
        timesteps="focused",
        sampling="balanced",
        held_out_fraction=0,
        seed=options.seed,
    )


def _latents(options: argparse.Namespace, autoencoder: Autoencoder) -> tuple[list[str], Latents, Latents]:
    """Returns the class names, the latents of the training drawings and of their changed copies, and the latents of the
    drawings that the autoencoder has not seen either."""
    class_names, paths = read_paths(options.drawings)
    cache = options.output / "latents.safetensors"
    if not cache.exists():
        parts = {
            "seen": _encoded([entry for entry in paths if not is_held_out(entry[1])], options, autoencoder),
            "unseen": _encoded([entry for entry in paths if is_held_out(entry[1])], options, autoencoder, copies=0),
        }
        save_file(
            {f"{name}.{field}": tensor for name, part in parts.items() for field, tensor in vars(part).items()}, cache
        )
    tensors = load_file(cache)
    fields = ("mean", "deviation", "labels")
    seen, unseen = (Latents(*(tensors[f"{name}.{field}"] for field in fields)) for name in ("seen", "unseen"))
    return class_names, seen, unseen


def _encoded(
    paths: list[tuple[int, Path]], options: argparse.Namespace, autoencoder: Autoencoder, copies: int | None = None
) -> Latents:
    """Encodes drawings, each followed by changed copies (by default as many as the options give)."""
    generator = torch.Generator(options.device).manual_seed(options.seed)
    copies = options.copies if copies is None else copies
    encoded = []
    for start in tqdm(range(0, len(paths), ENCODED_AT_ONCE), desc="encoding"):
        chunk = paths[start : start + ENCODED_AT_ONCE]
        drawings = read_pictures([path for _, path in chunk]).to(options.device)
        pixels = torch.cat([unit(drawings), *(augment(drawings, generator, CHANGES) for _ in range(copies))])
        labels = torch.tensor([label for label, _ in chunk]).repeat(1 + copies)
        encoded.append(encode_batch((labels, pixels), autoencoder.encode))
    return concatenate(encoded)


def _start(dit: DiT) -> dict[str, Tensor]:
    shapes = trainable_shapes(dit.config, "full", Sites(), dit.config.num_classes)
    return start_tensors(dit, shapes, torch.Generator(), keep_classes=True)


def _train(trainer: Trainer, autoencoder: Autoencoder, options: argparse.Namespace) -> None:
    output = options.output
    checkpoint = output / "checkpoint.safetensors"
    description = {"config": trainer.dit.config.to_json()}
    if checkpoint.exists():
        trainer.restore(unpack(checkpoint.read_bytes(), description))
    started = saved = time.monotonic()
    losses: list[float] = []
    bar = tqdm(total=trainer.settings.steps, initial=trainer.steps_done, desc="training", mininterval=30)
    while not trainer.done and not _is_time_up(trainer, started, options.minutes):
        losses.append(trainer.step().mse)
        if trainer.processes.index:
            continue
        bar.update()
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            write_file(checkpoint, pack(trainer.state(), description))
            saved = time.monotonic()
        if trainer.steps_done % options.evaluate_every == 0:
            held_out = trainer.held_out_loss(trainer.averaged, repeats=16, batch_size=256)
            error = sum(losses) / len(losses)
            losses.clear()
            tqdm.write(f"step {trainer.steps_done}: squared error {error:.4f}, held-out loss {held_out:.4f}")
            _grid(trainer, autoencoder).save(output / f"samples-{trainer.steps_done:06}.png")
    if trainer.processes.index == 0:
        write_file(checkpoint, pack(trainer.state(), description))


def _is_time_up(trainer: Trainer, started: float, minutes: float | None) -> bool:
    """Whether `minutes` have passed, as a mean over the processes, so that all of them stop at the same step."""
    passed = trainer.processes.summed(torch.tensor(time.monotonic() - started)).item() / trainer.processes.count
    return minutes is not None and passed > 60 * minutes


def _grid(trainer: Trainer, autoencoder: Autoencoder) -> Image.Image:
    """Generates one image of each class with the moving average of the weights and guidance 4, and returns them as a
    grid."""
    config = trainer.dit.config
    labels = torch.arange(config.num_classes)
    noise = seeded_noise(range(config.num_classes), (config.in_channels, config.input_size, config.input_size))
    device = trainer.device
    latents = sample(
        trainer.route.model(trainer.averaged),
        noise.to(device),
        labels.to(device),
        config.null_class,
        SamplingSettings(steps=20, sampler="dpmpp_2m"),
        channels=config.guidance_channels,
    )
    return image_grid([to_image(pixels) for pixels in autoencoder.decode(latents.cpu())], columns=12)


def _finish(trainer: Trainer, autoencoder: Autoencoder, class_names: list[str], output: Path) -> None:
    """Writes the moving average of the weights as a complete base folder, in bf16."""
    trainer.dit.load_state_dict(trainer.averaged)
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
