"""A trained segmenter on disk: weights, and everything that evaluation and prediction must know to use them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from upath import UPath

from pipeline.checkpoint import load_weights, save_weights
from pipeline.models.encoder import EncoderSettings
from pipeline.models.segmenters import SegmentersSettings, build_segmenter
from preprocessing.cache_settings import CacheSettings
from preprocessing.errors import RunError

KIND = "segmenter"


@dataclass(frozen=True)
class SegmenterCard:
    """What a segmenter is and what it expects.

    Attributes:
        modalities: names of the image's channels.
        model, segmenter: settings of the architecture.
        classes: region -> label ids (none: every id but 0), in the order of the outputs.
        thresholds: probability above which a pixel belongs to the region, one a region.
        least_sizes: size of the smallest connected component that is kept, one a region.
        least_unit: of these: "ml" in volumes, "share" of the image in 2D; in the other kind of scan nothing is removed.
        cache: geometry, canvas, patches and intensities that it was trained with.
        trained: anything worth knowing about the training.
    """

    modalities: tuple[str, ...]
    model: EncoderSettings
    segmenter: SegmentersSettings
    classes: dict[str, tuple[int, ...]]
    thresholds: tuple[float, ...]
    least_sizes: tuple[float, ...]
    least_unit: str
    cache: CacheSettings
    trained: dict[str, Any]

    @property
    def channels(self) -> int:
        """Channels of the image."""
        return len(self.modalities)

    @property
    def size(self) -> tuple[int, ...]:
        """Canvas in pixels."""
        return self.cache.size

    @property
    def patch(self) -> tuple[int, ...]:
        """Patch in pixels."""
        return self.cache.patch

    def build(self) -> nn.Module:
        """The model, with random weights."""
        return build_segmenter(self.segmenter, self.model, self.size, self.patch, self.channels, len(self.classes))


def save_segmenter(folder: UPath, tensors: dict[str, Tensor], card: SegmenterCard) -> None:
    """Write model.safetensors and meta.json into a folder or URI."""
    plain = asdict(card) | {name: getattr(card, name).model_dump() for name in ("model", "segmenter", "cache")}
    save_weights(folder, tensors, {"kind": KIND, **plain})


def set_least_sizes(folder: UPath, sizes: tuple[float, ...], unit: str) -> None:
    """Write the least sizes, which are chosen on whole cases, into the card of a segmenter."""
    tensors, meta = load_weights(folder, KIND)
    save_weights(folder, tensors, meta | {"least_sizes": sizes, "least_unit": unit})


def load_segmenter(folder: UPath | str, device: torch.device | str = "cpu") -> tuple[nn.Module, SegmenterCard]:
    """The model on the device, ready to predict, and its card.

    Raises:
        RunError: there is no such checkpoint, or it is no segmenter's.
    """
    tensors, meta = load_weights(UPath(folder), KIND)
    card = SegmenterCard(
        modalities=tuple(meta["modalities"]),
        model=EncoderSettings(**meta["model"]),
        segmenter=SegmentersSettings(**meta["segmenter"]),
        classes={name: tuple(ids) for name, ids in meta["classes"].items()},
        thresholds=tuple(meta["thresholds"]),
        least_sizes=tuple(meta["least_sizes"]),
        least_unit=meta["least_unit"],
        cache=CacheSettings(**meta["cache"]),
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
