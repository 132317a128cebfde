"""A trained segmenter on disk: weights, and everything that evaluation and prediction must know to use them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from upath import UPath

from pipeline.checkpoint import load_weights, save_weights
from pipeline.models.encoder import Encoder, EncoderSettings
from pipeline.models.segmenter import Segmenter, SegmenterSettings
from preprocessing.errors import RunError

KIND = "segmenter"


@dataclass(frozen=True)
class SegmenterCard:
    """What a segmenter is and what it expects.

    Attributes:
        channels: of the image.
        size, patch: canvas and patch in pixels.
        model, segmenter: settings of the architecture.
        classes: region -> label ids (none: every id but 0), in the order of the outputs.
        thresholds: probability above which a pixel belongs to the region, one a region.
        low, high: percentiles of an image's intensities that become 0 and 1.
        trained: anything worth knowing about the training.
    """

    channels: int
    size: tuple[int, ...]
    patch: tuple[int, ...]
    model: EncoderSettings
    segmenter: SegmenterSettings
    classes: dict[str, tuple[int, ...]]
    thresholds: tuple[float, ...]
    low: float
    high: float
    trained: dict[str, Any]

    def build(self) -> Segmenter:
        """The model, with random weights."""
        encoder = Encoder(self.model, self.channels * math.prod(self.patch), len(self.patch))
        return Segmenter(encoder, self.segmenter, self.patch, self.channels, len(self.classes))


def save_segmenter(folder: UPath, tensors: dict[str, Tensor], card: SegmenterCard) -> None:
    """Write model.safetensors and meta.json into a folder or URI."""
    plain = asdict(card) | {"model": card.model.model_dump(), "segmenter": card.segmenter.model_dump()}
    save_weights(folder, tensors, {"kind": KIND, **plain})


def load_segmenter(folder: UPath | str, device: torch.device | str = "cpu") -> tuple[Segmenter, SegmenterCard]:
    """The model on the device, ready to predict, and its card.

    Raises:
        RunError: there is no such checkpoint, or it is no segmenter's.
    """
    tensors, meta = load_weights(UPath(folder), KIND)
    card = SegmenterCard(
        channels=meta["channels"],
        size=tuple(meta["size"]),
        patch=tuple(meta["patch"]),
        model=EncoderSettings(**meta["model"]),
        segmenter=SegmenterSettings(**meta["segmenter"]),
        classes={name: tuple(ids) for name, ids in meta["classes"].items()},
        thresholds=tuple(meta["thresholds"]),
        low=meta["low"],
        high=meta["high"],
        trained=meta["trained"],
    )
    model = card.build()
    wrong = {
        name for name, value in model.state_dict().items() if name not in tensors or tensors[name].shape != value.shape
    }
    if wrong or len(tensors) != len(model.state_dict()):
        raise RunError(
            f"the checkpoint at {folder} does not fit its own description; it is damaged: {sorted(wrong)[:5]}"
        )
    model.load_state_dict(tensors)
    return model.to(device).eval(), card
