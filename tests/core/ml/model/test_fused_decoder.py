"""The fused decoder, compared with diffusers'."""

import copy
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.ml.model import fused_decoder
from core.ml.model.autoencoder import Autoencoder
from core.ml.model.fused_decoder import FusedDecoder, can_fuse, phases_weight
from core.ml.model.kernels import interleave, operations
from tests.core.ml.model.small import autoencoder_folder, difference

SIZES = [(1, 8, 8), (3, 5, 7), (3, 16, 16), (2, 1, 1)]
"""Batch size, and height and width of latents."""


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Autoencoder:
    """Random autoencoder. Its norms scale and shift, as a trained autoencoder's do."""
    coder = Autoencoder.load(autoencoder_folder(tmp_path_factory.mktemp("vae")))
    generator = torch.Generator().manual_seed(0)
    for module in coder.network.modules():
        if isinstance(module, nn.GroupNorm):
            module.weight += 0.3 * torch.randn(module.num_channels, generator=generator)
            module.bias += 0.3 * torch.randn(module.num_channels, generator=generator)
    return coder


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `can_fuse` expect Triton kernels on the CPU."""
    monkeypatch.setattr(fused_decoder, "has_triton_kernels", lambda _: True)


def latents(batch: int, height: int, width: int) -> Tensor:
    return torch.randn(batch, 4, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", SIZES)
def test_fused_decoder_decodes_as_diffusers(autoencoder: Autoencoder, size: tuple[int, int, int]) -> None:
    z = latents(*size)
    with torch.inference_mode():
        expected = autoencoder.network.decode(z).sample
        pixels = FusedDecoder(autoencoder.network, torch.float32)(z)
    assert pixels.shape == expected.shape
    assert difference(pixels, expected) < 1e-5


@pytest.mark.parametrize("size", [(2, 3, 4), (1, 1, 1)])
def test_fused_decoder_in_triton_decodes_as_diffusers(
    autoencoder: Autoencoder, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int, int]
) -> None:
    pytest.importorskip("triton", reason="Triton has wheels for Linux alone")
    kernels = importlib.import_module("core.ml.model.kernels.triton_kernels")
    monkeypatch.setattr(operations, "_kernels", lambda _: kernels)
    z = latents(*size)
    with torch.inference_mode():
        pixels = FusedDecoder(autoencoder.network, torch.float32)(z)
        assert difference(pixels, autoencoder.network.decode(z).sample) < 1e-5


@pytest.mark.parametrize("with_attention", [True, False])
def test_parts_that_some_autoencoders_lack_are_optional(autoencoder: Autoencoder, with_attention: bool) -> None:
    network = copy.deepcopy(autoencoder.network)
    network.post_quant_conv = None
    if not with_attention:
        network.decoder.mid_block.attentions = nn.ModuleList([None])  # as diffusers makes it
    z = latents(2, 4, 4)
    with torch.inference_mode():
        expected = network.decode(z).sample
        assert difference(FusedDecoder(network, torch.float32)(z), expected) < 1e-5
        assert difference(autoencoder.network.decode(z).sample, expected) > 0.01


def test_pixels_of_an_image_do_not_depend_on_its_neighbours(autoencoder: Autoencoder) -> None:
    decode, z = FusedDecoder(autoencoder.network, torch.float32), latents(5, 8, 8)
    with torch.inference_mode():
        assert torch.equal(decode(z[[0, 1, 2]])[0], decode(z[[0, 3, 4]])[0])
        z[1] = torch.inf
        assert torch.equal(decode(z[[0, 1, 2]])[0], decode(z[[0, 3, 4]])[0])


@pytest.mark.parametrize(("height", "width"), [(4, 4), (1, 1), (5, 3)])
def test_phases_are_the_convolution_of_the_up_sampled_image(height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 6, height, width, generator=generator)
    weight, bias = torch.randn(5, 6, 3, 3, generator=generator), torch.randn(5, generator=generator)
    expected = F.conv2d(F.interpolate(x, scale_factor=2.0), weight, bias, padding=1)
    image, _ = interleave(F.conv2d(x, phases_weight(weight), padding=1), bias)
    assert difference(image, expected) < 1e-5


@pytest.mark.usefixtures("on_gpu")
def test_copy_for_decoding_leaves_the_original_unchanged(autoencoder: Autoencoder, tmp_path: Path) -> None:
    digest = Autoencoder(autoencoder.network).digest
    before = {name: tensor.clone() for name, tensor in autoencoder.network.state_dict().items()}
    fused = autoencoder.for_decoding(torch.bfloat16)
    z, pixels = latents(2, 8, 8), torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    expected = autoencoder.decode(z)
    assert 0 < difference(fused.decode(z), expected) < 0.05
    assert torch.equal(fused.encode(pixels)[0], autoencoder.encode(pixels)[0])
    after = autoencoder.network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    fused.save(tmp_path, torch.float32)
    assert Autoencoder(autoencoder.network).digest == Autoencoder.load(tmp_path).digest == digest
    assert torch.equal(autoencoder.decode(z), expected)


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("result", [RuntimeError("no such kernel"), torch.zeros(1), torch.full((1,), torch.nan)])
def test_fused_decoder_that_fails_on_this_device_is_not_used(
    autoencoder: Autoencoder, monkeypatch: pytest.MonkeyPatch, result: Tensor | Exception
) -> None:
    def broken(_: FusedDecoder, z: Tensor) -> Tensor:
        if isinstance(result, Exception):
            raise result
        return result.expand(len(z), 3, *(side * autoencoder.factor for side in z.shape[2:]))

    monkeypatch.setattr(FusedDecoder, "__call__", broken)
    z = latents(2, 8, 8)
    expected = autoencoder.in_dtype(torch.bfloat16).decode(z)
    assert torch.equal(autoencoder.for_decoding(torch.bfloat16).decode(z), expected)


@pytest.mark.usefixtures("on_gpu")
def test_lost_device_is_no_reason_for_another_decoder(
    autoencoder: Autoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> Tensor:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(FusedDecoder, "__call__", lost)
    with pytest.raises(torch.AcceleratorError):
        autoencoder.for_decoding(torch.bfloat16)


def test_copy_for_decoding_on_a_cpu_is_not_fused(autoencoder: Autoencoder) -> None:
    z = latents(2, 8, 8)
    plain = autoencoder.in_dtype(torch.bfloat16)
    assert not can_fuse(autoencoder.network)
    assert torch.equal(autoencoder.for_decoding(torch.bfloat16).decode(z), plain.decode(z))


def renamed(module: nn.Module, name: str) -> None:
    module.__class__ = type(name, (type(module),), {})


OTHERS: dict[str, Callable[[Any], object]] = {
    "attention in a block": lambda network: renamed(network.decoder.up_blocks[0], "AttnUpDecoderBlock2D"),
    "another residual block": lambda network: renamed(network.decoder.mid_block.resnets[1], "ResnetBlockCondNorm2D"),
    "another activation": lambda network: setattr(network.decoder.up_blocks[1].resnets[0], "nonlinearity", nn.ReLU()),
    "another last activation": lambda network: setattr(network.decoder, "conv_act", nn.ReLU()),
    "another norm": lambda network: setattr(network.decoder.up_blocks[1].resnets[0], "norm2", nn.Identity()),
    "another last norm": lambda network: setattr(network.decoder, "conv_norm_out", nn.Identity()),
    "a time embedding": lambda network: setattr(network.decoder.mid_block.resnets[0], "time_emb_proj", nn.Identity()),
    "a scaled output": lambda network: setattr(network.decoder.mid_block.resnets[0], "output_scale_factor", 2.0),
    "a resizing block": lambda network: setattr(network.decoder.mid_block.resnets[0], "upsample", nn.Identity()),
}


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("change", OTHERS)
def test_decoder_with_another_structure_is_not_fused(autoencoder: Autoencoder, change: str) -> None:
    network = copy.deepcopy(autoencoder.network)
    assert can_fuse(network)
    OTHERS[change](network)
    assert not can_fuse(network)


@pytest.mark.usefixtures("on_gpu")
def test_autoencoder_with_another_activation_is_not_fused(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    autoencoder_folder(tmp_path)
    network = AutoencoderKL.from_config({**AutoencoderKL.load_config(tmp_path), "act_fn": "relu"})
    assert not can_fuse(network)
