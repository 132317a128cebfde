"""The segmenter: the pretrained encoder's tokens, and a light convolutional U around them that keeps edges sharp.

Patch tokens say what is where at the patch's resolution; a stem of strided convolutions on the image says where the
edges are at full resolution. The decoder starts from the tokens and climbs to the pixels, one prime factor of the patch
at a time, joined at each step by the stem's features or, below `image_levels`, by tokens of earlier blocks (after
UNETR, arXiv 2103.10504, with fewer and narrower convolutions). Group norm throughout: batch statistics would depend on
how workers share a batch.
"""

from __future__ import annotations

import math
from itertools import zip_longest
from typing import Any, cast

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pipeline.models.encoder import Encoder
from pipeline.models.token_segmenter import TokenSegmenter
from preprocessing.settings import Settings


class SegmenterSettings(Settings):
    """Widths of the convolutional part."""

    stem: int = Field(8, ge=1, description="Channels of stem and decoder at full resolution; doubled at each step.")
    width: int = Field(64, ge=1, description="Most channels that any step of the stem or decoder has.")
    convs: int = Field(1, ge=1, description="Convolutions of each step of stem and decoder.")
    image_levels: int = Field(
        0,
        ge=0,
        description="Levels, from full resolution down, at which the decoder sees convolutions of the image; at the "
        "others it sees tokens of the encoder's blocks alone (UNETR has 1). 0: at all, the tokens' grid included.",
    )


class Segmenter(TokenSegmenter):
    """Logits at every pixel from a pretrained encoder, in two or three dimensions.

    Args:
        encoder: for patches of `patch` and `channels`.
        settings: widths.
        patch: pixels of a patch along each axis.
        channels: of the image.
        regions: outputs, one logit a region.
    """

    def __init__(
        self, encoder: Encoder, settings: SegmenterSettings, patch: tuple[int, ...], channels: int, regions: int
    ) -> None:
        dims, steps, convs = len(patch), strides(patch), settings.convs
        widths = [min(settings.stem * 2**level, settings.width) for level in range(len(steps) + 1)]
        levels = settings.image_levels or len(widths)
        depth = encoder.settings.depth
        depths = [math.ceil(depth * level / len(steps)) for level in range(levels, len(steps))]  # the finer, the fewer
        super().__init__(encoder, patch, [*depths, depth])
        self.steps = steps
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        self.stem = nn.ModuleList([_conv_block(channels, widths[0], dims, convs)])
        for level, step in enumerate(self.steps[: levels - 1]):
            self.stem.append(_conv_block(widths[level], widths[level + 1], dims, convs, step))
        self.enlarge = nn.ModuleList()  # tokens in place of the stem, from its end to the grid
        up = nn.ConvTranspose2d if dims == 2 else nn.ConvTranspose3d
        for level in range(levels, len(self.steps)):
            ratio = tuple(math.prod(axis) for axis in zip(*self.steps[level:], strict=True))
            block = _conv_block(widths[level], widths[level], dims, convs)
            self.enlarge.append(nn.Sequential(up(encoder.settings.width, widths[level], ratio, stride=ratio), block))
        self.bridge = conv(encoder.settings.width, widths[-1], 1)
        self.join = _conv_block(widths[-1], widths[-1], dims, convs)
        self.narrow = nn.ModuleList()  # before enlarging: the fewer channels, the less work at high resolution
        self.climb = nn.ModuleList()
        for level in reversed(range(len(self.steps))):
            self.narrow.append(conv(widths[level + 1], widths[level], 1))
            self.climb.append(_conv_block(widths[level], widths[level], dims, convs))
        self.head = conv(widths[0], regions, 1)
        nn.init.constant_(cast(Tensor, self.head.bias), -2.0)  # lesions are the smaller part of an image

    def forward(self, image: Tensor, real: Tensor) -> Tensor:
        """Segment whole canvases.

        Args:
            image: float [B, C, *size], 0 on padding; every axis a multiple of the patch.
            real: bool [B, 1, *size], False on padding. Patches of mostly padding are hidden from the encoder.

        Returns:
            float [B, regions, *size], logits.
        """
        features = []
        x = image
        for block in self.stem:
            x = block(x)
            features.append(x)
        *earlier, tokens = self.token_maps(image, real)
        features += [enlarge(part) for enlarge, part in zip(self.enlarge, earlier, strict=True)]
        x = self.bridge(tokens)
        if len(features) > len(self.steps):
            x = x + features.pop()
        x = self.join(x)
        for narrow, block in zip(self.narrow, self.climb, strict=True):
            skip = features.pop()
            x = block(F.interpolate(narrow(x), size=skip.shape[2:], mode="nearest") + skip)
        return self.head(x)


def strides(patch: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Steps from full resolution down to the token grid: their product along each axis is the patch.

    The prime factors of each axis, ascending; an axis with fewer of them takes its steps last, nearest the tokens,
    as thick slices should: (2, 8, 8) gives (1, 2, 2), (1, 2, 2), (2, 2, 2).
    """
    factors = [_prime_factors(p)[::-1] for p in patch]
    return [tuple(step) for step in zip_longest(*factors, fillvalue=1)][::-1]


def _prime_factors(number: int) -> list[int]:
    found, factor = [], 2
    while number > 1:
        while number % factor == 0:
            found.append(factor)
            number //= factor
        factor += 1
    return found


def _conv_block(
    inputs: int, outputs: int, dims: int, convs: int, stride: tuple[int, ...] | None = None
) -> nn.Sequential:
    """Convolutions with norm and activation; the first takes the stride and changes the number of channels."""
    conv: Any = nn.Conv2d if dims == 2 else nn.Conv3d
    layers: list[nn.Module] = []
    for number in range(convs):
        first = number == 0
        step = stride if first and stride else (1,) * dims
        layers += [
            conv(inputs if first else outputs, outputs, 3, stride=step, padding=1, bias=False),
            nn.GroupNorm(math.gcd(outputs, 8), outputs),
            nn.GELU(),
        ]
    return nn.Sequential(*layers)
