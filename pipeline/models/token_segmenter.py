"""What segmenters around an encoder have in common: its tokens, standardised, as feature maps beside the image's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline.models.encoder import Encoder
from preprocessing.geometry.patchify import grid_coords, patchify


class TokenSegmenter(nn.Module):
    """A segmenter that reads an encoder's tokens.

    Attributes:
        depths: after how many blocks each of the maps is taken.
        token_mean, token_scale: float [len(depths), width], by which the tokens are standardised; 0 and 1 until set.

    Args:
        encoder: for patches of `patch`.
        patch: pixels of a patch along each axis.
        depths: as above.
    """

    token_mean: Tensor
    token_scale: Tensor

    def __init__(self, encoder: Encoder, patch: tuple[int, ...], depths: Sequence[int]) -> None:
        super().__init__()
        self.encoder, self.patch, self.depths = encoder, tuple(patch), list(depths)
        self.register_buffer("token_mean", torch.zeros(len(self.depths), encoder.settings.width))
        self.register_buffer("token_scale", torch.ones(len(self.depths), encoder.settings.width))

    def attended(self, real: Tensor) -> Tensor:
        """bool [B, K]: the patches that are real enough to be looked at, as in pretraining; real [B, 1, *size]."""
        return patchify(real, self.patch).float().mean(-1) >= 0.5

    def stages(self, image: Tensor, attend: Tensor) -> list[Tensor]:
        """Tokens [B, K, width] after each of `depths`, as the encoder gives them."""
        coords = torch.as_tensor(grid_coords(self._grid(image)), device=image.device)
        return self.encoder.stages(patchify(image, self.patch), coords, self.depths, attend)

    def token_maps(self, image: Tensor, real: Tensor) -> list[Tensor]:
        """Standardised tokens of each of `depths` as feature maps [B, width, *grid]; 0 where a patch is padding."""
        attend = self.attended(real)
        maps = []
        for level, tokens in enumerate(self.stages(image, attend)):
            tokens = (tokens - self.token_mean[level]) / self.token_scale[level]
            tokens = torch.where(attend[..., None], tokens, torch.zeros_like(tokens))
            maps.append(tokens.transpose(1, 2).unflatten(2, self._grid(image)))
        return maps

    def _grid(self, image: Tensor) -> tuple[int, ...]:
        return tuple(n // p for n, p in zip(image.shape[2:], self.patch, strict=True))
