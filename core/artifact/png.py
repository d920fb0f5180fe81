"""PNG files of generated images, with the settings of the image inside: equal pixels and settings give equal bytes."""

import io
import json
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from core.artifact.sampling import SamplingSettings


def image_settings(
    sampling: SamplingSettings, *, adapter: str | None, base: str, class_name: str, seed: int
) -> dict[str, Any]:
    """Returns the settings that determine a generated image, in the form that its PNG file stores. `adapter` and `base`
    are digests; `adapter` None means the base without an adapter."""
    image = {"adapter": adapter or "base", "base": base, "class": class_name, "seed": seed}
    return image | sampling.to_json()


def encode_png(image: Image.Image, settings: dict[str, Any] | None = None) -> bytes:
    """Encodes an image as PNG, with `settings` as JSON in a text chunk named `difffit`."""
    info = PngInfo()
    if settings is not None:
        info.add_itxt("difffit", json.dumps(settings, sort_keys=True))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info, compress_level=6)
    return buffer.getvalue()
