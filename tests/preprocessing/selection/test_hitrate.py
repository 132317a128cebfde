from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preprocessing.selection.hitrate import SHARES, LesionPatches, lesion_patches, ranked_hit_rate


def test_by_hand() -> None:
    # 8 patches of 2 pixels, the last two padding; lesion patches are 0, 1, 2 (patch 3 is half lesion: not more)
    label = np.zeros((1, 8, 2), np.uint8)
    label[0, :3], label[0, 3, 0], label[0, 6] = 1, 1, 1
    valid = np.array([[255, 255, 255, 128, 255, 255, 127, 0]], np.uint8)
    scores = np.array([[6.0, 1.0, 5.0, 4.0, 3.0, 2.0, 99.0, 98.0]])  # padding would come first if it counted
    # 6 candidates in the order 0 2 3 4 5 1: the first 2 (round 1.5) hold two lesion patches, the first 3 no more
    rate = ranked_hit_rate(scores, lesion_patches(label, valid), (0.25, 0.5, 0.75, 1.0))
    assert rate.rates == pytest.approx({0.25: 2 / 3, 0.5: 2 / 3, 0.75: 2 / 3, 1.0: 1.0})
    assert rate.cases == 1


def test_images_with_fewer_than_three_lesion_patches_do_not_count() -> None:
    label = np.zeros((2, 9, 4), np.uint8)
    label[0, :2], label[1, :3] = 1, 1
    valid = np.full((2, 9), 255, np.uint8)
    assert ranked_hit_rate(np.zeros((2, 9)), lesion_patches(label, valid)).cases == 1
    assert ranked_hit_rate(np.zeros((1, 9)), lesion_patches(label[:1], valid[:1])) == ({}, 0)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), patches=st.integers(9, 60))
def test_equals_a_naive_loop(seed: int, patches: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.permutation(patches * 5).reshape(5, patches).astype(np.float32)
    label = (rng.random((5, patches, 3)) < 0.45).astype(np.uint8)
    valid = rng.integers(0, 256, (5, patches)).astype(np.uint8)
    found: dict[float, list[float]] = {share: [] for share in SHARES}
    for image in range(5):
        real = [n for n in range(patches) if valid[image, n] >= 128]
        lesion = {n for n in real if label[image, n].sum() * 2 > 3}
        if len(lesion) < 3:
            continue
        order = sorted(real, key=lambda n: -scores[image, n])
        for share in SHARES:
            first = order[: round(share * len(real))]
            found[share].append(len(lesion & set(first)) / len(lesion))
    rate = ranked_hit_rate(scores, lesion_patches(label, valid))
    assert rate.cases == len(found[0.25])
    if rate.cases:
        assert rate.rates == pytest.approx({share: np.mean(values) for share, values in found.items()})


def _truth(images: int = 300) -> LesionPatches:
    rng = np.random.default_rng(0)
    label = np.zeros((images, 256, 1), np.uint8)
    label[:, 100:120] = 1
    valid = np.where(rng.random((images, 256)) < 0.8, 255, 0).astype(np.uint8)
    return lesion_patches(label, valid)


@pytest.mark.parametrize("constant", [False, True])
def test_a_ranking_that_says_nothing_is_chance(constant: bool) -> None:
    truth = _truth()
    scores = np.zeros(truth.lesion.shape) if constant else np.random.default_rng(1).random(truth.lesion.shape)
    rates = ranked_hit_rate(scores, truth).rates
    assert rates == pytest.approx({0.1: 0.1, 0.25: 0.25, 0.5: 0.5, 0.75: 0.75}, abs=0.02)


def test_perfect_scores_find_all_and_shuffled_ones_fall_to_chance() -> None:
    truth = _truth()
    scores = truth.lesion.astype(np.float32)
    assert ranked_hit_rate(scores, truth).rates[0.25] == 1
    shuffled = np.random.default_rng(2).permuted(scores, axis=1)
    assert ranked_hit_rate(shuffled, truth).rates[0.25] == pytest.approx(0.25, abs=0.02)
