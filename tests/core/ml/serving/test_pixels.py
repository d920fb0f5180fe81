"""Decoding of latents: half precision, and batches padded as on a GPU."""

import pytest
import torch
from torch import Tensor

from core.ml.errors import DrawingDiverged
from core.ml.model.autoencoder import Autoencoder
from core.ml.serving.pixels import PixelDecoder
from tests.core.ml.serving.small import assert_equal


@pytest.mark.parametrize("is_fused", [False, True])
def test_pixels_in_half_precision_are_close_to_full_precision(
    autoencoder: Autoencoder, monkeypatch: pytest.MonkeyPatch, is_fused: bool
) -> None:
    """Uses bf16, which every CPU has, instead of a GPU's fp16; bf16 is coarser."""
    monkeypatch.setattr("core.ml.model.autoencoder.can_fuse", lambda _: is_fused)
    decoder = PixelDecoder(autoencoder, torch.device("cpu"))
    latents = list(torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0)))
    expected = decoder.decode(latents)
    decoder.reduced = autoencoder.for_decoding(torch.bfloat16)
    difference = torch.stack(decoder.decode(latents)).int() - torch.stack(expected).int()
    assert 0 < difference.abs().max() <= 8


def test_pixels_that_overflow_half_precision_are_decoded_in_full_precision(
    autoencoder: Autoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = PixelDecoder(autoencoder, torch.device("cpu"))
    latents = list(torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0)))
    expected = decoder.decode(latents)
    decoder.reduced = reduced = autoencoder.in_dtype(torch.bfloat16)
    decode = reduced.decode
    monkeypatch.setattr(reduced, "decode", lambda batch: decode(batch) * torch.inf)
    assert_equal(decoder.decode(latents), expected)
    latents[1] = torch.full_like(latents[1], torch.nan)
    with pytest.raises(DrawingDiverged):
        decoder.decode(latents)


def test_pixels_do_not_depend_on_a_neighbour_that_overflows_half_precision(
    autoencoder: Autoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = PixelDecoder(autoencoder, torch.device("cpu"))
    latents = list(torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0)))
    decoder.sizes = (4,)
    full = decoder.decode(latents)
    decoder.reduced = coder = autoencoder.in_dtype(torch.bfloat16)
    decode, reduced = coder.decode, decoder.decode(latents)
    assert not torch.equal(full[2], reduced[2])

    def overflowing(batch: Tensor) -> Tensor:
        pixels = decode(batch)
        pixels[1] = torch.inf
        return pixels

    monkeypatch.setattr(coder, "decode", overflowing)
    assert_equal(decoder.decode(latents), [reduced[0], full[1], reduced[2]])


def test_pixels_are_decoded_in_padded_batches(autoencoder: Autoencoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decodes 11 latents of two sizes in batches of at most 4, as on a GPU."""
    decoder, sizes = PixelDecoder(autoencoder, torch.device("cpu")), []
    generator = torch.Generator().manual_seed(0)
    latents = [torch.randn(4, *[8 + 8 * (n % 2)] * 2, generator=generator) for n in range(11)]
    expected = [decoder.decode([latent])[0] for latent in latents]
    decode = autoencoder.decode
    monkeypatch.setattr(autoencoder, "decode", lambda x: (sizes.append(len(x)), decode(x))[1])
    decoder.sizes = (1, 2, 4)
    for image, other in zip(decoder.decode(latents), expected, strict=True):
        assert (image.int() - other.int()).abs().max() <= 1
    assert sorted(sizes) == [1, 2, 4, 4]
    latents[5] = torch.full_like(latents[5], torch.nan)
    with pytest.raises(DrawingDiverged):
        decoder.decode(latents)
