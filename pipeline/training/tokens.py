"""Which patch tokens of a batch count, and which are lesion."""

from __future__ import annotations

from torch import Tensor

from preprocessing.cache import CANDIDATE


def lesion_patches(label: Tensor, valid: Tensor) -> Tensor:
    """bool [b, N]: candidates of which more than half the pixels are lesion (label uint8 [b, N, P])."""
    return ((label > 0).float().mean(-1) > 0.5) & (valid >= CANDIDATE)
