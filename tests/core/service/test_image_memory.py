"""Memory for small files with many pixels, from validation to the first batch of a fine-tune."""

import io
import json
import resource
import struct
import subprocess
import sys
import zlib
from pathlib import Path

KINDS = {"1-bit": (7070, 1, 0, 1), "grey": (4690, 8, 0, 1), "RGB": (4690, 8, 2, 3), "16-bit RGB": (4690, 16, 2, 3)}
"""Side, bits, PNG colour type and channels of each image."""
MORE_MB = 50


def flat_png(number: int, side: int, bits: int, colour: int, channels: int) -> bytes:
    """Returns a PNG of a few kilobytes, different for each number."""
    rows = bytearray((-(-side * bits * channels // 8) + 1) * side)
    rows[-1] = number
    header = struct.pack(">2I5B", side, side, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(rows), 9)), (b"IEND", b"")]
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_small_files_of_many_pixels_take_little_memory(tmp_path: Path) -> None:
    for kind, shape in KINDS.items():
        for number in range(2):
            (tmp_path / f"{kind} {number}.png").write_bytes(flat_png(number, *shape))
    command = [sys.executable, "-m", "tests.core.service.test_image_memory", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[3], check=False)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert measured["images"] == 2 + 2 * len(KINDS)
    assert measured["more_mb"] < MORE_MB


def main(folder: Path) -> None:
    """Prints the number of encoded images, and the memory beyond that of two small images."""
    import torch

    from core.ml.tuning.latents import encode_images
    from core.service.datasets import archive, examples
    from core.service.datasets.archive import Limits
    from tests.core.service.zips import picture, zipped

    limits = Limits(members=50, image_bytes=2**25, inflated_bytes=2**28, pixels=50_000_000, classes=5)
    torch.set_num_threads(1)

    def encode(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images[:, :1, :8, :8], images[:, :1, :8, :8]

    def work(file: io.BytesIO) -> int:
        members = [member.to_json() for member in archive.validate(file, limits).members]
        list(examples.strips(file, members, limits))
        return sum(len(part) for part in encode_images(archive.read_images(file, members, limits), encode, 64))

    small = {"cat/a.png": picture(1), "cat/b.png": picture(2)}
    work(zipped(small))
    file = zipped(small | {f"cat/{path.name}": path.read_bytes() for path in folder.iterdir()})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    images = work(file)
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(json.dumps({"images": images, "more_mb": more * 1024 / 1e6}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
