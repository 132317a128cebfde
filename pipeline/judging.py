"""What is done with a finished segmenter on the device: choosing its least component size, and judging it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from upath import UPath

from pipeline.evaluate import evaluate
from pipeline.segmentation.cleaning import choose_least_sizes
from pipeline.segmentation.inference import InferenceSettings, Predictor
from pipeline.training.progress import StageProgress
from preprocessing.case import Case

if TYPE_CHECKING:
    from pipeline.config import Config


def predictor_for(checkpoint: str, settings: InferenceSettings, config: Config) -> Predictor:
    """The segmenter of a checkpoint on this process's device."""
    return Predictor(checkpoint, settings, config.resources.device, config.resources.precision)


def choose_sizes(config: Config, segmenter: str, cases: Sequence[Case]) -> None:
    """Choose the least component size on labelled validation cases, and write it into the segmenter's card."""
    predictor = predictor_for(segmenter, config.evaluate, config)
    nothing = (0.0,) * len(predictor.card.classes)
    predictor.card = replace(predictor.card, least_sizes=nothing)  # a former choice has no say in this one
    choose_least_sizes(predictor, cases, UPath(segmenter))


def judge(config: Config, checkpoint: str, cases: Sequence[Case], folder: str) -> dict[str, Any]:
    """Metrics of labelled cases into `folder`; returns their summary (see `pipeline.evaluate`).

    Raises:
        RunError: not one of the cases could be read.
    """
    predictor = predictor_for(checkpoint, config.evaluate, config)
    with StageProgress("evaluate", len(cases), "cases") as progress:
        return evaluate(predictor, cases, config.evaluate, UPath(folder), progress.update).summary
