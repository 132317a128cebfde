"""The encoder's tokens in a plain U-Net: what pretraining adds to the strongest segmenter at hand."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn

from pipeline.models.encoder import Encoder
from pipeline.models.token_segmenter import TokenSegmenter
from pipeline.models.unet import UNet, UNetSettings


class TokenUNet(TokenSegmenter):
    """A `UNet` that adds the encoder's tokens, as they are after its last block.

    They go through a 1x1 convolution and join at the first level that is no finer than their grid.

    Args:
        encoder: for patches of `patch` and `channels`.
        settings: size of the U-Net.
        size, patch: canvas and patch in pixels.
        channels: of the image.
        regions: outputs, one logit a region.

    Raises:
        ConfigError: MONAI is not installed.
    """

    def __init__(
        self,
        encoder: Encoder,
        settings: UNetSettings,
        size: tuple[int, ...],
        patch: tuple[int, ...],
        channels: int,
        regions: int,
    ) -> None:
        super().__init__(encoder, patch, [encoder.settings.depth])
        self.unet = UNet(settings, size, channels, regions)
        reductions = np.cumprod(self.unet.strides, axis=0)  # of each level, against full resolution
        coarse = np.flatnonzero(np.all(reductions >= np.array(patch), axis=1))
        self.level = int(coarse[0]) if len(coarse) else len(reductions) - 1
        conv = nn.Conv2d if len(patch) == 2 else nn.Conv3d
        self.bridge = conv(encoder.settings.width, self.unet.widths[self.level], 1)

    def forward(self, image: Tensor, real: Tensor) -> Tensor:
        """Segment whole canvases: float [B, C, *size] and bool [B, 1, *size] to logits, float [B, regions, *size]."""
        (tokens,) = self.token_maps(image, real)
        return self.unet(image, real, {self.level: self.bridge(tokens)})
