"""Choosing the masked patches: one vectorised step on the device, with no host synchronisation.

The rank of a patch is `strength * lesion score + noise`; the lowest ranks stay visible. Strength 0 is random
masking, a large strength masks strictly by score. The noise is a hash of (seed, global sample, token), so that a
mask is a function of the training's position alone: equal on any number of workers and after any restart.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

_LOW32 = 0xFFFFFFFF


def _mix(x: Tensor) -> Tensor:
    """The 32-bit finaliser of MurmurHash3; int64 products wrap, which leaves the low 32 bits right."""
    x = (x ^ (x >> 16)).mul_(0x85EBCA6B).bitwise_and_(_LOW32)
    x.bitwise_xor_(x >> 13).mul_(0xC2B2AE35).bitwise_and_(_LOW32)
    return x.bitwise_xor_(x >> 16)


def keyed_uniform(seed: int, sample: Tensor, count: int, stream: int = 0) -> Tensor:
    """Uniform numbers that depend on nothing but their key.

    Args:
        seed: the run's seed.
        sample: int64 [B], global sample positions, counted over the whole training.
        count: numbers for each sample.
        stream: tells uses of one sample apart (mask noise, coin, flips).

    Returns:
        float32 [B, count] in [0, 1), multiples of 2^-24.
    """
    start = torch.tensor([(seed * 0x9E3779B1 + stream * 0x7F4A7C15) & _LOW32], device=sample.device)
    key = _mix(start ^ (sample & _LOW32))
    key = _mix(key ^ ((sample >> 32) & _LOW32) ^ 0x165667B1)
    key = key[:, None]
    mixed = _mix(_mix(key ^ _token_hash(count, sample.device)).bitwise_xor_(key))
    return (mixed >> 8).to(torch.float32).mul_(2.0**-24)


@lru_cache(maxsize=16)  # few counts and devices; the same numbers every step
def _token_hash(count: int, device: torch.device) -> Tensor:
    return _mix(torch.arange(count, device=device, dtype=torch.int64) + 0x27D4EB2F)[None, :]


@dataclass(frozen=True)
class MaskPlan:
    """Which tokens the encoder sees and which it must reconstruct.

    Attributes:
        keep: int64 [B, K], tokens given to the encoder, K the same for every sample of the batch.
        attend: bool [B, K]; False where a sample with much padding has fewer than K tokens to show.
        masked: bool [B, N], real tokens to reconstruct. Padding is neither seen nor reconstructed.
    """

    keep: Tensor
    attend: Tensor
    masked: Tensor


def kept_tokens(tokens: int, ratio: float) -> int:
    """Tokens that stay visible of `tokens` at a masking ratio; at least one."""
    return max(1, round(tokens * (1.0 - ratio)))


def choose_mask(real: Tensor, scores: Tensor | None, noise: Tensor, ratio: float, strength: float | Tensor) -> MaskPlan:
    """Mask the given share of every sample's real patches, the highest `strength * score + noise` first.

    Args:
        real: bool [B, N], patches that are not padding.
        scores: float [B, N], lesion scores standardised per case; None for random masking.
        noise: float [B, N] in [0, 1).
        ratio: share of the real patches to mask, in (0, 1).
        strength: weight of the scores.
    """
    rank = noise if scores is None else noise + strength * scores
    order = rank.masked_fill(~real, torch.inf).argsort(dim=1, stable=True)  # padding last
    keep = order[:, : kept_tokens(real.shape[1], ratio)]
    # no more than K, which rounding of a smaller count could otherwise exceed by one
    shown = (real.sum(1, keepdim=True) * (1.0 - ratio)).round().clamp(min=1, max=keep.shape[1])
    attend = torch.arange(keep.shape[1], device=real.device)[None, :] < shown
    seen = torch.zeros_like(real).scatter(1, keep, attend)
    return MaskPlan(keep, attend, real & ~seen)
