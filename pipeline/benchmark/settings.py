"""What the comparison table compares."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.methods import METHODS
from preprocessing.settings import Settings

RANDOM = {"mask.strength.family": "constant", "mask.strength.start": 0.0, "mask.strength.end": 0.0}
FIXED = {
    "mask.ratio.family": "constant",
    "mask.ratio.start": 0.75,
    "mask.ratio.end": 0.75,
    "mask.feedback.signal": "none",
}
MPS_AMS = {"pretrain.method": "mps_ams"}
ARMS: dict[str, dict[str, Any]] = {
    "mps_ams": MPS_AMS,
    "mps_only": MPS_AMS | FIXED,
    "ams_only": MPS_AMS | RANDOM,
    "random_75": MPS_AMS | FIXED | RANDOM,
    "scratch": {"pretrain.method": "scratch"},
}
DEFAULT_ARMS = tuple(ARMS)
# the other methods under their own names, and AMLP's two losses together
ARMS |= {name: {"pretrain.method": name} for name in METHODS if name not in ARMS}
ARMS["amlp"] = MPS_AMS | {"methods.mps_ams.hard_patches": 1.0, "methods.mps_ams.category": 0.1}
# the supervised anchor, from random weights
ARMS["unet"] = {"pretrain.method": "scratch", "segmenter.kind": "unet"}
# sections and fields that make the cells of a seed and fold comparable
_SHARED = {"run", "data", "cache", "search", "benchmark", "evaluate", "profile", "checkpoint"}
_SHARED |= {"pretrain.include_test", "finetune.classes"}


class BenchmarkSettings(Settings):
    """Which runs the table is made of, and how they are judged."""

    seeds: tuple[int, ...] = Field(
        (0, 1, 2), min_length=1, description="Seeds; each has its own split, initial weights and order."
    )
    arms: tuple[str, ...] = Field(
        DEFAULT_ARMS, min_length=1, description=f"What is compared: {', '.join(ARMS)}, in the order of the table."
    )
    fields: dict[str, dict[str, Any]] = Field(
        {},
        description="Further settings of an arm by dotted path, such as {unet: {finetune.lr: 0.002}}; under a name of "
        "your own a new arm, such as {transfer: {finetune.encoder: runs/other/pretrain/encoder}}.",
    )
    label_fractions: tuple[float, ...] = Field((), description="Shares of labels compared; empty: data.label_fraction.")
    folds: tuple[int, ...] = Field((), description="Folds tested, of data.folds; empty: data.fold.")
    reference: str = Field("mps_ams", description="The arm that the others are compared with.")
    aim: float = Field(0.01, gt=0, description="Difference in DSC that would matter.")
    expected_sd: float = Field(
        0.0, ge=0, description="Standard deviation of a case's difference in DSC, to plan by; 0: that of finished runs."
    )
    expected_chance: float = Field(
        0.0,
        ge=0,
        description="Standard deviation that chance in training gives one training's mean DSC, to plan by; 0: that of "
        "finished runs.",
    )
    equal: Literal["samples", "compute"] = Field(
        "samples",
        description="What all pretrainings have in common: samples (pretrain.epochs), or compute (each arm's epochs "
        "are scaled to the reference's FLOPs; an arm whose own fields set pretrain.epochs keeps them).",
    )
    finetuning: Literal["steps", "epochs"] = Field(
        "steps",
        description="What fine-tunings with other shares of labels than data.label_fraction have in common with its: "
        "steps (epochs and rounds of validation are scaled, as far as whole epochs go) or epochs.",
    )
    concurrent: int = Field(
        0,
        ge=0,
        description="Runs at a time; 0: as many as there is room for on the cluster's machines, those included that "
        "may still start where its configuration is at hand.",
    )
    include: tuple[str, ...] = Field(
        (),
        description="Folders of tables that were made elsewhere, or before, with the same settings: their table.csv "
        "and scores.csv count too, as long as their settings.json agrees; what they hold is not run again.",
    )

    @field_validator("arms", "seeds", "folds", "label_fractions")
    @classmethod
    def _once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) < len(values):
            raise ValueError(f"each may be named once, not so in {list(values)}")
        return values

    @field_validator("label_fractions")
    @classmethod
    def _shares(cls, fractions: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < share <= 1 for share in fractions):
            raise ValueError(f"shares of labels lie above 0 and up to 1, not so {list(fractions)}")
        return fractions

    @model_validator(mode="after")
    def _known(self) -> BenchmarkSettings:
        known = [*ARMS, *(name for name in self.fields if name not in ARMS)]
        unknown = [arm for arm in self.arms if arm not in known]
        if unknown:
            raise ValueError(f"there is no arm {unknown[0]!r}, there are {', '.join(known)}")
        nameless = [name for name in self.fields if not re.fullmatch(r"\w[\w.-]*", name, re.ASCII)]
        if nameless:
            raise ValueError(f"fields: an arm's name has letters, digits and _ . - in it, not so {nameless[0]!r}")
        unused = [name for name in self.fields if name not in self.arms and name not in ARMS]
        if unused:
            raise ValueError(
                f"fields: {unused[0]!r} is neither an arm of its own in benchmark.arms nor one of {', '.join(ARMS)}"
            )
        for name, fields in self.fields.items():
            shared = [path for path in fields if any(path == own or path.startswith(f"{own}.") for own in _SHARED)]
            if shared:
                raise ValueError(f"fields: {name} sets {shared[0]}, which all arms have in common")
        if self.reference not in self.arms and not self.include:
            raise ValueError(f"the reference {self.reference!r} is not among benchmark.arms; set benchmark.reference")
        return self

    def arm(self, name: str) -> dict[str, Any]:
        """All fields by which an arm differs from the configuration."""
        return ARMS.get(name, {}) | self.fields.get(name, {})
