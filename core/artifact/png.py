"""PNG files of generated images, with the settings of the image inside: equal pixels and settings give equal bytes."""

import io
import json
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from core.artifact.sampling import SamplingSettings


def image_settings(
    sampling: SamplingSettings,
    *,
    adapter: str | None,
    base: str,
    class_name: str,
    seed: int,
    mix_adapter: str | None = None,
) -> dict[str, Any]:
    """Returns the settings that determine a generated image, in the form that its PNG file stores. `adapter`, `base`
    and `mix_adapter`, an adapter that is mixed into the first, are digests; `adapter` None means the base without an
    adapter. A mix with the weight 0 is left out, since the image is that of `adapter`."""
    image = {"adapter": adapter or "base", "base": base, "class": class_name, "seed": seed}
    mix = {"mix_adapter": mix_adapter} if mix_adapter and sampling.mix_weight else {}
    return image | mix | sampling.to_json()


def encode_png(image: Image.Image, settings: dict[str, Any] | None = None) -> bytes:
    """Encodes an image as PNG, with `settings` as JSON in a text chunk named `difffit`."""
    info = PngInfo()
    if settings is not None:
        info.add_itxt("difffit", json.dumps(settings, sort_keys=True))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info, compress_level=6)
    return buffer.getvalue()
