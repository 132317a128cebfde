"""What the comparison table compares."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

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


class BenchmarkSettings(Settings):
    """Which runs the table is made of."""

    seeds: tuple[int, ...] = Field(
        (0, 1, 2), min_length=1, description="Seeds; each has its own split, initial weights and order."
    )
    arms: tuple[str, ...] = Field(
        DEFAULT_ARMS, min_length=1, description=f"What is compared: {', '.join(ARMS)}, in the order of the table."
    )

    @field_validator("arms")
    @classmethod
    def _known(cls, arms: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [arm for arm in arms if arm not in ARMS]
        if unknown:
            raise ValueError(f"there is no arm {unknown[0]!r}, there are {', '.join(ARMS)}")
        return arms
