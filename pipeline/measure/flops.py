"""What a sample costs in pretraining: floating-point operations of the method's step, forward and backward.

Counted, not estimated: the step runs on two made-up samples on this processor under torch's counter, which counts
matrix products and convolutions as two operations a multiply-add and leaves out what is linear in the data (norms,
activations, sums, the optimiser), as papers do. All patches are real: a scan with padding costs less. Attention is
computed in its plain form while counting; a fused kernel does the same products.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipeline.measure.estimate import made_up
from pipeline.methods import Method, Shape, build_method

if TYPE_CHECKING:
    from pipeline.config import Config

_SAMPLES = 2
_MOMENTS = 101  # of the schedule, for its mean


@dataclass(frozen=True)
class StepCost:
    """FLOPs of a sample in a step of the method: at its first masking ratio, and at its mean ratio."""

    first: float
    mean: float


class Costs:
    """The costs of methods on samples of one shape, each counted once."""

    _SECTIONS: ClassVar = {"pretrain", "methods", "model", "decoder", "mask"}

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._known: dict[tuple[str, float | None], StepCost] = {}

    def __call__(self, config: Config, mean_ratio: float | None = None) -> StepCost:
        """See `step_cost`."""
        key = config.model_dump_json(include=self._SECTIONS), mean_ratio
        if key not in self._known:
            self._known[key] = step_cost(config, self._shape, mean_ratio)
        return self._known[key]


def step_cost(config: Config, shape: Shape, mean_ratio: float | None = None) -> StepCost:
    """The cost of the configured method.

    Args:
        config: with a method (not from scratch).
        shape: of the samples.
        mean_ratio: as it was in a finished training; None: as the schedule (under feedback, half way) will have it.
    """
    with torch.random.fork_rng(devices=[]):
        model = build_method(config.pretrain.method, config, shape)
    first, mean = _ratios(model, config)
    if first is None or mean is None:
        cost = _flops(model, 0.0)
        return StepCost(cost, cost)
    return StepCost(_flops(model, first), _flops(model, mean if mean_ratio is None else mean_ratio))


def _ratios(model: Method, config: Config) -> tuple[float | None, float | None]:
    if model.scheduled and config.mask.feedback.signal != "none":
        start, end = config.mask.ratio.start, config.mask.ratio.end
        return start, (start + end) / 2
    ratios = [model.ratio(progress) for progress in np.linspace(0, 1, _MOMENTS)]
    known = [ratio for ratio in ratios if ratio is not None]
    return ratios[0], float(np.mean(known)) if known else None


def _flops(model: Method, ratio: float) -> float:
    """Of a sample, at a masking ratio; the strength does not matter to the amount of work."""
    batch = made_up(model.shape, torch.device("cpu"), _SAMPLES)
    model.zero_grad(set_to_none=True)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model([batch] * model.views, ratio, model.strength(0.5) or 0.0, 0).loss.sum().backward()
    return counter.get_total_flops() / _SAMPLES
