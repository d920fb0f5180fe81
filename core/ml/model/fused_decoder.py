"""The autoencoder's decoder with fused operations, for a GPU.

diffusers' decoder spends two thirds of its time on norms, activations, biases, additions and copies between memory
formats. In fp16 on an H200, it took 51 ms for 16 images of 256 pixels, and these operations 18 ms:

- All images are channels_last, as cuDNN's fastest convolutions need them.
- Convolutions add no bias. The norm or the addition that follows adds it.
- GroupNorm and SiLU are one operation. The sums for most norms come from the operation before.
- The convolution after nearest up-sampling reads equal pixels. It becomes a 2 x 2 convolution of the smaller image with
  four times the output channels: those of the four phases (row and column modulo 2) of the larger image. Its 16 taps
  replace 36.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.ml.model.kernels import add, group_norm_silu, has_triton_kernels, interleave

_TAPS = (((1, 0, 0), (0, 1, 1)), ((1, 1, 0), (0, 0, 1)))
"""[phase, tap of 2, tap of 3]: along one side, the sums of taps of a convolution after nearest up-sampling that read
the same pixel of the smaller image."""


def can_fuse(network: Any) -> bool:
    """Returns whether a `FusedDecoder` computes what the decoder of `network` computes, on a device with Triton
    kernels. All of Stable Diffusion's autoencoders qualify."""
    decoder = network.decoder
    return (
        has_triton_kernels(network.device)
        and _is_norm_silu(decoder.conv_norm_out, decoder.conv_act)
        and all(type(block).__name__ == "UpDecoderBlock2D" for block in decoder.up_blocks)
        and all(_is_plain(resnet) for resnet in _resnets(decoder))
    )


class FusedDecoder:
    """Decoder of an AutoencoderKL for which `can_fuse` holds, in one dtype."""

    def __init__(self, network: Any, dtype: torch.dtype) -> None:
        """Copies the decoder's weights, and combines in their own precision those that are combined."""
        self.dtype, self.device = dtype, network.device
        self._post_quant_conv, self._decoder = copy.deepcopy((network.post_quant_conv, network.decoder))
        for resnet in _resnets(self._decoder):
            if resnet.conv_shortcut is not None:
                resnet.conv2.bias += resnet.conv_shortcut.bias
        for block in self._decoder.up_blocks:
            for upsampler in block.upsamplers or ():
                weight = phases_weight(upsampler.conv.weight)
                upsampler.conv.weight = nn.Parameter(weight, requires_grad=False)
        for module in (self._post_quant_conv, self._decoder):
            if module is not None:
                module.to(dtype=dtype, memory_format=torch.channels_last)

    def __call__(self, latents: Tensor) -> Tensor:
        """Decodes latents [B, C, H, W], in the network's scale, to pixels [B, 3, S, S]."""
        decoder, middle = self._decoder, self._decoder.mid_block
        x = latents.to(self.device, self.dtype, memory_format=torch.channels_last)
        x = decoder.conv_in(x if self._post_quant_conv is None else self._post_quant_conv(x))
        x, sums = _resnet(middle.resnets[0], x, None)
        for attention, resnet in zip(middle.attentions, middle.resnets[1:], strict=True):
            if attention is not None:
                x, sums = attention(x), None
            x, sums = _resnet(resnet, x, sums)
        for block in decoder.up_blocks:
            for resnet in block.resnets:
                x, sums = _resnet(resnet, x, sums)
            for upsampler in block.upsamplers or ():
                x, sums = interleave(F.conv2d(x, upsampler.conv.weight, padding=1), upsampler.conv.bias)
        pixels: Tensor = decoder.conv_out(_norm_silu(decoder.conv_norm_out, x, sums=sums))
        return pixels


def _resnet(resnet: Any, x: Tensor, sums: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Returns the result of a residual block, and its sums for the norm that follows."""
    y = _norm_silu(resnet.norm1, x, sums=sums)
    y = F.conv2d(y, resnet.conv1.weight, padding=1)
    y = _norm_silu(resnet.norm2, y, bias=resnet.conv1.bias)
    y = F.conv2d(y, resnet.conv2.weight, padding=1)
    return add(x if resnet.conv_shortcut is None else F.conv2d(x, resnet.conv_shortcut.weight), y, resnet.conv2.bias)


def _norm_silu(norm: nn.GroupNorm, x: Tensor, *, bias: Tensor | None = None, sums: Tensor | None = None) -> Tensor:
    return group_norm_silu(x, norm.bias, norm.weight, norm.num_groups, norm.eps, bias=bias, sums=sums)


def phases_weight(weight: Tensor) -> Tensor:
    """Combines a weight [O, I, 3, 3] into that of the 2 x 2 convolution whose output channels are the four phases, [4
    O, I, 2, 2]."""
    taps = torch.tensor(_TAPS, dtype=torch.float64, device=weight.device)
    phases = torch.einsum("prk,qsl,oikl->pqoirs", taps, taps, weight.double())
    return phases.flatten(0, 2).to(weight.dtype)


def _resnets(decoder: Any) -> Iterator[Any]:
    for block in (decoder.mid_block, *decoder.up_blocks):
        yield from block.resnets


def _is_plain(resnet: Any) -> bool:
    """Returns whether a residual block is as `_resnet` computes it: without embedding, resizing and scaling."""
    return (
        type(resnet).__name__ == "ResnetBlock2D"
        and _is_norm_silu(resnet.norm1, resnet.nonlinearity)
        and _is_norm_silu(resnet.norm2, resnet.nonlinearity)
        and resnet.time_emb_proj is None
        and resnet.upsample is None
        and resnet.downsample is None
        and resnet.output_scale_factor == 1
    )


def _is_norm_silu(norm: nn.Module, activation: nn.Module) -> bool:
    return type(norm) is nn.GroupNorm and type(activation) is nn.SiLU
