"""`difffit evaluate`: distances between generated and real images, of a domain on a server and of folders."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from core.artifact.pixels import center_crop, on_white
from core.ml.bundled import sample_domain_folder
from core.ml.evaluation.drawings import read_drawings, to_bytes
from core.ml.evaluation.frechet import Statistics, frechet_distance
from core.ml.evaluation.imagenet import ImageNet
from tests.client.conftest import Drawable, Server
from tests.client.test_local import run_here


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Returns two folders with different drawings of the same classes, at the base's size."""
    folder = tmp_path_factory.mktemp("halves")
    for place, path in enumerate(sorted(sample_domain_folder().glob("*/*.png"))[:40]):
        target = folder / str(place % 2) / path.parent.name
        target.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as image:
            center_crop(on_white(image), 64).save(target / path.name)
    return folder / "0", folder / "1"


def test_folders(halves: tuple[Path, Path]) -> None:
    """Both distances equal those that are computed from the features directly."""
    first, second = halves
    summary = run_here("evaluate", first, second, folder=first.parent, options=("--json",))
    assert (summary["generated"], summary["real"], summary["image_size"]) == (20, 20, 64)
    pixels = [read_drawings(folder).pixels for folder in halves]
    expected = frechet_distance(*(Statistics.of(ImageNet().features(images)) for images in pixels))
    assert summary["distances"]["ImageNet distance"] == pytest.approx(expected, rel=1e-3)
    assert summary["distances"]["feature distance"] > 0
    assert summary["settings"] == {}
    assert not (first.parent / "build").exists()


def test_images_are_cropped_as_for_training(halves: tuple[Path, Path], tmp_path: Path) -> None:
    """Real images of other sizes and modes count as their centered squares, in the size of the generated images."""
    wide = tmp_path / "wide"
    wide.mkdir()
    for path in sorted(halves[1].glob("*/*.png")):
        square = Image.open(path).convert("RGB")
        canvas = Image.new("RGB", (192, 64), "black")
        canvas.paste(square, (64, 0))
        canvas.save(wide / f"{path.parent.name}-{path.name}")
    summary = run_here("evaluate", halves[0], wide, folder=tmp_path, options=("--json",))
    plain = run_here("evaluate", halves[0], halves[1], folder=tmp_path, options=("--json",))
    assert summary["distances"] == pytest.approx(plain["distances"], rel=1e-6)


def test_unusable_files_are_named_and_too_few_images_refused(halves: tuple[Path, Path], tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    (few / "broken.png").write_bytes(b"no image")
    shutil.copy(next(halves[0].glob("*/*.png")), few)
    error = run_here("evaluate", few, halves[1], folder=tmp_path, options=("--json",), code=6)
    assert "has 1 readable images" in str(error)


def test_domain(server: Server, drawable: Drawable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Generates images in the proportions of the real folder, in which one class has three times the images of the
    other."""
    monkeypatch.setenv("DIFFFIT_URL", server.url)
    monkeypatch.setenv("DIFFFIT_API_KEY", server.key)
    for name, count in (("fruit", 6), ("smiling-face", 2)):
        (tmp_path / "real" / name).mkdir(parents=True)
        for path in sorted((sample_domain_folder() / name).glob("*.png"))[:count]:
            shutil.copy(path, tmp_path / "real" / name)
    command = ("evaluate", drawable.id, "real", "--count", "4", "--steps", "2", "--seed", "7")
    summary = run_here(*command, folder=tmp_path, options=("--json",))
    assert (summary["generated"], summary["real"]) == (4, 8)
    assert summary["settings"]["steps"] == 2
    names = sorted(path.name for path in (tmp_path / "evaluated").iterdir())
    assert names == ["fruit-7.png", "fruit-8.png", "fruit-9.png", "smiling-face-7.png"]
    assert to_bytes([Image.open(tmp_path / "evaluated" / names[0])], 64).shape == (1, 3, 64, 64)
    error = run_here(*command, folder=tmp_path, options=("--json",), code=6)
    assert "is not empty" in str(error)
