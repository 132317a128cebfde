"""What the comparison table compares."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from preprocessing.settings import Settings

RANDOM = {"mask.strength.family": "constant", "mask.strength.start": 0.0, "mask.strength.end": 0.0}
FIXED = {
    "mask.ratio.family": "constant",
    "mask.ratio.start": 0.75,
    "mask.ratio.end": 0.75,
    "mask.feedback.signal": "none",
}
ARMS: dict[str, dict[str, Any]] = {
    "mps_ams": {},
    "mps_only": FIXED,
    "ams_only": RANDOM,
    "random_75": FIXED | RANDOM,
    "scratch": {"pretrain.method": "scratch"},
}


class BenchmarkSettings(Settings):
    """Which runs the table is made of."""

    seeds: tuple[int, ...] = Field(
        (0, 1, 2), min_length=1, description="Seeds; each has its own split, initial weights and order."
    )
    arms: tuple[str, ...] = Field(
        tuple(ARMS), min_length=1, description=f"What is compared: {', '.join(ARMS)}, in the order of the table."
    )
