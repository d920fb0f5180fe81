"""Hostile variants of a good adapter file."""

import json
import pickle
import struct
from collections.abc import Callable
from typing import Any

Change = Callable[[dict[str, Any], bytearray], None]


def file_of(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


def changed(good: bytes, change: Change) -> bytes:
    """Returns the file with a changed header or changed values."""
    (length,) = struct.unpack("<Q", good[:8])
    header, data = json.loads(good[8 : 8 + length]), bytearray(good[8 + length :])
    change(header, data)
    return file_of(json.dumps(header).encode(), bytes(data))


def _first(header: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = next(value for name, value in header.items() if name != "__metadata__")
    return entry


def _of_first(**values: Any) -> Change:
    return lambda header, _: _first(header).update(values)


def _manifest(**values: Any) -> Change:
    def change(header: dict[str, Any], _: bytearray) -> None:
        manifest = json.loads(header["__metadata__"]["manifest"]) | values
        header["__metadata__"]["manifest"] = json.dumps(manifest)

    return change


def _value(pattern: bytes) -> Change:
    def change(_: dict[str, Any], data: bytearray) -> None:
        data[:4] = pattern

    return change


def _overlap(header: dict[str, Any], _: bytearray) -> None:
    names = [name for name in header if name != "__metadata__"]
    header[names[1]]["data_offsets"] = header[names[0]]["data_offsets"]


def _extra(header: dict[str, Any], data: bytearray) -> None:
    header["stranger"] = {"dtype": "F32", "shape": [1], "data_offsets": [len(data), len(data) + 4]}
    data += bytes(4)


def _without_one(header: dict[str, Any], _: bytearray) -> None:
    del header[[name for name in header if name != "__metadata__"][-1]]


def _many(good: bytes) -> bytes:
    def change(header: dict[str, Any], data: bytearray) -> None:
        for number in range(10_000):
            header[f"t{number}"] = {"dtype": "F32", "shape": [0], "data_offsets": [len(data)] * 2}

    return changed(good, change)


def _twice(good: bytes) -> bytes:
    (length,) = struct.unpack("<Q", good[:8])
    header = good[8 : 8 + length].rstrip()
    metadata = json.dumps(json.loads(header)["__metadata__"]).encode()
    return file_of(header[:-1] + b',"__metadata__":' + metadata + b"}", good[8 + length :])


def _large(good: bytes) -> bytes:
    def change(header: dict[str, Any], data: bytearray) -> None:
        size = 30 * 2**20
        header["stranger"] = {"dtype": "F32", "shape": [size // 4], "data_offsets": [len(data), len(data) + size]}
        data += bytes(size)

    return changed(good, change)


ADAPTERS: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda good: b"",
    "a header of 2^63 bytes": lambda good: struct.pack("<Q", 2**63) + b"{}",
    "a header of 100 MB that is not there": lambda good: struct.pack("<Q", 10**8) + b"{" + bytes(1000),
    "a header that is not JSON": lambda good: file_of(b"{'a': 1}"),
    "a header of 100,000 brackets": lambda good: file_of(b"[" * 100_000 + b"]" * 100_000),
    "a number of 100,000 digits": lambda good: file_of(b'{"a": ' + b"9" * 100_000 + b"}"),
    "a key twice": _twice,
    "tensors in one another": lambda good: changed(good, _overlap),
    "offsets behind the end": lambda good: changed(good, _of_first(data_offsets=[2**40, 2**41])),
    "offsets that go back": lambda good: changed(good, _of_first(data_offsets=[100, 0])),
    "offsets below zero": lambda good: changed(good, _of_first(data_offsets=[-8, 0])),
    "a shape of 2^64 values": lambda good: changed(good, _of_first(shape=[2**32, 2**32])),
    "a shape of 10,000 dimensions": lambda good: changed(good, _of_first(shape=[1] * 10_000)),
    "half precision": lambda good: changed(good, _of_first(dtype="F16")),
    "an unknown type": lambda good: changed(good, _of_first(dtype="OBJECT")),
    "not a number": lambda good: changed(good, _value(b"\x00\x00\xc0\x7f")),
    "infinity": lambda good: changed(good, _value(b"\x00\x00\x80\x7f")),
    "another shape": lambda good: changed(
        good, lambda header, _: _first(header).update(shape=[1, *_first(header)["shape"]])
    ),
    "a tensor too many": lambda good: changed(good, _extra),
    "a tensor of 30 MB too many": _large,
    "a tensor too few": lambda good: changed(good, _without_one),
    "10,000 tensors": _many,
    "another base": lambda good: changed(good, _manifest(base_digest="0" * 64)),
    "no manifest": lambda good: changed(good, lambda header, _: header.pop("__metadata__")),
    "an unknown method": lambda good: changed(good, _manifest(method="../../full")),
    "a million classes": lambda good: changed(good, _manifest(class_names=["a"] * 1_000_000)),
    "cut": lambda good: good[: len(good) // 2],
    "bytes behind the end": lambda good: good + bytes(100),
    "a pickle": lambda good: pickle.dumps({"weights": [1.0] * 100}),
}
