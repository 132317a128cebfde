"""A few samples with a lesion and padding, and methods small enough for a test."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pipeline.config import Config
from pipeline.configuration.overrides import with_fields
from pipeline.methods import METHODS, Method, Shape, build_method
from pipeline.training.loader import Batch
from preprocessing.geometry.patchify import patchify
from tests.preprocessing.tiny_cache import blobs, box_with_padding

SHAPES = {2: Shape(1, (32, 24), (8, 4)), 3: Shape(2, (12, 8, 8), (4, 4, 2))}
FIELDS: dict[str, Any] = {
    "model.width": 16,
    "model.depth": 2,
    "model.heads": 2,
    "decoder.width": 12,
    "decoder.depth": 1,
    "pretrain.batch": 8,
    "methods.byol.hidden": 16,
    "methods.byol.features": 8,
    "methods.swav.hidden": 16,
    "methods.swav.features": 8,
    "methods.swav.prototypes": 4,
    "methods.simclr.features": 8,
}


def config_with(**fields: Any) -> Config:
    """A small configuration; fields by dotted path with __ for dots."""
    return with_fields(
        Config(data={"root": "x"}), FIELDS | {name.replace("__", "."): value for name, value in fields.items()}
    )


def method(name: str, dims: int = 2, seed: int = 0, **fields: Any) -> Method:
    """A method with weights of its own."""
    torch.manual_seed(seed)
    return build_method(name, config_with(**fields), SHAPES[dims])


def samples(dims: int = 2, count: int = 8, first: int = 0, padding: int | None = None, seed: int = 0) -> Batch:
    """A whole step's samples; a patch at either end of the first axis is padding, and the pixels of half a patch more
    (rounded down) of the first two samples."""
    shape = SHAPES[dims]
    images, label = blobs(seed, count, shape.size, shape.channels)
    real = np.zeros((count, 1, *shape.size), bool)
    for row in range(count):
        least = shape.patch[0] if padding is None else padding
        box = box_with_padding(shape.size, least + (1 if row < 2 and least else 0))
        real[(row, 0, *(slice(a, b) for a, b in zip(box[: shape.dims], box[shape.dims :], strict=True)))] = True
    pixels = torch.from_numpy(patchify(real, shape.patch))
    scores = torch.from_numpy(np.random.default_rng(seed).normal(size=pixels.shape[:2]).astype("f4"))
    return Batch(
        position=torch.arange(first, first + count),
        sample=np.arange(count),
        patches=torch.from_numpy(patchify(images * real, shape.patch)),
        real=pixels,
        valid=(pixels.float().mean(-1) * 255).round().to(torch.uint8),
        label=torch.from_numpy(patchify(label[:, None] * real, shape.patch)),
        labelled=torch.ones(count, dtype=torch.bool),
        scores=scores,
    )


def views(model: Method, dims: int = 2, **kwargs: Any) -> list[Batch]:
    """As many batches as the method wants of each sample: the same samples, other pixels."""
    found = [samples(dims, **kwargs) for _ in range(model.views)]
    for number, view in enumerate(found[1:], 1):
        generator = torch.Generator().manual_seed(number)
        noise = 0.1 * torch.rand(view.patches.shape, generator=generator)
        view.patches += noise * view.real.repeat(1, 1, SHAPES[dims].channels)
    return found


def losses(model: Method, batches: list[Batch], progress: float = 0.5, seed: int = 3) -> Any:
    """What a step of the training asks for."""
    return model(batches, model.ratio(progress) or 0.0, model.strength(progress) or 0.0, seed)


NAMES = sorted(METHODS)
