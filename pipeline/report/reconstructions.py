"""Pictures of the pretraining: image, patch scores, what the encoder sees, and what it makes of the rest."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from upath import UPath

from pipeline.training.loader import Batch
from preprocessing.geometry.patchify import unpatchify
from preprocessing.storage import make_folder

if TYPE_CHECKING:
    from pipeline.methods.base import Masking


@torch.no_grad()
def draw_reconstructions(model: Masking, batch: Batch, ratio: float, strength: float, seed: int, path: UPath) -> None:
    """One row a sample, as PNG: image with the label's outline, scores, visible patches, reconstruction.

    Args:
        model: the method in training.
        batch: a few samples; 3D ones are drawn at their middle slice, the first channel of each.
        ratio, strength, seed: the masking now.
        path: the PNG file; its folder is made.
    """
    model.eval()
    plan = model.plan(batch, ratio, strength, seed)
    predicted = model.reconstruct(batch, plan).float()
    model.train()
    filled = torch.where(plan.masked[..., None], predicted, batch.patches)
    visible = torch.where(plan.masked[..., None], torch.full_like(batch.patches, torch.nan), batch.patches)
    label = (batch.label > 0).float()
    scores = torch.zeros_like(batch.valid, dtype=torch.float32) if batch.scores is None else batch.scores
    shape = model.shape

    def plane(patches: Tensor, channels: int) -> np.ndarray:
        image = unpatchify(patches, shape.size, shape.patch, channels).cpu().numpy()[:, 0]
        return image if image.ndim == 3 else image[:, image.shape[1] // 2]

    columns = [
        ("image", plane(batch.patches, shape.channels), "gray"),
        ("lesion score", plane(scores[..., None].expand(-1, -1, shape.pixels), 1), "magma"),
        (f"visible ({1 - ratio:.0%})", plane(visible, shape.channels), "gray"),
        ("reconstruction", plane(filled, shape.channels), "gray"),
    ]
    outline = plane(label, 1)
    figure = Figure(figsize=(2.2 * len(columns), 2.2 * len(outline)), layout="constrained")
    axes = figure.subplots(len(outline), len(columns), squeeze=False)
    for row, axis_row in enumerate(axes):
        for axis, (title, images, colours) in zip(axis_row, columns, strict=True):
            limits = {} if colours == "magma" else {"vmin": 0, "vmax": 1}
            axis.imshow(images[row], cmap=colours, interpolation="nearest", **limits)
            if title == "image" and outline[row].any():
                axis.contour(outline[row], [0.5], colors="tab:orange", linewidths=1)
            axis.set(xticks=[], yticks=[], facecolor="lightsteelblue")
            if row == 0:
                axis.set_title(title, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    make_folder(path.parent)
    path.write_bytes(buffer.getvalue())
