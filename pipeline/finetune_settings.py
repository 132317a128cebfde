"""Settings of fine-tuning."""

from __future__ import annotations

from pydantic import Field, field_validator

from pipeline.training.augment import AugmentSettings
from preprocessing.settings import NO_INFLUENCE, Settings


class FinetuneSettings(Settings):
    """Training of the segmenter on the labelled cases; all counts are over the whole group of workers."""

    classes: dict[str, tuple[int, ...]] = Field(
        {"lesion": ()},
        description="Regions to segment, name: label ids; no ids: every label but 0. Regions may overlap.",
    )
    encoder: str = Field(
        "",
        description="Folder or URI of another run's encoder (<run>/pretrain/encoder) to start from, in place of one "
        "pretrained in this run; empty: this run's own.",
    )
    epochs: int = Field(100, ge=1, description="Passes over the labelled training samples.")
    batch: int = Field(16, ge=2, description="Samples of a step over all workers together.")
    accumulate: int = Field(
        1,
        ge=1,
        description="Parts in which a worker computes its share of a step, to save memory.",
        json_schema_extra=NO_INFLUENCE,
    )
    lr: float = Field(1e-3, gt=0, description="Peak learning rate of the convolutional part.")
    layer_decay: float = Field(
        0.75, gt=0, le=1, description="Factor on the rate per encoder layer downwards, if pretrained."
    )
    final_lr: float = Field(0.0, ge=0, description="Learning rate at the end of the cosine.")
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the training over which the learning rate rises.")
    frozen: float = Field(
        0.0, ge=0, le=1, description="Share of the training in which a pretrained encoder stays as it was."
    )
    weight_decay: float = Field(0.05, ge=0, description="AdamW's weight decay; none on biases and norms.")
    clip: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    dice_weight: float = Field(
        0.5, ge=0, le=1, description="Share of the Dice term in the loss; the rest: cross-entropy."
    )
    lesion_share: float = Field(
        0.5, gt=0, le=1, description="Least share of samples with lesion in an epoch; the others take turns."
    )
    ema: float = Field(0.98, ge=0, lt=1, description="Decay of the running mean of the weights; 0: off.")
    validate_every: int = Field(10, ge=1, description="Epochs between validations, each with a checkpoint.")
    patience: int = Field(0, ge=0, description="Stop after this many validations without a better DSC; 0: never.")
    min_transfer: float = Field(
        0.9, ge=0, le=1, description="Least share of the encoder's parameters that must come from its checkpoint."
    )
    augment: AugmentSettings = Field(AugmentSettings(), description="Random transformations of the training samples.")

    @field_validator("classes")
    @classmethod
    def _named_regions(cls, classes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        if not classes:
            raise ValueError("name at least one region, for example {lesion: []} for every label but 0")
        bad = {name: ids for name, ids in classes.items() if any(not 1 <= i <= 255 for i in ids)}
        if bad:
            raise ValueError(f"label ids lie in 1..255 (0 is background); not so: {bad}")
        return classes
