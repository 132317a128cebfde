"""Counts against DSC computed case by case, and the rule that picks a threshold."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.segmentation.metrics import case_metrics
from pipeline.segmentation.threshold import DEFAULT, THRESHOLDS, Choice, ThresholdCounts, choose_thresholds


def test_counts_give_each_cases_dsc_whatever_the_batches() -> None:
    generator = torch.Generator().manual_seed(1)
    probability = torch.rand(6, 2, 5, 7, generator=generator)
    target = torch.rand(6, 2, 5, 7, generator=generator) < 0.4
    target[4:, 1] = False
    case = torch.tensor([0, 0, 1, 1, 2, 2])  # two samples a case
    whole, parts = (ThresholdCounts(3, 2, torch.device("cpu")) for _ in range(2))
    whole.add(case, probability, target)
    for rows in ([0, 5], [1, 2, 3], [4]):
        parts.add(case[rows], probability[rows], target[rows])
    dsc = whole.dsc()
    assert np.array_equal(dsc, parts.dsc(), equal_nan=True)
    assert np.isnan(dsc[2, 1]).all()
    for number, threshold in enumerate(THRESHOLDS):
        for c, r in ((0, 0), (1, 1), (2, 0)):
            rows = case == c
            # the two samples of a case laid side by side are one image
            found = case_metrics((probability[rows, r] > threshold).numpy(), target[rows, r].numpy())
            assert dsc[c, r, number] == pytest.approx(found.dsc)


def table(by_threshold: dict[float, list[float]], rest: float = 0.1) -> np.ndarray:
    cases = len(next(iter(by_threshold.values())))
    dsc = np.full((cases, 1, len(THRESHOLDS)), rest)
    for threshold, values in by_threshold.items():
        dsc[:, 0, THRESHOLDS.index(threshold)] = values
    return dsc


def test_a_clear_winner_is_taken() -> None:
    choice = choose_thresholds(table({0.3: [0.8, 0.7, 0.9, 0.8], DEFAULT: [0.5, 0.4, 0.6, 0.52]}))
    assert choice.thresholds == (0.3,)
    assert choice.dsc == pytest.approx(0.8)


def test_what_cannot_be_told_apart_is_cut_at_half_the_best_dsc() -> None:
    choice = choose_thresholds(table({0.7: [0.8, 0.2, 0.9, 0.5], 0.3: [0.5, 0.5, 0.5, 0.8]}))
    assert choice.thresholds == (0.3,)  # the best mean is .6, and .575 is within the error of it
    alike = np.full((4, 1, len(THRESHOLDS)), 0.8)
    assert choose_thresholds(alike).thresholds == (0.4,)


@pytest.mark.parametrize(("errors", "threshold"), [(1.5, 0.25), (2.5, 0.7)])
def test_a_threshold_is_better_by_more_than_two_standard_errors_or_not(errors: float, threshold: float) -> None:
    gain = np.array([-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0])
    gain = 0.03 * (gain / gain.std(ddof=1) + errors / 3)  # of nine cases: the mean is so many standard errors
    dsc = np.full((9, 1, len(THRESHOLDS)), 0.5)
    dsc[:, 0, THRESHOLDS.index(0.7)] += gain
    assert choose_thresholds(dsc).thresholds == (threshold,)


def test_half_the_best_dsc_is_the_best_threshold_of_a_calibrated_probability() -> None:
    """Pixels that are lesion with probability p, as a segmenter that knows p would say: every threshold is tried."""
    rng = np.random.default_rng(0)
    p = rng.beta(0.4, 1.2, 400_000)
    lesion = rng.random(p.size) < p
    dsc = [2 * (lesion & (p > t)).sum() / (lesion.sum() + (p > t).sum()) for t in np.arange(0.02, 0.98, 0.02)]
    assert np.arange(0.02, 0.98, 0.02)[int(np.argmax(dsc))] == pytest.approx(max(dsc) / 2, abs=0.03)


def test_without_lesion_cases_there_is_no_dsc() -> None:
    choice = choose_thresholds(np.full((3, 2, len(THRESHOLDS)), np.nan))
    assert choice.thresholds == (DEFAULT, DEFAULT)
    assert choice.dsc is None


def test_a_single_case_gives_its_best_threshold() -> None:
    assert choose_thresholds(table({0.7: [0.9]})).thresholds == (0.7,)


def test_regions_that_a_case_lacks_do_not_count() -> None:
    dsc = np.stack([table({0.3: [0.8, 0.6]})[:, 0], table({0.6: [0.4, 0.2]})[:, 0]], axis=1)
    dsc[1, 1] = np.nan
    choice = choose_thresholds(dsc)
    assert choice.thresholds == (0.3, 0.6)
    assert choice.cases == pytest.approx((0.6, 0.6))


def test_as_good_as_is_within_one_standard_error() -> None:
    peak = Choice((0.5,), (0.8, 0.6, 0.7, 0.5))
    assert Choice((0.5,), (0.9, 0.4, 0.7, 0.5)).as_good_as(peak)  # 0.025 less, standard error 0.063
    assert not Choice((0.5,), (0.75, 0.55, 0.65, 0.44)).as_good_as(peak)  # a little less everywhere
    assert not Choice((0.5,), (0.8, 0.4, 0.66, 0.46)).as_good_as(peak)  # 0.07 less, standard error 0.044
    assert Choice((0.5,), (0.8, 0.4, 0.66, 0.46)).as_good_as(peak, errors=2.0)
    assert not Choice((0.5,), (0.59,)).as_good_as(Choice((0.5,), (0.6,)))
    assert Choice((0.5,)).as_good_as(Choice((0.5,)))
