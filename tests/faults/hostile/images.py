"""Hostile images: false sizes, decompression bombs, animations, and files that are no images."""

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

from PIL import Image

SVG = b"<svg xmlns='http://www.w3.org/2000/svg'>%s</svg>"


def png(*chunks: tuple[bytes, bytes], end: bool = True) -> bytes:
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in (*chunks, *([(b"IEND", b"")] if end else [])):
        parts.append(struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)))
    return b"".join(parts)


def header(width: int, height: int, colours: int = 2, depth: int = 8) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">2I5B", width, height, depth, colours, 0, 0, 0)


def pixels(width: int = 8, height: int = 8) -> tuple[bytes, bytes]:
    """Returns a chunk with black pixels."""
    packer = zlib.compressobj(9)
    row = bytes(1 + 3 * width)
    return b"IDAT", b"".join(packer.compress(row) for _ in range(height)) + packer.flush()


def saved(format: str, size: tuple[int, int] = (8, 8), mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, format, **options)
    return buffer.getvalue()


def animated(format: str, frames: int = 2) -> bytes:
    more = [Image.new("RGB", (8, 8), (number % 256, number // 256, 9)) for number in range(1, frames)]
    return saved(format, save_all=True, append_images=more)


def patched(data: bytes, offset: int, new: bytes) -> bytes:
    return data[:offset] + new + data[offset + len(new) :]


def _compressed_text(kind: bytes, size: int) -> tuple[bytes, bytes]:
    text = zlib.compress(bytes(size), 9)
    return kind, b"key\0\1\0\0\0" + text if kind == b"iTXt" else b"key\0\0" + text


def tiff(*tags: tuple[int, int, int, int], following: int = 0) -> bytes:
    """Returns a TIFF header with a list of tags (tag, type, count, value), and no pixels."""
    packed = b"".join(struct.pack("<2H2I", *tag) for tag in sorted(tags))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + packed + struct.pack("<I", following)


def _sized(width: int, height: int, *more: tuple[int, int, int, int], following: int = 0) -> bytes:
    given = {tag for tag, *_ in more}
    defaults = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8),
             (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 64)]  # fmt: skip
    return tiff(*(tag for tag in defaults if tag[0] not in given), *more, following=following) + bytes(64)


def _gif_of_many_frames(frames: int) -> bytes:
    start = b"GIF89a" + struct.pack("<2H3B", 1, 1, 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<4HB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    return start + frame * frames + b";"


def _jpeg_of_size(width: int, height: int) -> bytes:
    data = saved("JPEG")
    return patched(data, data.index(b"\xff\xc0") + 5, struct.pack(">2H", height, width))


def _webp_cut() -> bytes:
    data = saved("WEBP", (200, 200), lossless=True)
    return patched(data[: len(data) // 2], 4, struct.pack("<I", 2**31))


def _laughing() -> bytes:
    entities = "".join(f'<!ENTITY a{n + 1} "{f"&a{n};" * 10}">' for n in range(9))
    return f'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY a0 "ha">{entities}]>'.encode() + SVG % b"<text>&a9;</text>"


IMAGES: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "text": lambda: b"no image",
    "PNG of 50,000 x 50,000": lambda: png(header(50_000, 50_000), pixels()),
    "PNG of 8,000 x 8,000": lambda: png(header(8000, 8000), pixels(8000, 8000)),
    "PNG of 2^31 x 1": lambda: png(header(2**31 - 1, 1), pixels()),
    "PNG of no size": lambda: png(header(0, 0), pixels()),
    "PNG cut": lambda: png(header(800, 800), pixels(800, 800), end=False)[:200],
    "PNG with a wrong checksum": lambda: patched(png(header(8, 8), pixels()), 29, b"bad!"),
    "PNG with a chunk of 2^31": lambda: png(header(8, 8), end=False) + struct.pack(">I", 2**31) + b"IDAT",
    "PNG that inflates on and on": lambda: png(header(8, 8), (b"IDAT", zlib.compress(bytes(10), 9)[:-6])),
    "PNG with a text that swells": lambda: png(header(8, 8), _compressed_text(b"zTXt", 2**27), pixels()),
    "PNG with an international text that swells": lambda: png(header(8, 8), _compressed_text(b"iTXt", 2**27), pixels()),
    "PNG with 100 texts that swell": lambda: png(header(8, 8), *[_compressed_text(b"zTXt", 2**20 - 1)] * 100, pixels()),
    "PNG with a colour profile that swells": lambda: png(
        header(8, 8), (b"iCCP", b"p\0\0" + zlib.compress(bytes(2**27), 9)), pixels()
    ),
    "PNG of an unknown colour": lambda: png(header(8, 8, colours=5), pixels()),
    "APNG": lambda: animated("PNG"),
    "APNG of 2^31 frames": lambda: png(header(8, 8), (b"acTL", struct.pack(">2I", 2**31 - 1, 0)), pixels()),
    "GIF of 65,535 x 65,535": lambda: patched(saved("GIF"), 6, b"\xff\xff\xff\xff"),
    "GIF that moves": lambda: animated("GIF"),
    "GIF of 500,000 frames": lambda: _gif_of_many_frames(500_000),
    "GIF cut": lambda: saved("GIF", (200, 200))[:60],
    "GIF that is a script": lambda: b"GIF89a/*" + bytes(20) + b"*/=1;alert(1)//",
    "BMP of 2^31 x 2^31": lambda: patched(saved("BMP"), 18, struct.pack("<2i", 2**31 - 1, 2**31 - 1)),
    "BMP of a negative size": lambda: patched(saved("BMP"), 18, struct.pack("<2i", -8, -(2**31))),
    "BMP whose pixels lie elsewhere": lambda: patched(saved("BMP"), 10, struct.pack("<I", 2**31)),
    "TIFF of 60,000 x 60,000": lambda: _sized(60_000, 60_000),
    "TIFF with a tag of 2^32 values": lambda: _sized(8, 8, (273, 4, 2**32 - 1, 8)),
    "TIFF with strips elsewhere": lambda: _sized(8, 8, (273, 4, 1, 2**31)),
    "TIFF whose next page lies elsewhere": lambda: _sized(8, 8, following=2**31),
    "TIFF of 5,000 x 5,000 that swells": lambda: saved("TIFF", (5000, 5000), compression="tiff_adobe_deflate"),
    "TIFF of two pages": lambda: animated("TIFF"),
    "WebP of 16,383 x 16,383": lambda: patched(saved("WEBP"), 26, b"\xff\x3f\xff\x3f"),
    "WebP of 5,000 x 5,000": lambda: saved("WEBP", (5000, 5000), lossless=True),
    "WebP that moves": lambda: animated("WEBP"),
    "WebP cut": _webp_cut,
    "JPEG of 65,500 x 65,500": lambda: _jpeg_of_size(65_500, 65_500),
    "JPEG of 7,000 x 7,000 in passes": lambda: saved("JPEG", (7000, 7000), progressive=True),
    "JPEG cut": lambda: saved("JPEG", (400, 400), quality=95)[:400],
    "JPEG of nothing": lambda: b"\xff\xd8\xff\xd9",
    "SVG that laughs": _laughing,
    "SVG with a file of ours": lambda: SVG % b"<image href='file:///etc/passwd'/>",
    "PDF": lambda: saved("PDF"),
    "EPS": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/x) (w) file\n%%EOF",
    "ICO": lambda: saved("ICO", (16, 16)),
    "PPM": lambda: b"P6 50000 50000 255\n" + bytes(100),
    "DDS": lambda: saved("DDS", (8, 8)),
    "TGA": lambda: saved("TGA"),
}
