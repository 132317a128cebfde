"""The kinds of segmenter by name. All take canvases (image, real pixels) and give logits."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field
from torch import nn

from pipeline.models.encoder import Encoder, EncoderSettings
from pipeline.models.segmenter import Segmenter, SegmenterSettings
from pipeline.models.token_unet import TokenUNet
from pipeline.models.unet import UNet, UNetSettings


class SegmentersSettings(SegmenterSettings):
    """Which segmenter, and its size."""

    kind: Literal["vit", "unet", "vit_unet"] = Field(
        "vit",
        description="vit: light convolutions around the encoder; unet: MONAI's DynUNet from random weights, without "
        "encoder; vit_unet: DynUNet with the encoder's tokens added.",
    )
    unet: UNetSettings = Field(UNetSettings(), description="Size of the U-Net, of the kinds that have one.")

    @property
    def has_encoder(self) -> bool:
        """Whether pretrained weights have a place in it."""
        return self.kind != "unet"

    @property
    def has_unet(self) -> bool:
        """Whether MONAI is needed."""
        return self.kind != "vit"

    def used(self) -> dict[str, object]:
        """The settings that the kind uses; the others change nothing."""
        if self.has_unet:
            return {"kind": self.kind, "unet": self.unet.model_dump(mode="json")}
        # as it was before there was a choice: such runs stay finished
        plain = {name for name, value in (("convs", 1), ("image_levels", 0)) if getattr(self, name) == value}
        return self.model_dump(mode="json", exclude={"kind", "unet", *plain})


def build_segmenter(
    settings: SegmentersSettings,
    model: EncoderSettings,
    size: tuple[int, ...],
    patch: tuple[int, ...],
    channels: int,
    regions: int,
) -> nn.Module:
    """The segmenter with random weights.

    Args:
        settings: its kind and size.
        model: of the encoder, where it has one.
        size, patch: canvas and patch in pixels.
        channels: of the image.
        regions: outputs, one logit a region.

    Raises:
        ConfigError: a library that the kind needs is not installed.
    """
    if settings.kind == "unet":
        return UNet(settings.unet, tuple(size), channels, regions)
    encoder = Encoder(model, channels * math.prod(patch), len(patch))
    if settings.kind == "vit_unet":
        return TokenUNet(encoder, settings.unet, tuple(size), tuple(patch), channels, regions)
    return Segmenter(encoder, settings, tuple(patch), channels, regions)
