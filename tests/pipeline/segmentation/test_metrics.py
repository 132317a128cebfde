"""Metrics against hand-computed cases, a brute-force definition, and MONAI."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.segmentation.metrics import CaseMetrics, case_metrics, hausdorff95, summarise


def test_overlap_by_hand() -> None:
    truth = np.zeros((6, 6), bool)
    truth[1:4, 1:4] = True  # 9 pixels
    found = np.zeros((6, 6), bool)
    found[2:4, 2:6] = True  # 8 pixels, 4 of them shared
    metrics = case_metrics(found, truth)
    assert (metrics.lesion, metrics.predicted) == (9, 8)
    assert metrics.dsc == pytest.approx(8 / 17)
    assert metrics.ppv == pytest.approx(4 / 8)
    assert metrics.sen == pytest.approx(4 / 9)


def test_hd95_of_two_points_is_their_distance() -> None:
    first, second = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    first[1, 1] = second[4, 5] = True
    assert hausdorff95(first, second) == pytest.approx(5.0)
    assert hausdorff95(first, second, spacing=(2.0, 1.0)) == pytest.approx(math.hypot(6, 4))


def test_hd95_interpolates_the_percentile() -> None:
    first, second = np.zeros((1, 12), bool), np.zeros((1, 12), bool)
    first[0, :10] = second[0, 0] = True  # distances 0..9 there, 0 back
    assert hausdorff95(first, second) == pytest.approx(np.percentile(np.arange(10), 95)) == pytest.approx(8.55)


def test_perfect_prediction() -> None:
    truth = np.zeros((5, 5, 5), bool)
    truth[1:3, 2:4, 1:4] = True
    assert case_metrics(truth, truth) == CaseMetrics(1, 1, 1, 0, 12, 12)


def test_empty_prediction_is_the_worst() -> None:
    truth = np.zeros((30, 40), bool)
    truth[3, 3] = True
    metrics = case_metrics(np.zeros_like(truth), truth, spacing=(1.0, 1.0))
    assert (metrics.dsc, metrics.ppv, metrics.sen, metrics.hd95) == (0, 0, 0, 50)


def test_lesion_free_case_has_no_overlap_metrics() -> None:
    found = np.zeros((4, 4), bool)
    found[0, 0] = True
    metrics = case_metrics(found, np.zeros_like(found))
    assert math.isnan(metrics.dsc)
    assert math.isnan(metrics.hd95)
    assert (metrics.lesion, metrics.predicted) == (0, 1)


def test_summary_keeps_lesion_free_cases_apart() -> None:
    nan = math.nan
    cases = [
        CaseMetrics(0.5, 0.4, 0.6, 3, 10, 15),
        CaseMetrics(0.7, 0.8, 0.6, 5, 10, 8),
        CaseMetrics(nan, nan, nan, nan, 0, 3),
        CaseMetrics(nan, nan, nan, nan, 0, 0),
        CaseMetrics(nan, nan, nan, nan, 0, 0),
    ]
    means = {"dsc": 0.6, "ppv": 0.6, "sen": 0.6, "hd95": 4, "cases": 2}
    assert summarise(cases) == pytest.approx(means | {"false_positive_rate": 1 / 3, "lesion_free_cases": 3})
    assert summarise(cases[2:])["dsc"] is None
    assert summarise(cases[:2])["false_positive_rate"] is None


@settings(max_examples=60, deadline=None)
@given(arrays(bool, (2, 7, 6)), st.tuples(st.floats(0.5, 3), st.floats(0.5, 3)))
def test_hd95_is_the_definition(regions: np.ndarray, spacing: tuple[float, float]) -> None:
    first, second = regions
    if not first.any() or not second.any():
        return

    def border(region: np.ndarray) -> list[tuple[int, int]]:
        padded = np.pad(region, 1)
        steps = ((0, 1), (1, 0), (0, -1), (-1, 0))
        return [(y, x) for y, x in np.argwhere(region) if not all(padded[y + 1 + dy, x + 1 + dx] for dy, dx in steps)]

    def distances(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> list[float]:
        return [min(math.hypot((y - v) * spacing[0], (x - w) * spacing[1]) for v, w in b) for y, x in a]

    one, two = border(first), border(second)
    expected = max(np.percentile(distances(one, two), 95), np.percentile(distances(two, one), 95))
    assert hausdorff95(first, second, spacing) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("shape", "spacing"), [((32, 40), (1.0, 1.0)), ((32, 40), (0.7, 1.3)), ((9, 16, 14), (3.0, 1.0, 1.5))]
)
def test_parity_with_monai(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    monai = pytest.importorskip("monai.metrics")
    generator = np.random.default_rng(len(shape))
    for _ in range(5):
        truth, found = _blob(generator, shape), _blob(generator, shape)
        metrics = case_metrics(found, truth, spacing)
        a, b = (torch.from_numpy(m[None, None].astype(np.float32)) for m in (found, truth))
        assert metrics.dsc == pytest.approx(float(monai.compute_dice(a, b)), abs=1e-6)
        hd95 = monai.compute_hausdorff_distance(a, b, percentile=95, spacing=list(spacing))
        assert metrics.hd95 == pytest.approx(float(hd95), abs=1e-4)
        confusion = monai.get_confusion_matrix(a, b)
        assert metrics.sen == pytest.approx(float(monai.compute_confusion_matrix_metric("sensitivity", confusion)))
        assert metrics.ppv == pytest.approx(float(monai.compute_confusion_matrix_metric("precision", confusion)))


def _blob(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    axes = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    centre = [generator.uniform(0.3, 0.7) * n for n in shape]
    radius = [generator.uniform(0.15, 0.3) * n for n in shape]
    return sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radius, strict=True)) < 1
