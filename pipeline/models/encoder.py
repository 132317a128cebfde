"""The encoder: a plain vision transformer over any set of patch tokens, in two or three dimensions.

It sees tokens and their coordinates, never a grid, so that the same weights serve a masked subset (pretraining)
and the whole image (fine-tuning), ultrasound slices and PET/CT crops (Dosovitskiy et al., arXiv 2010.11929;
visible tokens only as in He et al., arXiv 2111.06377).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from preprocessing.settings import Settings


class EncoderSettings(Settings):
    """Shape of the transformer (backbone and size are not stated in the paper's accessible part)."""

    width: int = Field(192, ge=8, description="Features of a token in the encoder.")
    depth: int = Field(6, ge=1, description="Transformer blocks of the encoder.")
    heads: int = Field(3, ge=1, description="Attention heads of the encoder; must divide the width.")
    mlp_ratio: float = Field(4.0, gt=0, description="Hidden width of a block's MLP over the token's width.")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> EncoderSettings:
        if self.width % self.heads:
            fitting = [h for h in range(1, self.width + 1) if self.width % h == 0]
            nearest = min(fitting, key=lambda h: abs(h - self.heads))
            raise ValueError(f"{self.heads} heads do not divide the width {self.width}; {nearest} would")
        return self


def position_encoding(coords: Tensor, width: int) -> Tensor:
    """Sine-cosine encoding of patch coordinates, the axes side by side.

    Args:
        coords: float [..., d], patch centres in patches.
        width: features to produce; an equal share for each axis, what remains is zero.

    Returns:
        float32 [..., width].
    """
    axes = coords.shape[-1]
    frequencies = width // (2 * axes)
    scale = torch.arange(frequencies, device=coords.device, dtype=torch.float32) / max(frequencies, 1)
    angles = coords.float().unsqueeze(-1) * torch.pow(10_000.0, -scale)  # [..., d, f]
    encoded = torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)
    return F.pad(encoded, (0, width - encoded.shape[-1]))


class Block(nn.Module):
    """Pre-norm transformer block; `attend` marks what may be looked at, by all tokens [B, K] or by each [B, K, K]."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor, attend: Tensor | None = None) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mask = None if attend is None else attend.reshape(batch, 1, -1, tokens)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        x = x + self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.mlp(self.norm2(x))


class PatchEmbedding(nn.Linear):
    """Linear embedding of patches whose pixels are standardised first, channel by channel.

    Pixels of [0, 1] as they are would make all patches look alike beside the position code (at initialisation .28
    against .71, root mean square, on ultrasound), and what little a short training learns would be places.

    Attributes:
        mean, scale: float [D], of each value of a patch; 0 and 1 until `standardise` sets them.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, token_dim: int, width: int) -> None:
        super().__init__(token_dim, width)
        self.register_buffer("mean", torch.zeros(token_dim))
        self.register_buffer("scale", torch.ones(token_dim))

    def forward(self, patches: Tensor) -> Tensor:
        """Embed float [B, K, D]: float [B, K, width]."""
        return super().forward((patches - self.mean) / self.scale)


def standardise(model: nn.Module, mean: Tensor, deviation: Tensor) -> None:
    """Set the standardisation of every encoder in a model, slow copies included.

    Args:
        model: changed in place.
        mean, deviation: float [C], of the channels; a constant channel (deviation 0) is only centred.
    """
    scale = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    for module in model.modules():
        if isinstance(module, PatchEmbedding):
            pixels = module.in_features // len(mean)  # the values of a patch are channel-major
            module.mean.copy_(mean.repeat_interleave(pixels))
            module.scale.copy_(scale.repeat_interleave(pixels))


class Encoder(nn.Module):
    """Linear embedding of standardised patches, sine-cosine positions, transformer blocks, a final norm.

    Args:
        settings: width, depth and heads.
        token_dim: values of a patch, D = channels x pixels.
        dims: spatial axes of the coordinates, 2 or 3.
    """

    def __init__(self, settings: EncoderSettings, token_dim: int, dims: int) -> None:
        super().__init__()
        self.settings, self.token_dim, self.dims = settings, token_dim, dims
        self.embed = PatchEmbedding(token_dim, settings.width)
        self.blocks = nn.ModuleList(
            Block(settings.width, settings.heads, settings.mlp_ratio) for _ in range(settings.depth)
        )
        self.norm = nn.LayerNorm(settings.width)
        self.apply(init_weights)

    def forward(self, patches: Tensor, coords: Tensor, attend: Tensor | None = None) -> Tensor:
        """Encode any subset of an image's patches.

        Args:
            patches: float [B, K, D].
            coords: float [B, K, d] or [K, d], patch centres in patches.
            attend: bool [B, K]; False for tokens (padding) that no token may look at. None: all may be.

        Returns:
            float [B, K, width].
        """
        return self.transform(self.embed(patches), coords, attend)

    def transform(self, tokens: Tensor, coords: Tensor, attend: Tensor | None = None) -> Tensor:
        """Encode tokens [B, K, width] that are embedded already; `attend` may also say it for each token, [B, K, K]."""
        return self._blocks(tokens, coords, attend)[-1]

    def stages(
        self, patches: Tensor, coords: Tensor, depths: Sequence[int], attend: Tensor | None = None
    ) -> list[Tensor]:
        """Tokens [B, K, width] after so many blocks each, 0 to depth; the final norm is for all blocks alone."""
        after = self._blocks(self.embed(patches), coords, attend)
        return [after[depth] if depth < len(self.blocks) else after[-1] for depth in depths]

    def _blocks(self, tokens: Tensor, coords: Tensor, attend: Tensor | None) -> list[Tensor]:
        """Tokens before all blocks and after each; after the last one with the final norm."""
        after = [tokens + position_encoding(coords, self.settings.width)]
        for block in self.blocks:
            after.append(block(after[-1], attend))
        return [*after[:-1], self.norm(after[-1])]


def init_weights(module: nn.Module) -> None:
    """Xavier for linear layers, as MAE does; torch's own defaults for the norms."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
