"""Mutated images and zips in validation, examples and the first training step: all accepted files must train.

`python -m tests.fuzzing.files FIRST COUNT` tries the mutants with these numbers and prints a line of JSON for each that
breaks the rule, and one with the counts at the end. A process that dies has printed which mutant it tried.
"""

import io
import json
import re
import resource
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import torch
from PIL import Image

from core.ml.tuning.latents import to_pixels
from core.service.datasets import archive, examples
from core.service.datasets.archive import Limits
from core.service.errors import ArchiveInvalid
from tests.fuzzing.mutations import mutant, seeds, zip_of

LIMITS = Limits(members=100, image_bytes=2**25, inflated_bytes=2**28, pixels=50_000_000, classes=20)
SECONDS = 5.0
"""Maximum processor seconds per mutant."""
MEMORY_KIB = 120_000
"""Maximum growth of memory since before the first mutant."""
_SIDE = 64


@dataclass
class Tried:
    mutants: int = 0
    validated: int = 0
    """Number of mutants with at least one changed file that was accepted."""
    broken: list[str] = field(default_factory=list)
    """Mutants that broke the rule, with the reason."""
    lost: list[int] = field(default_factory=list)
    """Numbers of the mutants that ended the process."""
    codes: Counter[str] = field(default_factory=Counter)


def try_mutants(first: int, count: int) -> Tried:
    """Tries mutants in separate processes, one after another: a new one after each that died."""
    tried, end = Tried(), first + count
    while first < end:
        command = [sys.executable, "-m", "tests.fuzzing.files", str(first), str(end - first)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        tried.broken += [f"{line['number']}: {line['broken']}" for line in lines if "broken" in line]
        if done.returncode == 0:
            tried.mutants += lines[-1]["mutants"]
            tried.validated += lines[-1]["validated"]
            tried.codes.update(lines[-1]["codes"])
            break
        numbers = [int(line) for line in done.stderr.splitlines() if line.isdigit()]
        if done.returncode > 0 or not numbers:  # a mutant is not the cause
            raise RuntimeError(done.stderr)
        last = numbers[-1]
        tried.lost.append(last)
        tried.mutants += last + 1 - first
        first = last + 1
    return tried


def _made(number: int, kept: dict[str, bytes]) -> bytes:
    """Returns the zip of a mutant: a zip that is broken itself, or a good one with a broken image."""
    random = Random(number)
    name, data = mutant(random, kept)
    if name.endswith(".zip"):
        return data
    return zip_of({"a/mutant": data, "a/1.png": kept["rgb.png"], "a/2.png": kept["grey.png"]})


def _check(data: bytes) -> tuple[int, list[str]]:
    """Returns the number of accepted files and the codes of the others. Raises AssertionError and unexpected errors."""
    file = io.BytesIO(data)
    try:
        archive.inspect(file, LIMITS)
        report = archive.validate(file, LIMITS)
    except ArchiveInvalid as error:
        _check_code(error.code)
        return 0, [error.code]
    for rejected in report.rejected:
        _check_code(rejected.code)
        assert rejected.detail.endswith("."), rejected.detail
    members = [member.to_json() for member in report.members]
    json.dumps(report.to_json(), ensure_ascii=False).encode()
    taken = 0
    for label, image in archive.read_images(file, members, LIMITS):
        pixels = to_pixels(image, _SIDE)
        assert pixels.shape == (3, _SIDE, _SIDE)
        assert bool(torch.isfinite(pixels).all())
        assert 0 <= label < len(report.class_names)
        taken += 1
    assert taken == len(members)
    for _, strip in examples.strips(file, members, LIMITS):
        Image.open(io.BytesIO(strip)).load()
    return taken, [rejected.code for rejected in report.rejected]


def _check_code(code: str) -> None:
    assert re.fullmatch("[a-z0-9_]+", code), code
    assert code not in {"internal_error", "missing", "changed"}, code


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(first: int, count: int) -> None:
    torch.set_num_threads(1)
    kept, validated = seeds(), 0
    codes: Counter[str] = Counter()
    for name, data in kept.items():  # warm-up: one-time loading is not counted
        if not name.endswith((".exif", ".icc")):
            _check(data if name.endswith(".zip") else zip_of({"a/x": data, "a/y": kept["rgb.png"]}))
    highest = _peak()
    for number in range(first, first + count):
        print(number, file=sys.stderr, flush=True)
        started, wrong = time.process_time(), ""
        try:
            taken, rejected = _check(_made(number, kept))
        except Exception as error:
            wrong = f"{type(error).__name__}: {error}"
        else:
            validated += taken > 2
            codes.update(rejected)
        if (seconds := time.process_time() - started) > SECONDS:
            wrong = f"{seconds:.1f} s"
        if _peak() - highest > MEMORY_KIB:
            wrong, highest = f"{(_peak() - highest) / 1000:.0f} MB more", _peak()
        if wrong:
            print(json.dumps({"number": number, "broken": wrong}), flush=True)
    print(json.dumps({"mutants": count, "validated": validated, "codes": codes}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
