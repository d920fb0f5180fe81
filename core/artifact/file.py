"""Encodes and decodes the adapter file: safetensors in fp32, with the manifest as a JSON string in the metadata. Never
pickle.

Every part is checked as untrusted input, since tenants may upload adapter files.
"""

import hashlib
import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from core.artifact.additions import Shapes
from core.artifact.base import BaseDescription, canonical_json
from core.artifact.errors import ArtifactInvalid, BaseMismatch
from core.artifact.manifest import Manifest
from core.artifact.sites import METHODS, trainable_shapes

# The API imports this module when it starts, but numpy only when the first adapter is uploaded.
if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Array: TypeAlias = "npt.NDArray[np.float32]"
_HEADER_LIMIT = 2**20
DEFAULT_LIMIT = 64 * 2**20


@dataclass(frozen=True)
class Artifact:
    manifest: Manifest
    tensors: dict[str, Array]
    sha256: str
    size: int


def encode(manifest: Manifest, tensors: Mapping[str, Array]) -> bytes:
    """Returns the bytes of an adapter file with this manifest and these tensors. Equal input gives equal bytes."""
    import numpy as np
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(array, dtype="<f4") for name, array in sorted(tensors.items())}
    return save(arrays, metadata={"manifest": canonical_json(manifest.to_json()).decode()})


def size_without_manifest(shapes: Shapes) -> int:
    """Returns the size in bytes of an adapter file with tensors of these shapes, apart from its manifest."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    return 8 + len(json.dumps(header, separators=(",", ":"))) + end


def decode(data: bytes, limit_bytes: int = DEFAULT_LIMIT) -> Artifact:
    """Parses an adapter file into its manifest and tensors. Raises ArtifactInvalid, with a sentence for the user, if
    the bytes are not a valid adapter file."""
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load

    if len(data) > limit_bytes:
        raise ArtifactInvalid(f"The file is larger than {limit_bytes:,} bytes.")
    header = _header(data)
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or set(metadata) != {"manifest"} or not isinstance(metadata["manifest"], str):
        raise ArtifactInvalid("The file has no manifest. Upload an adapter that was downloaded from a DiffFit server.")
    if any(not isinstance(entry, dict) or entry.get("dtype") != "F32" for entry in header.values()):
        raise ArtifactInvalid("Every tensor of an adapter must be F32.")
    manifest = _manifest(metadata["manifest"])
    try:
        tensors = load(data)
    except (SafetensorError, ValueError) as error:  # numpy rejects some shapes that the format allows
        raise ArtifactInvalid(f"The file is not valid safetensors: {error}.") from error
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise ArtifactInvalid(f"The tensor '{name}' contains infinite or NaN values.")
    return Artifact(manifest, tensors, hashlib.sha256(data).hexdigest(), len(data))


def check_against(artifact: Artifact, base: BaseDescription) -> None:
    """Checks that the engine can serve an adapter on `base`. Raises ArtifactInvalid if adapters of its method cannot be
    served, and every error of `check_fits`."""
    method = artifact.manifest.method
    if method not in METHODS:
        raise ArtifactInvalid(
            f"Adapters of the method '{method}' cannot be served: images of many domains share in one batch, which "
            f"is possible for the methods {' and '.join(METHODS)}."
        )
    check_fits(artifact, base)


def check_fits(artifact: Artifact, base: BaseDescription) -> None:
    """Checks that an adapter belongs to `base`. Raises BaseMismatch if it was trained on another base, and
    ArtifactInvalid if its tensors do not have the names and shapes that its manifest implies."""
    manifest = artifact.manifest
    if manifest.base_digest != base.digest:
        raise BaseMismatch(manifest.base_digest, base.digest)
    try:
        base.scale_of(manifest.image_size)
    except ValueError as error:
        raise ArtifactInvalid(f"The adapter is for images of {manifest.image_size} pixels, but {error}.") from error
    try:
        expected = trainable_shapes(
            base.config,
            manifest.method,
            manifest.sites,
            len(manifest.class_names),
            guidance=manifest.learned_guidance is not None,
        )
    except ValueError as error:
        raise ArtifactInvalid(f"The sites do not match the base: {error}.") from error
    shapes = {name: array.shape for name, array in artifact.tensors.items()}
    problems = [
        *(f"'{name}' is missing" for name in expected if name not in shapes),
        *(f"'{name}' is not expected" for name in shapes if name not in expected),
        *(
            f"'{name}' is {list(shapes[name])}, not {list(shape)}"
            for name, shape in expected.items()
            if name in shapes and shapes[name] != shape
        ),
    ]
    if problems:
        more = f", and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ArtifactInvalid(f"The tensors do not match the base: {', '.join(problems[:10])}{more}.")


def _header(data: bytes) -> dict[str, Any]:
    """Parses the safetensors header. The library parses the header again, but would not reject duplicate keys or
    unexpected metadata. Raises ArtifactInvalid."""
    length = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else 0
    if not 2 <= length <= min(_HEADER_LIMIT, len(data) - 8):
        raise ArtifactInvalid("The file is not safetensors.")
    try:
        header = json.loads(data[8 : 8 + length].decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise ArtifactInvalid("The file's header cannot be read.") from error
    if not isinstance(header, dict):
        raise ArtifactInvalid("The file's header cannot be read.")
    return header


def _manifest(text: str) -> Manifest:
    try:
        return Manifest.from_json(json.loads(text, object_pairs_hook=_unique))
    except (ValueError, RecursionError) as error:
        raise ArtifactInvalid(f"The manifest cannot be used: {error}.") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key occurs twice")
    return values
