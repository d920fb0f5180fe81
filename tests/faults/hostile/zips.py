"""Hostile zips: false headers, decompression bombs, paths outside, and files that are no zips. Where possible, each has
two good images, so that only its hostile part may be refused."""

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from PIL import Image

CANARY = "difffit-hostile-canary"
"""Part of every name that points outside; no file with this name may appear."""
_LOCAL, _CENTRAL, _END = struct.Struct("<4s5H3I2H"), struct.Struct("<4s6H3I5H2I"), struct.Struct("<4s4H2IH")


def picture(colour: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (colour % 256, colour // 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass
class Entry:
    """Zip member written by hand; its two headers may be false and may differ."""

    name: bytes
    data: bytes = b""
    packed: bytes | None = None
    """Compressed bytes; `data` itself when left out."""
    method: int = 0
    flags: int = 0
    mode: int = 0
    size: int | None = None
    crc: int | None = None
    extra: bytes = b""
    comment: bytes = b""
    offset: int | None = None
    local: dict[str, int | bytes] = field(default_factory=dict)
    """Fields of the local header that differ from the central header."""

    def headers(self, offset: int) -> tuple[bytes, bytes]:
        """Returns (local header and data, central header)."""
        packed = self.data if self.packed is None else self.packed
        crc = zlib.crc32(self.data) if self.crc is None else self.crc
        size = len(self.data) if self.size is None else self.size
        name, method = bytes(self.local.get("name", self.name)), int(self.local.get("method", self.method))  # type: ignore[arg-type]
        local = _LOCAL.pack(b"PK\3\4", 20, self.flags, method, 0, 33, crc, len(packed), size, len(name), 0)
        lengths = len(self.name), len(self.extra), len(self.comment)
        mode, at = self.mode << 16, offset if self.offset is None else self.offset
        central = _CENTRAL.pack(
            b"PK\1\2", 0x314, 20, self.flags, self.method, 0, 33, crc, len(packed), size, *lengths, 0, 0, mode, at
        )
        return local + name + packed, central + self.name + self.extra + self.comment


GOOD = [Entry(b"cat/1.png", picture(1)), Entry(b"cat/2.png", picture(2))]


def zip_of(*entries: Entry, good: bool = True, **end: int) -> bytes:
    body, index = bytearray(), bytearray()
    members = [*(GOOD if good else []), *entries]
    for entry in members:
        local, central = entry.headers(len(body))
        if entry.offset is None:
            body += local
        index += central
    count = end.get("count", len(members)) & 0xFFFF
    tail = _END.pack(b"PK\5\6", 0, 0, count, count, end.get("size", len(index)), end.get("offset", len(body)), 0)
    return bytes(body + index) + tail


def deflated(name: bytes, data: bytes, **changes: object) -> Entry:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(data) + packer.flush()
    return Entry(name, data, packed, method=8, **changes)  # type: ignore[arg-type]


def swollen(size: int) -> bytes:
    """Returns a PNG signature followed by zeros."""
    return b"\x89PNG\r\n\x1a\n" + bytes(size)


def _zip64(size: int, offset: int, disk: int = 0, disks: int = 1, at: int | None = None) -> bytes:
    """Returns a good zip with a zip64 end record that has these values."""
    plain = zip_of()
    body = plain[: -_END.size]
    end = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, disk, 2, 2, size, offset)
    locator = struct.pack("<4sIQI", b"PK\6\7", disk, len(body) if at is None else at, disks)
    return body + end + locator + _END.pack(b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 0)


def _index_alone(entries: int, name: bytes = b"", extra: bytes = b"", comment: bytes = b"") -> bytes:
    """Returns an index without data; all of its entries name the same offset."""
    local, _ = Entry(b"a/b", b"x").headers(0)
    _, central = Entry(name or b"a/b", b"x", extra=extra, comment=comment, offset=0).headers(0)
    index = central * entries
    return local + index + _END.pack(b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, len(index), len(local), 0)


def _compressed_with(method: int) -> bytes:
    buffer = io.BytesIO(zip_of())
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("cat/bomb.png", swollen(2**27), method)
    return buffer.getvalue()


def _nested(depth: int) -> bytes:
    data = swollen(2**24)
    for _ in range(depth):
        data = zip_of(*(deflated(b"cat/%d.png" % number, data) for number in range(8)), good=False)
    return zip_of(deflated(b"cat/nested.png", data))


def _inside() -> bytes:
    """Returns a zip with a member inside the bytes of another one."""
    inner, _ = Entry(b"cat/inner.png", picture(3)).headers(0)
    outer = Entry(b"cat/outer.png", picture(4) + inner)
    start = sum(len(entry.headers(0)[0]) for entry in GOOD) + _LOCAL.size + len(outer.name) + len(picture(4))
    return zip_of(outer, Entry(b"cat/inner.png", picture(3), offset=start))


def _kernel(members: int) -> bytes:
    """Returns a zip whose members all share the same bytes."""
    kernel = deflated(b"cat/0.png", swollen(2**24))
    crc = zlib.crc32(kernel.data)
    copies = (replace(kernel, name=b"cat/%d.png" % number, crc=crc, offset=0) for number in range(1, members))
    return zip_of(kernel, *copies, good=False)


def _wild(method: int = 0, flags: int = 0, **changes: object) -> bytes:
    return zip_of(Entry(b"cat/wild.png", picture(5), method=method, flags=flags, **changes))  # type: ignore[arg-type]


def _named(name: bytes, **changes: object) -> bytes:
    return zip_of(Entry(name, picture(6), **changes))  # type: ignore[arg-type]


ZIPS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"this is no zip" * 100,
    "an end alone": lambda: zip_of(good=False),
    "gzip": lambda: b"\x1f\x8b" + zlib.compress(bytes(1000)),
    "cut in half": lambda: zip_of(*GOOD)[: len(zip_of(*GOOD)) // 2],
    "cut end": lambda: zip_of()[:-5],
    "index behind the end": lambda: zip_of(offset=2**31),
    "index larger than the file": lambda: zip_of(size=2**31),
    "index cut": lambda: zip_of(size=50),
    "count without an index": lambda: zip_of(good=False, count=0xFFFF),
    "zip64 size of 2^63": lambda: _zip64(2**63, 0),
    "zip64 index at 2^64": lambda: _zip64(92, 2**64 - 1),
    "zip64 end elsewhere": lambda: _zip64(92, 0, at=2**63),
    "many disks": lambda: _zip64(92, 0, disk=3, disks=7),
    "zip64 member at 2^64": lambda: zip_of(
        Entry(b"cat/far.png", picture(3), extra=struct.pack("<2HQ", 1, 8, 2**64 - 1), offset=2**32 - 1)
    ),
    "a million entries": lambda: _index_alone(1_000_000),
    "folders without end": lambda: _index_alone(200_000, b"a/"),
    "names of 60 kB": lambda: _index_alone(400, b"a/" + b"n" * 60_000),
    "extra fields of 60 kB": lambda: _index_alone(400, extra=struct.pack("<2H", 0xCAFE, 59_996) + bytes(59_996)),
    "comments of 60 kB": lambda: _index_alone(400, comment=bytes(60_000)),
    "20,001 files": lambda: zip_of(*(Entry(b"cat/%d.png" % number) for number in range(20_001))),
    "1,001 classes": lambda: zip_of(*(Entry(b"%d/a.png" % number) for number in range(1_001))),
    "a quarter gigabyte of nothing": lambda: zip_of(deflated(b"cat/bomb.png", swollen(2**28))),
    "200 files that swell": lambda: _many_that_swell(200, 2**25 - 100),
    "nested zips": lambda: _nested(3),
    "one kernel for all": lambda: _kernel(1000),
    "one file in another": _inside,
    "smaller than it says": lambda: zip_of(deflated(b"cat/x.png", picture(3), size=2**31)),
    "larger than it says": lambda: zip_of(deflated(b"cat/x.png", swollen(2**26), size=10)),
    "claims beyond every limit": lambda: zip_of(*(_claiming(number) for number in range(3))),
    "two names for one file": lambda: zip_of(Entry(b"cat/a.png", picture(3), local={"name": b"../../a.png"})),
    "two methods for one file": lambda: zip_of(Entry(b"cat/a.png", picture(3), method=8, local={"method": 0})),
    "wrong checksum": lambda: _wild(crc=1),
    "garbage in its stream": lambda: _wild(packed=b"\xff" * 500, method=8),
    "an unknown method": lambda: _wild(method=97),
    "deflate64": lambda: _wild(method=9),
    "bzip2": lambda: _compressed_with(zipfile.ZIP_BZIP2),
    "lzma": lambda: _compressed_with(zipfile.ZIP_LZMA),
    "encrypted": lambda: _wild(flags=1),
    "strongly encrypted": lambda: _wild(flags=0x41, method=99),
    "patched data": lambda: _wild(flags=0x20),
    "an absolute path": lambda: _named(f"/tmp/{CANARY}.png".encode()),
    "a way up": lambda: _named(f"{'../' * 12}tmp/{CANARY}.png".encode()),
    "a way up in a class": lambda: _named(f"cat/../../{CANARY}.png".encode()),
    "a way up for Windows": lambda: _named(f"..\\..\\{CANARY}.png".encode()),
    "a drive": lambda: _named(f"C:/cat/{CANARY}.png".encode()),
    "a link": lambda: zip_of(Entry(b"cat/link.png", b"/etc/passwd", mode=stat.S_IFLNK | 0o777)),
    "a device": lambda: _named(b"cat/null.png", mode=stat.S_IFCHR | 0o666),
    "a pipe": lambda: _named(b"cat/pipe.png", mode=stat.S_IFIFO | 0o666),
    "one name twice": lambda: zip_of(Entry(b"cat/1.png", picture(9))),
    "NUL in a name": lambda: _named(b"cat/a.png\0.exe"),
    "a name that is not UTF-8": lambda: _named(b"cat/\xff\xfe.png", flags=0x800),
    "a class written backwards": lambda: _named("\u202egnp/a.png".encode(), flags=0x800),
    "a class of control characters": lambda: _named(b"\x1b[2J/a.png"),
    "a class of 200 letters": lambda: _named(b"c" * 200 + b"/a.png"),
    "a thousand folders deep": lambda: _named(b"a/" * 1000 + b"a.png"),
}


def _many_that_swell(members: int, size: int) -> bytes:
    entry = deflated(b"", swollen(size))
    assert entry.packed is not None
    crc = zlib.crc32(entry.data)
    return zip_of(*(Entry(b"cat/%d.png" % n, b"", entry.packed, 8, size=size + 8, crc=crc) for n in range(members)))


def _claiming(number: int) -> Entry:
    return deflated(b"cat/%d.png" % (10 + number), picture(10 + number), size=2**31)
