"""AVIF and HEIC images, which phones store."""

import io
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from core.service.datasets import images
from core.service.datasets.archive import validate
from core.service.datasets.confined import Confined
from core.service.datasets.images import Refused, read_image, read_picture
from tests.core.service.test_images import MAX_PIXELS, RED, encoded, noise, refusal, swapped_profile
from tests.core.service.zips import LIMITS, zipped
from tests.fuzzing.mutations import seeds

HEIC, AVIF = seeds()["turned.heic"], seeds()["turned.avif"]
"""White images with a black upper left quarter, to be turned to the right."""
VIDEO = b"\0\0\0\x18ftypisom\0\0\2\0isommp42" + bytes(100)


@pytest.mark.parametrize("data", [HEIC, AVIF], ids=["heic", "avif"])
def test_photo_is_turned_once(data: bytes) -> None:
    square = read_image(data, MAX_PIXELS)
    corners = [square.getpixel(place)[0] for place in ((4, 4), (28, 4), (28, 28), (4, 28))]
    assert [value < 100 for value in corners] == [False, True, False, False]


def test_avif_is_read_upright_in_its_colours_on_white() -> None:
    picture = read_picture(
        encoded(Image.new("RGB", (60, 40), (255, 0, 0)), "AVIF", icc_profile=swapped_profile()), 10**6
    )
    red, _, blue = picture.square.getpixel((8, 8))
    assert (picture.width, picture.height, picture.square.size) == (60, 40, (40, 40))
    assert red < 10 < 245 < blue
    clear = Image.new("RGBA", (32, 32), (*RED, 0))
    clear.paste((*RED, 255), (0, 0, 16, 32))
    square = read_image(encoded(clear, "AVIF", quality=100), MAX_PIXELS)
    assert square.getpixel((28, 16)) == (255, 255, 255)


def test_accepted_in_zips_beside_other_formats() -> None:
    report = validate(zipped({"cat/1.heic": HEIC, "cat/2.AVIF": AVIF, "cat/film.heic": VIDEO}), LIMITS)
    assert [member.file for member in report.members] == ["cat/1.heic", "cat/2.AVIF"]
    assert [(rejected.file, rejected.code) for rejected in report.rejected] == [("cat/film.heic", "not_an_image")]


def test_several_images_in_one_file_are_rejected() -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    assert refusal(encoded(frames[0], "AVIF", save_all=True, append_images=frames[1:])).code == "animated"
    assert refusal(seeds()["moving.heic"]).code == "animated"


@pytest.mark.parametrize("data", [HEIC, AVIF], ids=["heic", "avif"])
@pytest.mark.parametrize("cut", [40, 200, -20])
def test_truncated_photo_is_rejected(data: bytes, cut: int) -> None:
    assert refusal(data[:cut]).code == "corrupt"


@pytest.mark.parametrize("data", [HEIC, AVIF], ids=["heic", "avif"])
def test_size_and_memory_are_limited(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Refused, match="32x32 pixels"):
        read_image(data, 1000)
    monkeypatch.setattr(images, "_PHONE_BYTES", 32 * 32 * 16 - 1)
    assert refusal(data).code == "too_many_pixels"


def test_photos_are_decoded_one_at_a_time() -> None:
    thread = threading.Thread(target=read_image, args=(AVIF, MAX_PIXELS))
    with images._large:
        thread.start()
        thread.join(0.3)
        assert thread.is_alive(), "it must wait for the other image"
    thread.join(60)
    assert not thread.is_alive()


def test_heic_needs_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "is_installed", lambda extra: False)
    refused = refusal(HEIC)
    assert (refused.code, "JPEG or PNG" in refused.detail) == ("heic_not_supported", True)
    assert read_image(AVIF, MAX_PIXELS).size == (32, 32)
    assert "HEIC" not in refusal(VIDEO).detail


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's memory by RLIMIT_DATA")
def test_stream_that_is_larger_than_declared_gets_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.new("RGB", (5000, 5000), RED), "AVIF", speed=10)
    place = data.index(b"ispe") + 8
    assert data[place : place + 8] == (5000).to_bytes(4) * 2
    data = data[:place] + (64).to_bytes(4) * 2 + data[place + 8 :]
    monkeypatch.setattr(images, "_SPARE_BYTES", 20_000_000)
    assert refusal(data).code == "corrupt"
    assert read_image(AVIF, MAX_PIXELS).size == (32, 32)
    monkeypatch.setattr(images, "_SPARE_BYTES", 200_000_000)
    assert read_image(data, MAX_PIXELS).size == (64, 64)


def test_host_without_processes_is_not_the_photos_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    confined = Confined("core.service.datasets.images:confined_decoder")
    monkeypatch.setattr(images, "_confined", confined)
    monkeypatch.setattr(sys, "executable", "/nothing/here")
    with pytest.raises(FileNotFoundError):
        read_image(AVIF, MAX_PIXELS)


def test_large_avif_is_reduced() -> None:
    picture = Image.fromarray(noise(90, 70, 3)).resize((2500, 2200))
    buffer = io.BytesIO()
    picture.save(buffer, "AVIF", speed=10)
    square = read_image(buffer.getvalue(), MAX_PIXELS)
    assert square.size == (1100, 1100)
    assert abs(np.asarray(square).mean() - np.asarray(picture).mean()) < 5
