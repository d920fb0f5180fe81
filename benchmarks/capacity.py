"""Recomputes the tables of docs/capacity.md and docs/dit-xl-2.md in place: `python -m benchmarks.capacity`.

Sizes are counted from parameter shapes. Rates of the bundled base come from its model card. Rates of DiT-XL/2 come from
docs/results/gpu.json, which `python -m benchmarks.gpu` writes, and from docs/results/rest.json, which `python -m
benchmarks.rest` writes.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

from benchmarks.gpu.page import JSON as GPU
from benchmarks.report import markdown_table
from core.artifact.base import BaseConfig
from core.artifact.sampling import SamplingSettings
from core.artifact.sites import PRESETS, base_shapes, count, trainable_shapes
from core.ml.bundled import mini_base_folder
from core.ml.model.device import pinned_bytes
from core.ml.model.folding import VectorLayout
from core.service.config import Settings
from core.service.finetunes.service import FinetuneRequest

PAGES = (Path("docs/capacity.md"), Path("docs/dit-xl-2.md"))
REST = Path("docs/results/rest.json")
CARD = mini_base_folder() / "MODEL_CARD.md"
XL = BaseConfig()
AUTOENCODER, FUSED_DECODER = 83_653_863, 53_618_967
"""Parameters of DiT-XL/2's autoencoder, and of its decoder in the form that a GPU decodes with (`FusedDecoder`)."""
CLASSES = 10
BUSY = 0.5
"""Fraction of the day in which a device computes. It is below 1, since requests wait for a device that is always
busy."""
IMAGES_A_DAY, FINETUNES_A_MONTH, IMAGES_A_REQUEST, PEAK_OVER_MEAN = 20, 1, 4, 3
"""Assumed load of one domain: images per day, fine-tunes per month, images per request, and peak over mean request
rate."""
DATASET_BYTES, PNG_BYTES = 20e6, 100e3
"""Assumed sizes in bytes: a data set of 100 photos of 200 kB, and a PNG of 256x256 pixels."""
DOMAINS = (1_000, 10_000, 100_000, 1_000_000)
DAY = 86_400
SLOTS = Settings.model_fields["adapter_slots"].default
_GAP = "\n\n"
IMAGE_STEPS = SamplingSettings.completed({}).steps
"""Sampling steps per image: the default of requests. All of them count as guided, although a fifth fewer evaluations
are computed by default."""
FINETUNE = FinetuneRequest(dataset_id="")


def main() -> None:
    for page in PAGES:
        page.write_text(filled(page.read_text()))


def filled(page: str) -> str:
    """Returns the Markdown page with each of its tables recomputed. A table begins after its mark `<!-- name -->` and
    ends at the next empty line."""
    for name, table in tables().items():
        before, mark, rest = page.partition(f"<!-- {name} -->\n\n")
        if mark:
            page = f"{before}{mark}{table}{rest[rest.index(_GAP) :]}"
    return page


def tables() -> dict[str, str]:
    return {
        "sizes": markdown_table(["", "bundled base", "DiT-XL/2"], _sizes()),
        "device": markdown_table(["", "bundled base, 2 CPU cores", f"DiT-XL/2, one {gpu_rates().gpu}"], _device()),
        "fleet": markdown_table(["domains", *(f"{number:,}" for number in DOMAINS)], _fleet()),
        "memory": markdown_table(["part", "memory"], _memory()),
        "times": markdown_table(["what", "time"], _times()),
    }


@dataclass(frozen=True)
class GpuRates:
    """Speed of one GPU with DiT-XL/2, and the source of the figures."""

    gpu: str
    source: str
    images_a_second: float
    """Images per second generated through the REST API, with guidance and the default number of sampling steps."""
    step_seconds: float
    """Seconds of a DiffFit training step with the default batch size."""

    @classmethod
    def measured(cls, gpu: dict[str, Any], rest: dict[str, Any]) -> Self:
        """Builds the rates from the JSON that `python -m benchmarks.gpu` and `python -m benchmarks.rest` write. Raises
        ValueError if a figure that the pages need is missing."""
        try:
            training = gpu["phases"]["training"]
            methods = {row["method"]: row for row in training["methods"]}
            step, batch, date = methods["difffit"]["ms"] / 1000, training["batch"], training.get("date", gpu["date"])
            images = max(run["images_a_second"] for run in rest["runs"] if run["steps"] == IMAGE_STEPS)
        except (KeyError, ValueError) as error:
            raise ValueError(f"{GPU} or {REST} has no full run: {error!r}") from error
        name = str(rest["hardware"]["gpu"]).removeprefix("NVIDIA ").split()[0]
        source = f"measured {date}: images [through REST](results/rest.json), fine-tunes [alone](results/gpu.md)"
        return cls(name, source, images, step * FINETUNE.training.batch_size / batch)


@cache
def _record(file: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(file.read_text())
    return record


@cache
def gpu_rates() -> GpuRates:
    return GpuRates.measured(_record(GPU), _record(REST))


def xl_images_a_second() -> float:
    return gpu_rates().images_a_second


def xl_finetune_seconds() -> float:
    return gpu_rates().step_seconds * FINETUNE.training.steps


def _measured(pattern: str) -> float:
    printed = re.search(pattern, CARD.read_text())
    assert printed is not None, pattern
    return float(printed[1])


def _sizes() -> Iterator[tuple[str, str, str]]:
    mini = BaseConfig(**json.loads((mini_base_folder() / "base.json").read_text())["config"])
    bases = ((mini, 4), (XL, 2))  # bytes per parameter: fp32 on a CPU, bf16 on a GPU

    def adapter(config: BaseConfig) -> int:
        return count(trainable_shapes(config, FINETUNE.method, PRESETS[FINETUNE.preset], CLASSES))

    def on_host(config: BaseConfig, width: int) -> int:
        sizes = [width * VectorLayout(config).length, width * (CLASSES + 1) * config.hidden_size]
        return sum(map(pinned_bytes, sizes) if width == 2 else sizes)  # pinned for a GPU

    def row(name: str, value: Callable[[BaseConfig, int], str]) -> tuple[str, str, str]:
        small, large = (value(*base) for base in bases)
        return name, small, large

    cache = Settings.model_fields["host_cache_bytes"].default
    yield row("parameters of the transformer", lambda config, _: f"{count(base_shapes(config)):,}")
    yield row("the same on the device", lambda config, width: _bytes(count(base_shapes(config)) * width))
    yield row(f"trainable, {CLASSES} classes", lambda config, _: f"{adapter(config):,}")
    yield row("an adapter's file, fp32", lambda config, _: _bytes(adapter(config) * 4))
    yield row("folded, on the host", lambda config, width: _bytes(on_host(config, width)))
    yield row("adapters in `HOST_CACHE_BYTES`", lambda config, width: f"{cache // on_host(config, width):,}")
    yield row(f"the device's table, {SLOTS:,} slots", _table_bytes)


def _table_bytes(config: BaseConfig, width: int) -> str:
    """Returns the size of the table of adapters on the device, with `width` bytes for each number."""
    return _bytes((SLOTS + 1) * width * VectorLayout(config).length)


def _device() -> Iterator[tuple[str, str, str]]:
    seconds = _measured(rf"16 pictures in {IMAGE_STEPS} steps \|[^|]*\| ([\d.]+) s")
    training = _measured(r"300 steps on 126 drawings.* in (\d+) s")
    yield "where from", "measured", gpu_rates().source
    yield f"an image of {IMAGE_STEPS} guided steps", f"{seconds / 16:.2f} s", f"{1 / xl_images_a_second():.2f} s"
    yield "images a day, nothing else", f"{_round(16 / seconds * DAY)}", f"{_round(xl_images_a_second() * DAY)}"
    xl_steps = f"{xl_finetune_seconds():.0f} s ({FINETUNE.training.steps} steps of {FINETUNE.training.batch_size})"
    yield "a fine-tune", f"{training:.0f} s (300 steps)", xl_steps
    yield "fine-tunes a day, nothing else", _round(DAY / training), _round(DAY / xl_finetune_seconds())


def _memory() -> Iterator[tuple[str, str]]:
    yield "the transformer, in bf16", _bytes(2 * count(base_shapes(XL)))
    yield f"the table of {SLOTS:,} adapters (`DIFFFIT_ADAPTER_SLOTS`)", _table_bytes(XL, 2)
    yield "the autoencoder in fp32, and its decoder in fp16", _bytes(4 * AUTOENCODER + 2 * FUSED_DECODER)
    yield "PyTorch and CUDA themselves, a forward pass of 32 rows, decoding of an image", "not counted"


def _times() -> Iterator[tuple[str, str]]:
    phases = _record(GPU)["phases"]
    training, start = phases["training"], phases["start"]
    methods = {row["method"]: f"{row['ms']:.0f} ms" for row in training["methods"]}

    def rates(runs: list[dict[str, Any]]) -> str:
        best = [max(run["images_a_second"] for run in runs if run["steps"] == steps) for steps in (20, 50)]
        return "{:.0f} images a second; {:.0f}".format(*best)

    def alone(steps: int) -> str:
        return f"{min(run['one_image_seconds'] for run in phases['engine']['runs'] if run['steps'] == steps):.2f} s"

    yield "one guided image of 20 steps, alone; of 50 steps", f"{alone(20)}; {alone(50)}"
    yield "128 images through REST, 20 steps; 50 steps", rates(_record(REST)["runs"])
    yield "64 images by the engine alone, whatever their domains, 20 steps; 50 steps", rates(phases["engine"]["runs"])
    what = f"a DiffFit step of {training['batch']} images; of the paper's full fine-tuning"
    yield what, f"{methods['difffit']}; {methods['full']}"
    steps, batch = FINETUNE.training.steps, FINETUNE.training.batch_size
    yield f"a fine-tune of {steps} steps of {batch}, without encoding its images", f"{xl_finetune_seconds():.0f} s"
    first, capture = start["with graphs"], start["capturing_seconds"]
    what = "the first image of a new engine; capturing the CUDA graphs of all batch sizes"
    yield what, f"{first:.2f} s; {capture:.1f} s"


def _fleet() -> Iterator[list[str]]:
    def row(name: str, value: Callable[[int], str]) -> list[str]:
        return [name, *map(value, DOMAINS)]

    adapter = 4 * count(trainable_shapes(XL, FINETUNE.method, PRESETS[FINETUNE.preset], CLASSES))
    yield row("images a day", lambda n: _round(n * IMAGES_A_DAY))
    yield row(f"{gpu_rates().gpu}s for generations", lambda n: f"{_drawing(n):.2g}")
    yield row(f"{gpu_rates().gpu}s for fine-tunes", lambda n: f"{_training(n):.2g}")
    yield row("GPUs, whole and at least one", lambda n: f"{_gpus(n):,}")
    yield row("requests a second at the peak", lambda n: f"{_requests(n):,.1f}")
    yield row("rows of generations a year", lambda n: _round(n * IMAGES_A_DAY / IMAGES_A_REQUEST * 365))
    yield row("adapters, one version each", lambda n: _bytes(n * adapter))
    yield row("data sets", lambda n: _bytes(n * DATASET_BYTES))
    yield row("images, a year", lambda n: _bytes(n * IMAGES_A_DAY * 365 * PNG_BYTES))
    yield row("adapters fetched a second, a GPU", lambda n: f"{_requests(n) / PEAK_OVER_MEAN / _gpus(n):.2f}")
    yield row("the same in bytes a second", lambda n: _bytes(_requests(n) / PEAK_OVER_MEAN / _gpus(n) * adapter))


def _drawing(domains: int) -> float:
    return domains * IMAGES_A_DAY / (xl_images_a_second() * DAY * BUSY)


def _training(domains: int) -> float:
    return domains * FINETUNES_A_MONTH / 30 * xl_finetune_seconds() / (DAY * BUSY)


def _gpus(domains: int) -> int:
    return int(-(-(_drawing(domains) + _training(domains)) // 1))


def _requests(domains: int) -> float:
    return domains * IMAGES_A_DAY / IMAGES_A_REQUEST / DAY * PEAK_OVER_MEAN


def _round(number: float) -> str:
    """Formats a number, rounded to two significant digits."""
    return f"{float(f'{number:.2g}'):,.0f}"


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} PB"


if __name__ == "__main__":
    main()
