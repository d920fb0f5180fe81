"""Adapter files: written ones are deterministic and complete; invalid ones are rejected with a sentence."""

import json
import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.artifact.additions import Lora, Prompts
from core.artifact.base import BaseConfig, BaseDescription
from core.artifact.errors import ArtifactInvalid, BaseMismatch
from core.artifact.file import Array, Artifact, check_against, check_fits, decode, encode
from core.artifact.manifest import Manifest
from core.artifact.sites import PRESETS, SITES, Method, trainable_shapes

CONFIG = BaseConfig(input_size=4, hidden_size=8, depth=2, num_heads=2, num_classes=3)
BASE = BaseDescription(name="small", digest="d1", config=CONFIG, image_size=32, licence="Apache-2.0", parameters=1)
MANIFEST = Manifest(
    method="difffit",
    preset="paper",
    sites=PRESETS["paper"],
    class_names=("crème brûlée", "寿司"),
    base_name=BASE.name,
    base_digest=BASE.digest,
    base_licence=BASE.licence,
    dataset_digest="d2",
    training={"steps": 100, "learning_rate": 1e-3, "gradient_clip": None, "sampling": "shuffled"},
)


def tensors(method: Method = "difffit") -> dict[str, Array]:
    generator = np.random.default_rng(0)
    shapes = trainable_shapes(CONFIG, method, PRESETS["paper"], len(MANIFEST.class_names))
    return {name: generator.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def artifact(changes: dict[str, Any], arrays: dict[str, Array] | None = None) -> Artifact:
    return decode(encode(replace(MANIFEST, **changes), tensors() if arrays is None else arrays))


def test_file_returns_the_stored_manifest_and_tensors() -> None:
    arrays = tensors()
    stored = decode(encode(MANIFEST, arrays))
    assert stored.manifest == MANIFEST
    assert stored.tensors.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(stored.tensors[name], array)
        assert stored.tensors[name].dtype == np.float32
    check_against(stored, BASE)


def test_image_size_must_be_the_bases_or_twice_that() -> None:
    assert b"image_size" not in encode(MANIFEST, tensors())
    large = artifact({"image_size": 64})
    assert large.manifest.image_size == 64
    check_against(large, BASE)
    with pytest.raises(
        ArtifactInvalid, match="The adapter is for images of 48 pixels, but the base supports image sizes of 32 and 64"
    ):
        check_against(artifact({"image_size": 48}), BASE)


@pytest.mark.parametrize("size", [0, -64, 2**16, 64.0, True, "64"])
def test_invalid_image_sizes_are_rejected(size: Any) -> None:
    with pytest.raises(ArtifactInvalid, match="image_size is not a number of pixels"):
        artifact({"image_size": size})


def test_equal_input_gives_equal_bytes() -> None:
    first, second = tensors(), dict(reversed(tensors().items()))
    shuffled = replace(MANIFEST, training=dict(reversed(MANIFEST.training.items())))
    assert encode(MANIFEST, first) == encode(shuffled, second)


def test_strided_arrays_are_stored_by_value() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    stored = decode(encode(MANIFEST, {"a": array.T}))
    np.testing.assert_array_equal(stored.tensors["a"], array.T)


def test_digest_depends_on_the_manifest() -> None:
    data = encode(MANIFEST, tensors())
    stored = decode(data)
    assert stored.size == len(data)
    assert stored.sha256 != decode(encode(replace(MANIFEST, dataset_digest="d3"), tensors())).sha256


def test_adapter_of_another_base_is_rejected() -> None:
    with pytest.raises(BaseMismatch, match="trained on the base d9"):
        check_against(artifact({"base_digest": "d9"}), BASE)


def test_full_fine_tune_cannot_be_served() -> None:
    whole = artifact({"method": "full"}, tensors("full"))
    check_fits(whole, BASE)
    with pytest.raises(ArtifactInvalid, match=r"'full' cannot be served: .* for the methods difffit and bitfit"):
        check_against(whole, BASE)


def test_tensors_of_another_method_are_rejected() -> None:
    with pytest.raises(ArtifactInvalid, match=r"'blocks.0.attn.query.down.weight' is missing"):
        check_fits(artifact({"method": "lora", "sites": Lora(rank=2)}), BASE)
    with pytest.raises(ArtifactInvalid, match="sites do not match the base: 5 blocks with prompts, but the depth is 2"):
        check_fits(artifact({"method": "vpt", "sites": Prompts()}), BASE)


def test_missing_extra_and_misshaped_tensors_are_named() -> None:
    arrays = tensors()
    del arrays["blocks.0.attn.factor"]
    arrays["blocks.9.attn.factor"] = np.ones(8, np.float32)
    arrays["blocks.1.norm2.weight"] = np.ones((8, 1), np.float32)
    with pytest.raises(ArtifactInvalid) as error:
        check_against(artifact({}, arrays), BASE)
    assert "'blocks.0.attn.factor' is missing" in error.value.detail
    assert "'blocks.9.attn.factor' is not expected" in error.value.detail
    assert "'blocks.1.norm2.weight' is [8, 1], not [8]" in error.value.detail


def test_sites_outside_the_base_are_rejected() -> None:
    sites = replace(PRESETS["paper"], last_block=99)
    with pytest.raises(ArtifactInvalid, match="not within the depth of 2"):
        check_against(artifact({"sites": sites}), BASE)


def test_number_of_class_names_must_match_the_table() -> None:
    with pytest.raises(ArtifactInvalid, match=r"y_embedder.embedding_table.weight' is \[3, 8\], not \[4, 8\]"):
        check_against(artifact({"class_names": ("a", "b", "c")}), BASE)


# Files that `encode` would not write


def file(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def manifest_json(**changes: Any) -> str:
    return json.dumps({**MANIFEST.to_json(), **changes})


def one_tensor(entry: Any, data: bytes = bytes(8), manifest: str | None = None, name: str = "a") -> bytes:
    return file({"__metadata__": {"manifest": manifest or manifest_json()}, name: entry}, data)


def two_tensors(first: list[int], second: list[int]) -> bytes:
    entries = {"a": floats([2], *first), "b": floats([2], *second)}
    return file({"__metadata__": {"manifest": manifest_json()}, **entries}, bytes(16))


def floats(shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


GOOD = floats([2], 0, 8)
DEEP = "[" * 100_000

HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "seven bytes": b"1234567",
    "no header": struct.pack("<Q", 0),
    "header of 2**63 bytes": file(b"{}", length=2**63),
    "header longer than the file": file(b"{}", length=100),
    "header over a megabyte": file(b"{" + b" " * 2**20 + b"}"),
    "header is not UTF-8": file(b"\xff\xfe{}"),
    "header is not JSON": file(b"{" * 10),
    "header is a list": file([1, 2]),
    "header is deep": file(DEEP.encode()),
    "duplicate keys": file(b'{"__metadata__":{"manifest":"x"},"__metadata__":{"manifest":"y"}}'),
    "pickle": b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
    "zip": b"PK\x03\x04" + bytes(64),
    "no metadata": file({"a": GOOD}, bytes(8)),
    "metadata is text": file({"__metadata__": "manifest", "a": GOOD}, bytes(8)),
    "more metadata": file({"__metadata__": {"manifest": manifest_json(), "x": "y"}, "a": GOOD}, bytes(8)),
    "manifest is an object": file({"__metadata__": {"manifest": {}}, "a": GOOD}, bytes(8)),
    "bf16": one_tensor({**GOOD, "dtype": "BF16", "shape": [4]}),
    "whole numbers": one_tensor({**GOOD, "dtype": "I32"}),
    "unknown type": one_tensor({**GOOD, "dtype": "F999"}),
    "entry is a list": one_tensor([1, 2]),
    "entry without a shape": one_tensor({"dtype": "F32", "data_offsets": [0, 8]}),
    "negative shape": one_tensor({**GOOD, "shape": [-2]}),
    "shape is text": one_tensor({**GOOD, "shape": "2"}),
    "shape overflows": one_tensor({**GOOD, "shape": [2**62, 4]}),
    "shape is larger than the data": one_tensor({**GOOD, "shape": [2**20]}),
    "a hundred dimensions": one_tensor({**GOOD, "shape": [1] * 100 + [2]}),
    "vast empty shape": one_tensor({"dtype": "F32", "shape": [2**63, 0], "data_offsets": [0, 0]}, b""),
    "vaster empty shape": one_tensor({"dtype": "F32", "shape": [2**64 - 1, 0], "data_offsets": [0, 0]}, b""),
    "offsets behind the end": one_tensor(floats([2], 8, 16)),
    "offsets reversed": one_tensor(floats([2], 8, 0)),
    "offsets overlap": two_tensors([0, 8], [4, 12]),
    "offsets leave a hole": two_tensors([0, 8], [12, 20]),
    "bytes behind the tensors": one_tensor(GOOD, bytes(16)),
    "NaN": one_tensor(GOOD, struct.pack("<ff", float("nan"), 1)),
    "infinity": one_tensor(GOOD, struct.pack("<ff", 1, float("inf"))),
    "name with half a surrogate": one_tensor(GOOD, name="\ud800"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_rejected_with_a_sentence(name: str) -> None:
    with pytest.raises(ArtifactInvalid) as error:
        decode(HOSTILE[name])
    assert error.value.detail.endswith(".")


MANIFESTS: dict[str, str] = {
    "not JSON": "{",
    "deep": DEEP,
    "a list": "[]",
    "null": "null",
    "empty": "{}",
    "duplicate keys": manifest_json()[:-1] + ', "method": "bitfit"}',
    "extra field": manifest_json(id="adp_1"),
    "newer format": manifest_json(format_version=2),
    "format is true": manifest_json(format_version=True),
    "format is a fraction": manifest_json(format_version=1.0),
    "unknown method": manifest_json(method="dreambooth"),
    "another method's sites": manifest_json(method="lora"),
    "method is a list": manifest_json(method=["difffit"]),
    "preset is a number": manifest_json(preset=3),
    "digest is a number": manifest_json(base_digest=1),
    "digest is null": manifest_json(base_digest=None),
    "licence is very long": manifest_json(base_licence="x" * 10_000),
    "no classes": manifest_json(class_names=[]),
    "classes are text": manifest_json(class_names="ab"),
    "class is a number": manifest_json(class_names=["a", 1]),
    "class without a name": manifest_json(class_names=["a", ""]),
    "class twice": manifest_json(class_names=["a", "a"]),
    "class with a control character": manifest_json(class_names=["a", "b\x00"]),
    "class with half a surrogate": manifest_json(class_names=["a", "\ud800"]),
    "sites are null": manifest_json(sites=None),
    "sites lack a field": manifest_json(sites={"branches": True}),
    "site is a number": manifest_json(sites={**MANIFEST.sites.to_json(), "qkv": 1}),
    "block is true": manifest_json(sites={**MANIFEST.sites.to_json(), "first_block": True}),
    "block is a fraction": manifest_json(sites={**MANIFEST.sites.to_json(), "last_block": 1.5}),
    "training is a list": manifest_json(training=[]),
    "training is nested": manifest_json(training={"a": {"b": 1}}),
    "training holds NaN": manifest_json(training={"a": float("nan")}),
    "training holds infinity": manifest_json(training={"a": 1}).replace('"a": 1', '"a": 1e999'),
    "training holds a vast number": manifest_json(training={"a": 10**4000}),
    "training holds a number too long to read": manifest_json(training={"a": 1}).replace(
        '"a": 1', f'"a": {"9" * 9999}'
    ),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_hostile_manifests_are_rejected_with_a_sentence(name: str) -> None:
    with pytest.raises(ArtifactInvalid, match=r"manifest cannot be used: .*\.$"):
        decode(one_tensor(GOOD, manifest=MANIFESTS[name]))


def test_frame_of_the_hostile_files_is_valid() -> None:
    assert decode(one_tensor(GOOD)).manifest == MANIFEST
    assert set(decode(two_tensors([0, 8], [8, 16])).tensors) == {"a", "b"}


def test_file_over_the_limit_is_rejected() -> None:
    with pytest.raises(ArtifactInvalid, match="larger than 100 bytes"):
        decode(encode(MANIFEST, tensors()), limit_bytes=100)


SMALL = encode(MANIFEST, {"a": np.ones(3, np.float32)})


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_raise_no_other_error(changes: list[tuple[int, int]]) -> None:
    data = bytearray(SMALL)
    for index, value in changes:
        data[index] = value
    _decodes_or_is_refused(bytes(data))


@settings(max_examples=300, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=6,
    ),
    st.sampled_from(list(SITES)),
    st.data(),
)
def test_any_value_in_any_field_raises_no_other_error(value: Any, method: Method, data: st.DataObject) -> None:
    fields = MANIFEST.to_json() | {"method": method, "sites": SITES[method]().to_json()}
    field = data.draw(st.sampled_from([*fields, *fields["sites"]]))
    (fields if field in fields else fields["sites"])[field] = value
    _decodes_or_is_refused(one_tensor(GOOD, manifest=json.dumps(fields)))


def _decodes_or_is_refused(data: bytes) -> None:
    try:
        check_fits(decode(data), BASE)
    except (ArtifactInvalid, BaseMismatch):
        return
    raise AssertionError("an incomplete file was accepted")
