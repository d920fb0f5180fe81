"""Mutated files: bytes changed in the fields of each format, with correct checksums and lengths."""

import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from random import Random

SEEDS = Path(__file__).parent / "seeds"
_NUMBERS = (0, 1, 2, 3, 5, 6, 8, 16, 127, 128, 255, 256, 4095, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1)
_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"iCCP", b"eXIf", b"gAMA", b"cHRM", b"sBIT", b"acTL", b"fcTL", b"iTXt", b"IDAT")
Pieces = list[bytes]


def seeds() -> dict[str, bytes]:
    """Returns the kept files by name."""
    return {path.name: path.read_bytes() for path in sorted(SEEDS.iterdir())}


def mutant(random: Random, kept: dict[str, bytes]) -> tuple[str, bytes]:
    """Returns (name, bytes) of a kept file that was changed in one to four places."""
    name = random.choice(sorted(kept))
    data = kept[name]
    for _ in range(random.choice((1, 1, 2, 3, 4))):
        data = _structured(random, data, kept) if random.random() < 0.7 else scrambled(random, data)
    return name, data


def scrambled(random: Random, data: bytes) -> bytes:
    """Changes bytes wherever they are."""
    if not data:
        return random.randbytes(random.randrange(20))
    changed, place = bytearray(data), random.randrange(len(data))
    match random.randrange(6):
        case 0:
            changed[place] ^= 1 << random.randrange(8)
        case 1:
            form = random.choice(("B", "<H", ">H", "<I", ">I"))
            number = struct.pack(form, random.choice(_NUMBERS) % 256 ** struct.calcsize(form))
            changed[place : place + len(number)] = number
        case 2:
            del changed[place : place + random.randrange(1, 40)]
        case 3:
            changed[place:place] = random.randbytes(random.randrange(1, 20))
        case 4:
            end = place + random.randrange(1, 60)
            changed[end:end] = changed[place:end]
        case _:
            del changed[place:]
    return bytes(changed)


def _structured(random: Random, data: bytes, kept: dict[str, bytes]) -> bytes:
    for start, change in _FORMATS:
        if data.startswith(start):
            try:
                return change(random, data, kept)
            except (struct.error, IndexError, ValueError, zlib.error, zipfile.BadZipFile):
                break
    return scrambled(random, data)


def _shuffled(random: Random, pieces: Pieces, change: Callable[[bytes], bytes]) -> Pieces:
    """Changes, drops, repeats or swaps one piece."""
    place = random.randrange(len(pieces))
    match random.randrange(8):
        case 0:
            del pieces[place]
        case 1:
            pieces.insert(place, random.choice(pieces))
        case 2:
            other = random.randrange(len(pieces))
            pieces[place], pieces[other] = pieces[other], pieces[place]
        case _:
            pieces[place] = change(pieces[place])
    return pieces


def _block(random: Random, kept: dict[str, bytes], suffix: str) -> bytes:
    """Returns a kept block of metadata, often broken."""
    data = random.choice([block for name, block in kept.items() if name.endswith(suffix)])
    changed = _ifd(random, data) if suffix == ".exif" else _profile(random, data)
    return random.choice((data, changed, changed, scrambled(random, changed)))


def _png(random: Random, data: bytes, kept: dict[str, bytes]) -> bytes:
    pieces, place = [], 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        pieces.append(data[place + 4 : place + 8 + length])
        place += 12 + length
    if random.random() < 0.3:
        exif, profile = _block(random, kept, ".exif"), _block(random, kept, ".icc")
        added = [
            b"eXIf" + exif,
            b"iCCPp\0\0" + zlib.compress(profile),
            b"tRNS" + random.randbytes(random.choice((2, 6))),
        ]
        pieces.insert(random.randrange(1, len(pieces)), random.choice(added))
    else:
        pieces = _shuffled(random, pieces, lambda piece: _png_chunk(random, piece))
    chunks = (struct.pack(">I", len(piece) - 4) + piece + struct.pack(">I", zlib.crc32(piece)) for piece in pieces)
    return data[:8] + b"".join(chunks)


def _png_chunk(random: Random, piece: bytes) -> bytes:
    kind, content = piece[:4], piece[4:]
    if kind == b"IDAT" and random.random() < 0.7:
        return kind + zlib.compress(scrambled(random, zlib.decompress(content)))
    if kind == b"IHDR":
        fields = list(struct.unpack(">2I5B", content))
        place = random.randrange(7)
        values = (1, 7, 8, 64, 2000, 2**31 - 1) if place < 2 else (0, 1, 2, 3, 4, 6, 8, 16)
        fields[place] = random.choice(values)
        return kind + struct.pack(">2I5B", *fields)
    if random.random() < 0.1:
        kind = random.choice(_CHUNKS)
    return kind + scrambled(random, content)


def _jpeg(random: Random, data: bytes, kept: dict[str, bytes]) -> bytes:
    pieces, place = [], 2
    while data[place] == 0xFF and data[place + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", data, place + 2)
        pieces.append(data[place + 1 : place + 2] + data[place + 4 : place + 2 + length])
        place += 2 + length
    scan = data[place:]
    choice = random.random()
    if choice < 0.2:
        scan = scan[:12] + scrambled(random, scan[12:])
    elif choice < 0.4:
        exif, profile = _block(random, kept, ".exif"), _block(random, kept, ".icc")
        pieces.insert(
            0, random.choice((b"\xe1Exif\0\0" + exif, b"\xe2ICC_PROFILE\0\1\1" + profile, b"\xeeAdobe\0d\0\0\0\0\2"))
        )
    else:
        pieces = _shuffled(random, pieces, lambda piece: piece[:1] + scrambled(random, piece[1:]))
    segments = (b"\xff" + piece[:1] + struct.pack(">H", len(piece[1:60_000]) + 2) + piece[1:60_000] for piece in pieces)
    return data[:2] + b"".join(segments) + scan


def _tiff(random: Random, data: bytes, _kept: dict[str, bytes]) -> bytes:
    return _ifd(random, data)


def _ifd(random: Random, data: bytes) -> bytes:
    """Changes a tag of the first directory of a TIFF, or of EXIF."""
    order = "<" if data[:2] == b"II" else ">"
    changed = bytearray(data)
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    place = start + 2 + 12 * random.randrange(max(count, 1))
    match random.randrange(5):
        case 0:
            struct.pack_into(
                order + "H", changed, place, random.choice((254, 256, 258, 259, 262, 274, 277, 339, 34665, 34853))
            )
        case 1:
            struct.pack_into(order + "H", changed, place + 2, random.randrange(14))
        case 2:
            struct.pack_into(order + "I", changed, place + 4, random.choice(_NUMBERS))
        case 3:
            struct.pack_into(order + "I", changed, place + 8, random.choice((*_NUMBERS, random.randrange(len(data)))))
        case _:
            struct.pack_into(order + "H", changed, place + 8, random.randrange(12))
    return bytes(changed)


def _profile(random: Random, data: bytes) -> bytes:
    """Changes a field of a profile's header, or an entry of its table."""
    changed = bytearray(data)
    (count,) = struct.unpack_from(">I", data, 128)
    if random.random() < 0.3:
        place = random.choice((0, 8, 12, 16, 20, 36, 64, 128))
        changed[place : place + 4] = random.choice(
            (b"RGB ", b"GRAY", b"CMYK", b"Lab ", b"XYZ ", b"mntr", b"link", b"\xff\xff\xff\xff")
        )
    else:
        place = 132 + 12 * random.randrange(count) + random.choice((0, 4, 8))
        struct.pack_into(">I", changed, place, random.choice((*_NUMBERS, random.randrange(len(data)))))
    return bytes(changed)


def _riff(random: Random, data: bytes, kept: dict[str, bytes]) -> bytes:
    pieces, place = [], 12
    while place + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, place + 4)
        pieces.append(data[place : place + 4] + data[place + 8 : place + 8 + length])
        place += 8 + length + length % 2
    if random.random() < 0.2:
        pieces.append(random.choice((b"EXIF" + _block(random, kept, ".exif"), b"ICCP" + _block(random, kept, ".icc"))))
    else:
        pieces = _shuffled(random, pieces, lambda piece: piece[:4] + scrambled(random, piece[4:]))
    chunks = (piece[:4] + struct.pack("<I", len(piece) - 4) + piece[4:] + b"\0" * (len(piece) % 2) for piece in pieces)
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _header(size: int) -> Callable[[Random, bytes, dict[str, bytes]], bytes]:
    """Changes the beginning, where a format without checksums has its fields."""
    return lambda random, data, _: scrambled(random, data[:size]) + data[size:]


def _zip(random: Random, data: bytes, _kept: dict[str, bytes]) -> bytes:
    """Changes a field of a local header, of the index or of its end."""
    kinds: Sequence[tuple[bytes, int]] = ((b"PK\3\4", 30), (b"PK\1\2", 46), (b"PK\5\6", 22))
    mark, size = random.choice(kinds)
    places = [place for place in range(len(data)) if data.startswith(mark, place)]
    start = random.choice(places)
    changed = bytearray(data)
    if random.random() < 0.4:  # the name, which may be that of a folder
        end = start + size + random.randrange(1, 24)
        changed[start + size : end] = scrambled(random, data[start + size : end])
        return bytes(changed)
    place = start + random.randrange(4, size - 1, 2)
    struct.pack_into("<H", changed, place, random.choice(_NUMBERS) & 0xFFFF)
    return bytes(changed)


def zip_of(files: dict[str, bytes]) -> bytes:
    """Returns a zip with deflated entries."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


_FORMATS: list[tuple[bytes, Callable[[Random, bytes, dict[str, bytes]], bytes]]] = [
    (b"\x89PNG", _png),
    (b"\xff\xd8", _jpeg),
    (b"II*\0", _tiff),
    (b"MM\0*", _tiff),
    (b"RIFF", _riff),
    (b"BM", _header(54)),
    (b"GIF8", _header(40)),
    (b"PK", _zip),
]
