"""Space of the mask-schedule search: how much is masked, when, and how strictly by lesion score."""

from __future__ import annotations

from typing import Any

from ray import tune


def space() -> dict[str, Any]:
    """Dotted configuration fields and where their values are drawn from.

    The paper's own ratios and formula are not known; a quick look on ultrasound showed that low ratios waste a
    short training, so that the ranges lie high. A strength of .3 weighs score and noise alike. With scores that
    find most lesions, much more hides nearly every lesion from the encoder, whose probe then falls: the range ends
    there.
    """
    return {
        "mask.ratio.family": tune.choice(["constant", "linear", "cosine", "sigmoid", "step"]),
        "mask.ratio.start": tune.quniform(0.4, 0.8, 0.05),
        "mask.ratio.end": tune.quniform(0.6, 0.9, 0.05),
        "mask.ratio.hold": tune.quniform(0.0, 0.5, 0.1),
        "mask.strength.family": tune.choice(["constant", "linear"]),
        "mask.strength.start": tune.choice([0.0, 0.1, 0.2, 0.3]),
        "mask.strength.end": tune.choice([0.05, 0.1, 0.2, 0.3]),
        "selection.rule": tune.choice(["lesion", "place_central"]),
        "mask.random_share": tune.choice([0.0, 0.25]),
    }


def mutations() -> dict[str, list[float]]:
    """What population-based training changes while a trial runs: the ratio and the strength of the moment.

    Lists, of which it takes a neighbour: a factor could leave the values that a field takes.
    """
    return {
        "mask.ratio.start": [round(0.4 + 0.05 * step, 2) for step in range(11)],
        "mask.strength.start": [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3],
    }
