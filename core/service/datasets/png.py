"""Decoder of PNGs that decodes one band of pixel rows at a time. A PNG of some hundred bytes can declare so many pixels
that decoding it as a whole would fill the memory."""

import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

Bytes = NDArray[np.uint8]

_BYTE_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
"""8-bit Pillow mode for each number of bytes per pixel. PNG's row filters work on bytes, so that pixels of any format
can be unfiltered in the 8-bit mode of the same number of bytes."""
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Number of samples per pixel for each PNG colour type."""


def chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yields (type, content) for each chunk of a PNG. If a chunk is cut off, yields what there is of it and stops. Does
    not check the chunks' checksums; Pillow does not check those of pixel data either."""
    view, place = memoryview(data), 8
    while place + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        if place + 8 + length > len(data):
            yield data[place + 4 : place + 8], view[place + 8 :]
            return
        yield data[place + 4 : place + 8], view[place + 8 : place + 8 + length]
        place += 12 + length


def bands(image: ImageFile.ImageFile, data: bytes, cuts: Sequence[int]) -> Iterator[tuple[int, Image.Image]]:
    """Decodes an opened PNG without interlacing, whose bytes are `data`, in bands of the image's full width. Yields
    (first row, band) for each pair of successive row numbers in `cuts`: the band's first row, and the row after its
    last. `cuts` starts with 0.

    Each band has the mode, palette and transparent colour of the whole image. Channels of 16 bits are reduced to their
    high 8 bits, except in grey images without alpha (mode I;16). Raises ValueError or zlib.error if the pixels are
    incomplete or malformed.
    """
    depth, colour = data[24], data[25]
    channels = _CHANNELS[colour]
    row_bytes = -(-image.width * channels * depth // 8)
    pixel_bytes = max(1, channels * depth // 8)
    is_cut = depth == 16 and channels > 1
    rawmode = {2: "RGB", 4: "LA", 6: "RGBA"}[colour] if is_cut else str(image.tile[0].args)
    stream = _Inflated(data)
    previous: Bytes | None = None
    for top, bottom in pairwise(cuts):
        count = bottom - top
        packed = np.frombuffer(stream.read(count * (row_bytes + 1)), np.uint8).reshape(count, row_bytes + 1)
        if is_cut:  # filters never mix high bytes with low bytes, so drop the low bytes first
            packed = np.concatenate([packed[:, :1], packed[:, 1::2]], axis=1)
        plain = _unfiltered(packed, previous, pixel_bytes // 2 if is_cut else pixel_bytes)
        previous = plain[-1]
        mode = "LA" if rawmode == "LA" else image.mode
        band = Image.frombytes(mode, (image.width, count), plain.tobytes(), "raw", rawmode)
        yield top, _with_palette(band, image, depth)


def _unfiltered(packed: Bytes, previous: Bytes | None, pixel_bytes: int) -> Bytes:
    """Undoes PNG's row filters. Returns pixel rows [K, B] from filtered rows [K, 1 + B], whose first byte is the filter
    type. `previous` [B] is the pixel row above the first row; None at the top of the image."""
    above = np.zeros_like(packed[:1])
    if previous is not None:
        above[0, 1:] = previous
    size = ((packed.shape[1] - 1) // pixel_bytes, len(packed) + 1)
    # Pillow's decoder of PNG pixels undoes the filters. It expects a zlib stream: level 0 does not compress.
    stream = zlib.compress(np.concatenate([above, packed]).tobytes(), 0)
    mode = _BYTE_MODES[pixel_bytes]
    plain = np.asarray(Image.frombytes(mode, size, stream, "zip", mode))
    return plain.reshape(len(packed) + 1, -1)[1:]


def _with_palette(band: Image.Image, whole: Image.Image, depth: int) -> Image.Image:
    """Returns a band (a strip of rows, decoded separately) with the whole image's palette and transparent colour. The
    colour is scaled to the band's bits per sample. Raises ValueError if the palette is missing."""
    if band.mode == "P":
        if whole.palette is None:
            raise ValueError("no palette")
        mode, colours = whole.palette.getdata()
        band.putpalette(colours, mode)
    key = whole.info.get("transparency")
    if key is not None and band.mode == "RGB" and depth == 16:
        key = tuple(value >> 8 for value in key)
    elif key is not None and band.mode == "L" and depth < 8:
        key = key * 255 // (2**depth - 1)
    if key is not None:
        band.info["transparency"] = key
    return band


class _Inflated:
    """Stream of a PNG's filtered pixel rows, inflated from the IDAT chunks as they are read."""

    def __init__(self, data: bytes) -> None:
        self._pieces = (content for kind, content in chunks(data) if kind == b"IDAT")
        self._inflate = zlib.decompressobj()

    def read(self, size: int) -> bytes:
        """Returns exactly `size` bytes. Raises ValueError if fewer are left."""
        data = bytearray()
        while len(data) < size:
            piece = self._inflate.unconsumed_tail or next(self._pieces, None)
            if piece is None or self._inflate.eof:
                raise ValueError("the pixels are incomplete")
            data += self._inflate.decompress(piece, size - len(data))
        return bytes(data)
