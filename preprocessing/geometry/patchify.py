"""Cutting images into patches and back, for numpy arrays and torch tensors of 2 or 3 spatial axes alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

Array = TypeVar("Array")  # numpy.ndarray or torch.Tensor


def grid_of(size: Sequence[int], patch: Sequence[int]) -> tuple[int, ...]:
    """Patches along each axis.

    Raises:
        ValueError: a patch does not divide the size.
    """
    if len(size) != len(patch) or any(s % p for s, p in zip(size, patch, strict=False)):
        raise ValueError(f"patch {tuple(patch)} does not divide size {tuple(size)}")
    return tuple(s // p for s, p in zip(size, patch, strict=True))


def patchify(image: Array, patch: Sequence[int]) -> Array:
    """Cut [..., C, *size] into patches [..., N, C * prod(patch)].

    Patches are in row-major order over the grid; inside a patch the order is [C, *patch], channel first.

    Raises:
        ValueError: the patch does not divide the size.
    """
    pixels: Any = image
    d = len(patch)
    lead, channels, size = pixels.shape[: -d - 1], pixels.shape[-d - 1], pixels.shape[-d:]
    grid = grid_of(size, patch)
    split = pixels.reshape(*lead, channels, *_interleave(grid, patch))
    n = len(lead)
    axes = [*range(n), *(n + 1 + 2 * i for i in range(d)), n, *(n + 2 + 2 * i for i in range(d))]
    return _permute(split, axes).reshape(*lead, math.prod(grid), channels * math.prod(patch))


def unpatchify(patches: Array, size: Sequence[int], patch: Sequence[int], channels: int) -> Array:
    """Put patches [..., N, C * prod(patch)] together again: [..., C, *size]. Exact inverse of `patchify`.

    Raises:
        ValueError: the patch does not divide the size.
    """
    values: Any = patches
    d, grid = len(patch), grid_of(size, patch)
    lead = values.shape[:-2]
    split = values.reshape(*lead, *grid, channels, *patch)
    n = len(lead)
    axes = [*range(n), n + d, *(axis for i in range(d) for axis in (n + i, n + d + 1 + i))]
    return _permute(split, axes).reshape(*lead, channels, *size)


def grid_coords(grid: Sequence[int]) -> np.ndarray:
    """Patch centres in units of patches, (0.5, 0.5), (0.5, 1.5), ...: float32 [N, d], in the order of the tokens."""
    axes = np.meshgrid(*(np.arange(g, dtype=np.float32) + 0.5 for g in grid), indexing="ij")
    return np.stack([axis.ravel() for axis in axes], axis=1)


def _interleave(first: Sequence[int], second: Sequence[int]) -> list[int]:
    return [n for pair in zip(first, second, strict=True) for n in pair]


def _permute(values: Any, axes: list[int]) -> Any:
    return values.transpose(axes) if isinstance(values, np.ndarray) else values.permute(axes)
