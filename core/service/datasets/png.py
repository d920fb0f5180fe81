"""PNGs decoded a band of rows at a time: a file of some hundred bytes can claim pixels that fill the memory."""

import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

Bytes = NDArray[np.uint8]

_BYTE_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
"""8-bit mode by bytes per pixel: PNG's row filters look at bytes alone."""
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples of a pixel by colour type."""


def chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yields (type, content) up to the first chunk that is cut off. Checksums are not compared, as in Pillow."""
    view, place = memoryview(data), 8
    while place + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        if place + 8 + length > len(data):
            yield data[place + 4 : place + 8], view[place + 8 :]
            return
        yield data[place + 4 : place + 8], view[place + 8 : place + 8 + length]
        place += 12 + length


def bands(image: ImageFile.ImageFile, data: bytes, cuts: Sequence[int]) -> Iterator[tuple[int, Image.Image]]:
    """Yields an opened PNG without interlacing in pieces of its full width: (first row, piece) between each two of
    `cuts`, which begin with 0.

    Each piece has the mode, palette and transparency of the whole. Channels of 16 bits are cut to 8, except those of
    grey without alpha (mode I;16). Raises ValueError or zlib.error when the pixels are incomplete or malformed.
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
        if is_cut:  # filters never mix the high bytes of channels with the low ones
            packed = np.concatenate([packed[:, :1], packed[:, 1::2]], axis=1)
        plain = _unfiltered(packed, previous, pixel_bytes // 2 if is_cut else pixel_bytes)
        previous = plain[-1]
        mode = "LA" if rawmode == "LA" else image.mode
        band = Image.frombytes(mode, (image.width, count), plain.tobytes(), "raw", rawmode)
        yield top, _with_palette(band, image, depth)


def _unfiltered(packed: Bytes, previous: Bytes | None, pixel_bytes: int) -> Bytes:
    """Returns rows [K, B] from filtered rows [K, 1 + B]; the first may refer to the row before, `previous` [B]."""
    above = np.zeros_like(packed[:1])
    if previous is not None:
        above[0, 1:] = previous
    size = ((packed.shape[1] - 1) // pixel_bytes, len(packed) + 1)
    stream = zlib.compress(np.concatenate([above, packed]).tobytes(), 0)
    mode = _BYTE_MODES[pixel_bytes]
    plain = np.asarray(Image.frombytes(mode, size, stream, "zip", mode))
    return plain.reshape(len(packed) + 1, -1)[1:]


def _with_palette(band: Image.Image, whole: Image.Image, depth: int) -> Image.Image:
    """Gives a band the palette and transparency of its image, in the band's own units."""
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
    """Pixels of a PNG as they inflate."""

    def __init__(self, data: bytes) -> None:
        self._pieces = (content for kind, content in chunks(data) if kind == b"IDAT")
        self._inflate = zlib.decompressobj()

    def read(self, size: int) -> bytes:
        """Returns exactly `size` bytes. Raises ValueError when there are fewer."""
        data = bytearray()
        while len(data) < size:
            piece = self._inflate.unconsumed_tail or next(self._pieces, None)
            if piece is None or self._inflate.eof:
                raise ValueError("the pixels are incomplete")
            data += self._inflate.decompress(piece, size - len(data))
        return bytes(data)
