"""Where windows of one size lie that cover a volume: for crops in the cache and for sliding-window inference."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product


def windows(shape: Sequence[int], size: Sequence[int], overlap: float) -> list[tuple[int, ...]]:
    """Start corners of the fewest windows that cover a volume and overlap enough, evenly spread along each axis.

    Along an axis on which the volume is smaller than the window there is one window, centred on the volume: its start
    is negative, -((size - shape) // 2), as `preprocessing.geometry.letterbox.letterbox` centres an image on the canvas.

    Args:
        shape: size of the volume in voxels, any number of axes.
        size: size of a window in voxels.
        overlap: least share of a window that it has in common with the next one along an axis, in [0, 1).

    Returns:
        corners in the order of the axes, the last axis fastest.

    Raises:
        ValueError: the two have different numbers of axes, an axis is empty, or the overlap is out of range.
    """
    if len(shape) != len(size) or min(*shape, *size) < 1:
        raise ValueError(f"cannot cover a volume of size {tuple(shape)} with windows of {tuple(size)}")
    if not 0 <= overlap < 1:
        raise ValueError(f"the overlap of windows must be at least 0 and below 1, it is {overlap}")
    return list(product(*(_starts(n, window, overlap) for n, window in zip(shape, size, strict=True))))


def _starts(length: int, window: int, overlap: float) -> list[int]:
    spare = length - window
    if spare <= 0:
        return [-(-spare // 2)]
    step = max(1, int(window * (1 - overlap) + 1e-9))  # 10 * (1 - 0.8) is a little below 2
    gaps = -(-spare // step)
    return [spare * number // gaps for number in range(gaps + 1)]
