"""Metrics against hand-computed cases, a brute-force definition, and MONAI."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_erosion, distance_transform_edt

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
    assert case_metrics(truth, truth) == CaseMetrics(1, 1, 1, 0, 1, 12, 12, 1)


def test_empty_prediction_is_the_worst() -> None:
    truth = np.zeros((30, 40), bool)
    truth[3, 3] = True
    metrics = case_metrics(np.zeros_like(truth), truth, spacing=(1.0, 1.0))
    assert (metrics.dsc, metrics.ppv, metrics.sen, metrics.hd95) == (0, 0, 0, 50)
    assert (metrics.lesion_sen, metrics.lesions) == (0, 1)


def test_lesion_free_case_has_no_overlap_metrics() -> None:
    found = np.zeros((4, 4), bool)
    found[0, 0] = True
    metrics = case_metrics(found, np.zeros_like(found))
    assert math.isnan(metrics.dsc)
    assert math.isnan(metrics.hd95)
    assert math.isnan(metrics.lesion_sen)
    assert (metrics.lesion, metrics.predicted, metrics.lesions) == (0, 1, 0)


def test_lesions_found_by_hand() -> None:
    truth = np.zeros((9, 12), bool)
    truth[1:4, 1:4] = True
    truth[4, 4] = True  # joined by a corner
    truth[1, 8:11] = truth[7, 7] = True  # two lesions more
    found = np.zeros_like(truth)
    found[1, 10:] = True  # a pixel of the second
    assert case_metrics(found, truth) == case_metrics(found[::-1], truth[::-1])
    metrics = case_metrics(found, truth)
    assert (metrics.lesion_sen, metrics.lesions) == (pytest.approx(1 / 3), 3)
    found[4, 4] = found[0, 0] = True  # the first, by its corner; what lies outside finds nothing
    assert case_metrics(found, truth).lesion_sen == pytest.approx(2 / 3)
    found[6:8, 6:8] = True
    assert case_metrics(found, truth).lesion_sen == 1
    assert case_metrics(~truth, truth).lesion_sen == 0


def test_specks_are_no_lesions_where_a_least_size_says_so() -> None:
    truth = np.zeros((8, 8), bool)
    truth[0:2, 0:2] = True  # 4 pixels
    truth[0:3, 5] = True  # 3 pixels
    truth[6, 6] = True  # a speck
    found = np.zeros_like(truth)
    found[0, 0] = found[6, 6] = True
    expected = {0: (2 / 3, 3), 1: (2 / 3, 3), 2: (1 / 2, 2), 3: (1 / 2, 2), 4: (1, 1)}
    everything = case_metrics(found, truth)
    for least, (sen, lesions) in expected.items():
        metrics = case_metrics(found, truth, least=least)
        assert (metrics.lesion_sen, metrics.lesions) == (pytest.approx(sen), lesions)
        assert replace(metrics, lesion_sen=0, lesions=0) == replace(everything, lesion_sen=0, lesions=0)
    specks = [case_metrics(prediction, truth, least=5) for prediction in (found, np.zeros_like(truth))]
    assert all(math.isnan(metrics.lesion_sen) and metrics.lesions == 0 for metrics in specks)
    assert specks[0].dsc == everything.dsc
    assert case_metrics(np.zeros_like(truth), truth, least=4).lesion_sen == 0
    summary = summarise([*specks, case_metrics(found, truth, least=2)])  # in the mean are the cases that have lesions
    assert (summary["lesion_sen"], summary["lesions"], summary["cases"]) == (0.5, 2, 3)
    assert summarise(specks)["lesion_sen"] is None


def test_lesions_of_a_volume_are_joined_across_slices() -> None:
    truth = np.zeros((4, 6, 6), bool)
    truth[0, 1, 1] = truth[1, 2, 2] = truth[3, 1, 1] = True
    found = np.zeros_like(truth)
    found[1, 2, 2] = True
    metrics = case_metrics(found, truth, (5.0, 1.0, 1.0))
    assert (metrics.lesion_sen, metrics.lesions) == (0.5, 2)


def test_summary_keeps_lesion_free_cases_apart() -> None:
    nan = math.nan
    cases = [
        CaseMetrics(0.5, 0.4, 0.6, 3, 0.5, 10, 15, 4),
        CaseMetrics(0.7, 0.8, 0.6, 5, 1, 10, 8, 1),
        CaseMetrics(nan, nan, nan, nan, nan, 0, 3, 0),
        CaseMetrics(nan, nan, nan, nan, nan, 0, 0, 0),
        CaseMetrics(nan, nan, nan, nan, nan, 0, 0, 0),
    ]
    means = {"dsc": 0.6, "ppv": 0.6, "sen": 0.6, "hd95": 4, "lesion_sen": 0.75, "cases": 2, "lesions": 5}
    assert summarise(cases) == pytest.approx(means | {"false_positive_rate": 1 / 3, "lesion_free_cases": 3})
    assert summarise(cases[2:])["lesion_sen"] is None
    assert summarise(cases[2:])["dsc"] is None
    assert summarise(cases[:2])["false_positive_rate"] is None


@settings(max_examples=60)
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


def scattered(places: list[list[tuple[int, int, int]]]) -> np.ndarray:
    regions = np.zeros((2, 9, 9, 9), bool)
    for region, points in zip(regions, places, strict=True):
        region[tuple(np.transpose(points))] = True
    return regions


NOISE = arrays(bool, st.tuples(st.just(2), *[st.integers(1, 6)] * 3))
POINTS = st.lists(st.lists(st.tuples(*[st.integers(0, 8)] * 3), min_size=1, max_size=9), min_size=2, max_size=2)


@settings(max_examples=100)
@given(st.one_of(NOISE, POINTS.map(scattered)), st.integers(0, 4), st.tuples(*[st.floats(0.5, 5)] * 3))
def test_hd95_is_that_of_distance_maps_over_the_whole_volume(
    regions: np.ndarray, around: int, spacing: tuple[float, float, float]
) -> None:
    first, second = (np.pad(region, ((around, 0), (0, around), (around, around))) for region in regions)
    if not first.any() or not second.any():
        return
    one, two = (region & ~binary_erosion(region) for region in (first, second))
    there = distance_transform_edt(~two, sampling=spacing)[one]
    back = distance_transform_edt(~one, sampling=spacing)[two]
    expected = max(np.percentile(there, 95), np.percentile(back, 95))
    assert hausdorff95(first, second, spacing) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_hd95_of_a_large_volume_is_fast() -> None:
    truth = _ellipsoid((200, 200, 200), (100, 100, 100), (40, 40, 40))
    found = _ellipsoid((200, 200, 200), (100, 104, 100), (40, 40, 40))
    found[2, 2, 2] = found[197, 197, 197] = True  # two false findings, as far apart as can be
    start = time.process_time()
    hd95 = hausdorff95(found, truth, (1.5, 1.0, 1.0))
    assert time.process_time() - start < 2
    assert 3 < hd95 < 4.1  # the shift, were it not for the sides that it moves along themselves


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [
        ((32, 40), (1.0, 1.0)),
        ((32, 40), (0.7, 1.3)),
        ((9, 16, 14), (3.0, 1.0, 1.5)),
        ((14, 20, 18), (5.0, 0.9, 0.45)),
    ],
)
def test_parity_with_monai(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    monai = pytest.importorskip("monai.metrics")
    generator = np.random.default_rng(len(shape))
    for _ in range(5):
        truth, found = _blob(generator, shape), _blob(generator, shape)
        found |= _blob(generator, shape)  # two findings, that may lie apart
        metrics = case_metrics(found, truth, spacing)
        a, b = (torch.from_numpy(m[None, None].astype(np.float32)) for m in (found, truth))
        assert metrics.dsc == pytest.approx(float(monai.compute_dice(a, b)), abs=1e-6)
        hd95 = monai.compute_hausdorff_distance(a, b, percentile=95, spacing=list(spacing))
        assert metrics.hd95 == pytest.approx(float(hd95), abs=1e-4)
        confusion = monai.get_confusion_matrix(a, b)
        assert metrics.sen == pytest.approx(float(monai.compute_confusion_matrix_metric("sensitivity", confusion)))
        assert metrics.ppv == pytest.approx(float(monai.compute_confusion_matrix_metric("precision", confusion)))


def _blob(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    centre = [generator.uniform(0.3, 0.7) * n for n in shape]
    radius = [generator.uniform(0.15, 0.3) * n for n in shape]
    return _ellipsoid(shape, centre, radius)


def _ellipsoid(shape: Sequence[int], centre: Sequence[float], radius: Sequence[float]) -> np.ndarray:
    axes = np.ogrid[tuple(slice(0, n) for n in shape)]
    return np.asarray(sum(((a - c) / r) ** 2 for a, c, r in zip(axes, centre, radius, strict=True)) < 1)
