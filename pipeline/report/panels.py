"""Pictures of single cases as PNG, with their caption inside the file."""

from __future__ import annotations

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

TRUTH, PREDICTION = "#009e73", "#d55e00"


def segmentation_panel(image: NDArray, truth: NDArray, prediction: NDArray, caption: str) -> bytes:
    """The image, and beside it the same with the outlines of truth (green) and prediction (orange).

    Args:
        image: float [H, W], any range.
        truth, prediction: [H, W], lesion where > 0.
        caption: shown under the picture in the report, kept in the PNG's `Description`.

    Returns:
        the PNG file.
    """
    figure, (plain, drawn) = _figure(image.shape, 2)
    for axis in (plain, drawn):
        _show(axis, image)
    _outline(drawn, truth, TRUTH)
    _outline(drawn, prediction, PREDICTION)
    return _png(figure, caption)


def _figure(shape: tuple[int, ...], columns: int) -> tuple[Figure, list[Axes]]:
    height = 2.4
    width = height * shape[1] / shape[0]
    figure = Figure(figsize=(columns * width + 0.06 * (columns - 1), height))
    figure.subplots_adjust(0, 0, 1, 1, wspace=0.06 / width)
    return figure, list(figure.subplots(1, columns))


def _show(axis: Axes, image: NDArray) -> None:
    low, high = np.nanpercentile(image, [0.5, 99.5])
    axis.imshow(image, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="nearest")
    axis.set(xticks=[], yticks=[], facecolor="#bcd3e8")
    for spine in axis.spines.values():
        spine.set_visible(False)


def _outline(axis: Axes, mask: NDArray, colour: str) -> None:
    if (mask > 0).any() and not (mask > 0).all():
        axis.contour(mask > 0, [0.5], colors=colour, linewidths=1.2)


def _png(figure: Figure, caption: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Description": caption})
    return buffer.getvalue()
