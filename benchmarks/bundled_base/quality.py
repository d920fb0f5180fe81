"""Measures the base by itself: size, times, and whether its images show the requested class."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.bundled_base.pictures import Artist, alike
from benchmarks.report import Measure
from core.artifact.sampling import SamplingSettings
from core.ml.bundled import sample_domain_folder
from core.ml.evaluation.classifier import unit
from core.ml.evaluation.drawings import Drawings
from core.ml.evaluation.neighbours import nearest, sheet
from core.ml.evaluation.yardsticks import Judges
from core.ml.model.autoencoder import to_uint8
from core.ml.model.checkpoint import LoadedBase, load_base
from core.ml.tuning.latents import image_grid, to_image

SIZE_LIMIT_MB, DRAWING_LIMIT_SECONDS, AGREEMENT_SHARE = 28, 30, 0.8
GRID, NEIGHBOURS, SHOWN = 64, 3, 16
FIRST = Path(__file__).with_name("first.json")
"""File with this benchmark's figures for the first version of the bundled base."""


def size(base_folder: Path) -> Measure:
    files = [path for folder in (base_folder, sample_domain_folder()) for path in folder.rglob("*") if path.is_file()]
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    return Measure(
        name="size of the bundle",
        value=megabytes,
        unit="MB",
        limit=SIZE_LIMIT_MB,
        best="lowest",
        note="base and domain",
    )


def loading(base_folder: Path) -> tuple[LoadedBase, Measure]:
    started = time.perf_counter()
    base = load_base(base_folder, device=torch.device("cpu"), dtype=torch.float32)
    seconds = time.perf_counter() - started
    return base, Measure(name="loading", value=seconds, unit="s", note="with the import of diffusers")


def drawing(base: LoadedBase, sampling: SamplingSettings) -> Measure:
    started = time.perf_counter()
    Artist.of_base(base, sampling).draw(torch.arange(16), "time")
    seconds = time.perf_counter() - started
    return Measure(
        name=f"16 pictures, {sampling.sampler} {sampling.steps} steps, guidance {sampling.guidance_scale:g}",
        value=seconds,
        unit="s",
        limit=DRAWING_LIMIT_SECONDS,
        best="lowest",
        note=f"{torch.get_num_threads()} threads; the limit is for 2 cores",
    )


@dataclass(frozen=True)
class Quality:
    """Measures generated images against held-out images. Both sets have the same class frequencies, so that distances
    depend only on the images."""

    artist: Artist
    judges: Judges
    drawings: Drawings
    """Images of the emoji sets that the base was trained on, the held-out ones included."""
    count: int
    output: Path

    def figures(self) -> Iterator[Measure]:
        _, held_out = self.drawings.split()
        real = (self.judges.classifier.judge(held_out.pixels).classes == held_out.labels).float().mean().item()
        note = f"{len(held_out)} real drawings, {len(self.drawings.class_names)} classes"
        yield Measure(name="classifier's held-out accuracy", value=100 * real, unit="%", best="highest", note=note)
        labels = alike(held_out.labels, self.count)
        pictures = self.artist.draw(self._of_base(labels), "the base")
        accuracy = (self.judges.classifier.judge(pictures).classes == labels).float().mean().item()
        yield Measure(
            name="class agreement",
            value=100 * accuracy,
            unit="%",
            limit=100 * AGREEMENT_SHARE * real,
            best="highest",
            note=f"{self.count} pictures, {accuracy / real:.0%} of the accuracy{self._of_first('class agreement')}",
        )
        yield from self._distances(pictures, held_out.pixels)
        self._grid().save(self.output / "base.png")
        yield copies(pictures, self.drawings.pixels, self.judges, self.output / "base-neighbours.png", "base")

    def _distances(self, pictures: Tensor, real: Tensor) -> Iterator[Measure]:
        coded = reconstructed(self.artist.base, real)
        for yardstick in self.judges.yardsticks:
            name = f"{yardstick.name}, base to held-out drawings"
            yield Measure(
                name=name,
                value=yardstick.distance(pictures, real),
                unit="distance",
                note=f"{len(pictures)} pictures, {len(real)} drawings{self._of_first(name)}",
            )
            value = yardstick.between_halves(real)
            note = f"{len(real) // 2} each: so few differ by chance"
            yield Measure(name=f"{yardstick.name}, between halves of these", value=value, unit="distance", note=note)
            value = yardstick.distance(coded, real)
            note = "the same drawings, encoded and decoded"
            yield Measure(name=f"{yardstick.name}, autoencoder alone", value=value, unit="distance", note=note)

    def _grid(self) -> Any:
        labels = torch.arange(GRID) % len(self.drawings.class_names)
        pictures = self.artist.draw(self._of_base(labels), "grid")
        return image_grid([to_image(picture) for picture in unit(pictures)], columns=8)

    def _of_base(self, labels: Tensor) -> Tensor:
        """Maps class ids of the drawings to the base's class ids. Raises ValueError for a class that the base does not
        have."""
        names = self.artist.base.description.class_names
        return torch.tensor([names.index(name) for name in self.drawings.class_names])[labels]

    def _of_first(self, name: str) -> str:
        if not FIRST.is_file():
            return ""
        first = json.loads(FIRST.read_text())
        if name not in first["figures"]:
            return ""
        same = first["classifier"] == self.judges.digest
        return f"; first version {first['figures'][name]:.1f}{'' if same else ' by another classifier'}"


def reconstructed(base: LoadedBase, pixels: Tensor) -> Tensor:
    """Returns the images after encoding and decoding by the autoencoder, [K, 3, S, S] uint8."""
    decoded = [base.autoencoder.decode(base.autoencoder.encode(unit(part))[0]) for part in pixels.split(64)]
    return to_uint8(torch.cat(decoded))


def copies(pictures: Tensor, drawings: Tensor, judges: Judges, path: Path, what: str) -> Measure:
    """Measures whether generated images copy training images. Returns the median distance to the nearest training
    image, and writes a sheet of generated images next to their nearest training images, by pixels and by features.
    Mirrored training images count too, since training mirrors images."""
    shown = pictures[:: max(1, len(pictures) // SHOWN)][:SHOWN]
    references = torch.cat([drawings, drawings.flip(-1)])
    by_pixels = nearest(shown, references, NEIGHBOURS)
    judge = judges.classifier.judge
    by_features = nearest(judge(shown).features, judge(references).features, NEIGHBOURS)
    places = torch.cat([by_pixels.places, by_features.places], 1)
    sheet(shown, references, places).save(path)
    closest = by_pixels.distances[:, 0]
    return Measure(
        name=f"{what}: to the nearest training drawing",
        value=closest.median().item(),
        unit="of 255",
        note=f"root mean square, median of {len(shown)}; the closest {closest.min().item():.1f}; {path.name}",
    )
