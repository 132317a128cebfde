"""A supervised anchor: MONAI's DynUNet, the U-Net of nnU-Net.

Self-supervision is worth its effort only where the segmenter is not simply beaten by a U-Net trained from random
weights on the same few labels. Its shape follows from the canvas, by the rules of nnU-Net (Isensee et al., Nature
Methods 2021): axes are halved while they are long enough, and short axes (thick slices) wait until the others are no
more than twice as long, without being convolved over. Instance norm: batch statistics would depend on how workers
share a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from preprocessing.errors import ConfigError
from preprocessing.settings import Settings

_LEAST = 4  # pixels of an axis at the bottom, as in nnU-Net
_LEVELS = 3  # DynUNet has no fewer
MISSING = "segmenter.kind = unet and vit_unet need MONAI: pip install 'mps-ams[unet]'"


class UNetSettings(Settings):
    """Size of the U-Net."""

    width: int = Field(32, ge=2, description="Channels of the U-Net at full resolution; doubled at each step.")
    most: int = Field(320, ge=2, description="Most channels that any level of the U-Net has.")
    levels: int = Field(6, ge=_LEVELS, description="Most resolutions of the U-Net; the canvas may allow fewer.")


def available() -> bool:
    """Whether MONAI is installed."""
    return find_spec("monai") is not None


def plan(size: tuple[int, ...], levels: int) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Kernels and strides of each level, from full resolution to the bottom; the first stride is 1.

    An axis that is shorter than half the longest one waits: it is neither halved nor convolved over. The others are
    halved where their length is even and at least `_LEAST` pixels are left.

    Args:
        size: canvas in pixels.
        levels: at most, and at least three (a small canvas gets strides of 1).
    """
    kernels, strides = [], [(1,) * len(size)]
    while True:
        waits = [2 * n < max(size) for n in size]
        kernels.append(tuple(1 if w else 3 for w in waits))
        if len(kernels) == levels:
            return kernels, strides
        step = tuple(1 if w or n % 2 or n < 2 * _LEAST else 2 for n, w in zip(size, waits, strict=True))
        if max(step) == 1 and len(kernels) >= _LEVELS:
            return kernels, strides
        strides.append(step)
        size = tuple(n // s for n, s in zip(size, step, strict=True))


class UNet(nn.Module):
    """Logits at every pixel of whole canvases, in two or three dimensions, with the interface of `Segmenter`.

    Attributes:
        strides, widths: of each level, from full resolution down.

    Args:
        settings: its size.
        size: canvas in pixels.
        channels: of the image.
        regions: outputs, one logit a region.

    Raises:
        ConfigError: MONAI is not installed.
    """

    def __init__(self, settings: UNetSettings, size: tuple[int, ...], channels: int, regions: int) -> None:
        super().__init__()
        if not available():
            raise ConfigError(MISSING)
        from monai.networks.nets import DynUNet

        kernels, strides = plan(size, settings.levels)
        self.strides = strides
        self.widths = [min(settings.width * 2**level, settings.most) for level in range(len(strides))]
        net = DynUNet(len(size), channels, regions, kernels, strides, strides[1:], self.widths)
        # its parts, for it holds each of them under two names, which would double the checkpoints
        self.down = nn.ModuleList([net.input_block, *net.downsamples, net.bottleneck])
        self.up = net.upsamples
        self.head = net.output_block
        nn.init.constant_(cast(Tensor, self.head.conv.conv.bias), -2.0)  # lesions are the smaller part of an image

    def forward(self, image: Tensor, real: Tensor, added: Mapping[int, Tensor] | None = None) -> Tensor:
        """Segment whole canvases.

        Args:
            image: float [B, C, *size].
            real: bool [B, 1, *size], False on padding, which counts as 0.
            added: by level, float [B, widths[level], *any size], resized and added to what the level has found.

        Returns:
            float [B, regions, *size], logits.
        """
        x = torch.where(real, image, torch.zeros_like(image))
        skips = []
        for level, block in enumerate(self.down):
            x = block(x)
            if added and level in added:
                x = x + F.interpolate(added[level], size=x.shape[2:], mode="nearest")
            skips.append(x)
        skips.pop()
        for block in self.up:
            x = block(x, skips.pop())
        return self.head(x)
