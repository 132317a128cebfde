"""Settings of the pretraining loop."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from pipeline.methods import METHODS
from pipeline.training.augment import AugmentSettings
from preprocessing.settings import NO_INFLUENCE, Settings

SCRATCH = "scratch"


class PretrainSettings(Settings):
    """Masked-image pretraining; all counts are over the whole group of workers."""

    method: str = Field(
        "mps_ams",
        description=f"Pretraining method ({', '.join(METHODS)}); {SCRATCH}: none, from random weights.",
    )
    epochs: int = Field(100, ge=1, description="Passes over the pretraining samples.")
    batch: int = Field(64, ge=2, description="Samples of a step over all workers together.")
    accumulate: int = Field(
        1,
        ge=1,
        description="Parts in which a worker computes its share of a step, to save memory.",
        json_schema_extra=NO_INFLUENCE,
    )
    lr: float = Field(1e-3, gt=0, description="Peak learning rate.")
    final_lr: float = Field(0.0, ge=0, description="Learning rate at the end of the cosine.")
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the training over which the learning rate rises.")
    weight_decay: float = Field(0.05, ge=0, description="AdamW's weight decay; none on biases and norms.")
    clip: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    ema: float = Field(0.0, ge=0, lt=1, description="Decay of the running mean of the weights; 0: off.")
    augment: AugmentSettings = Field(
        AugmentSettings(rotate=10, scale=0.5, stretch=0.2, shift=0.15, elastic=0, noise=0, blur=0, share=1),
        description="Random views of the samples; masks and lesion scores follow them.",
    )
    include_test: bool = Field(
        False, description="Also pretrain on the test images (never on their labels); marked in the report."
    )
    checkpoint_every: int = Field(5, ge=1, description="Epochs between checkpoints.", json_schema_extra=NO_INFLUENCE)
    keep_checkpoints: int = Field(2, ge=1, description="Checkpoints kept.", json_schema_extra=NO_INFLUENCE)
    probe_every: int = Field(10, ge=0, description="Epochs between probes of the frozen encoder; 0: never.")
    patience: int = Field(0, ge=0, description="Stop after this many probes without a better DSC; 0: never.")
    noise_every: int = Field(10, ge=0, description="Steps between measurements of the gradient-noise scale; 0: never.")
    pictures: int = Field(
        4,
        ge=0,
        description="Samples drawn at each probe: image, scores, mask, reconstruction.",
        json_schema_extra=NO_INFLUENCE,
    )

    @model_validator(mode="after")
    def _probes_to_stop_by(self) -> PretrainSettings:
        if self.patience and not self.probe_every:
            raise ValueError(f"patience = {self.patience} counts probes, and probe_every = 0 makes none")
        return self

    @field_validator("method")
    @classmethod
    def _known(cls, method: str) -> str:
        if method not in (*METHODS, SCRATCH):
            raise ValueError(f"there is no method {method!r}, there are {', '.join((*METHODS, SCRATCH))}")
        return method
