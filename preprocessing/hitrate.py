"""How well a ranking of patches finds lesions: the share of lesion patches among the first patches of each image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from preprocessing.cache import PatchCache

SHARES = (0.1, 0.25, 0.5, 0.75)
MIN_LESION_PATCHES = 3


class HitRate(NamedTuple):
    """Mean over images.

    Attributes:
        rates: share of candidates -> share of lesion patches among them; empty when no image counts.
        cases: images that count (at least 3 lesion patches).
    """

    rates: dict[float, float]
    cases: int


class LesionPatches(NamedTuple):
    """What a ranking is measured against, for S samples of N patches.

    Attributes:
        lesion: bool [S, N], candidates with more than half of their pixels in a lesion.
        candidate: bool [S, N], at most half padding.
    """

    lesion: np.ndarray
    candidate: np.ndarray


def candidates(valid: np.ndarray) -> np.ndarray:
    """bool, for shares of real pixels as uint8 (255 = all): at most half padding."""
    return valid >= 128


def lesion_patches(label: np.ndarray, valid: np.ndarray) -> LesionPatches:
    """From label [B, N, P] (0 = background) and valid uint8 [B, N]."""
    candidate = candidates(valid)
    return LesionPatches(((label > 0).mean(-1) > 0.5) & candidate, candidate)


def hit_rate(
    scores: np.ndarray, label: np.ndarray, valid: np.ndarray, shares: Sequence[float] = SHARES, seed: int = 0
) -> HitRate:
    """Hit rate of scores [B, N] (higher first) for label [B, N, P] and valid uint8 [B, N]; see `ranked_hit_rate`."""
    return ranked_hit_rate(scores, lesion_patches(label, valid), shares, seed)


def ranked_hit_rate(
    scores: np.ndarray, truth: LesionPatches, shares: Sequence[float] = SHARES, seed: int = 0
) -> HitRate:
    """Share of lesion patches among the first round(share * candidates) candidates, highest score first.

    Mean over samples with at least 3 lesion patches. Equal scores are ordered at random (seeded), so that a
    ranking that says nothing scores as chance does.
    """
    counted = truth.lesion.sum(1) >= MIN_LESION_PATCHES
    if not counted.any():
        return HitRate({}, 0)
    lesion, candidate = truth.lesion[counted], truth.candidate[counted]
    values = np.where(candidate, scores[counted].astype(np.float64), -np.inf)
    ties = np.random.default_rng(seed).random(values.shape)
    order = np.lexsort((ties, -values), axis=1)
    found = np.take_along_axis(lesion, order, 1).cumsum(1)
    number = candidate.sum(1)
    rates = {}
    for share in shares:
        first = np.rint(share * number).astype(np.int64)
        hits = np.where(first > 0, found[np.arange(len(found)), np.maximum(first - 1, 0)], 0)
        rates[share] = float((hits / lesion.sum(1)).mean())
    return HitRate(rates, len(lesion))


def read_lesion_patches(cache: PatchCache, samples: np.ndarray) -> LesionPatches:
    """Truth for the given samples of a cache, read block by block; unlabelled samples hold no lesion."""
    samples = np.asarray(samples, np.int64)
    row_of = {int(sample): row for row, sample in enumerate(samples)}
    truth = LesionPatches(*(np.zeros((len(samples), cache.tokens), bool) for _ in range(2)))
    for block in np.unique(cache.samples["block"].to_numpy()[samples]):
        batch = cache.read_block(int(block))
        part = lesion_patches(batch.label, batch.valid)
        for row, sample in enumerate(batch.sample):
            if int(sample) in row_of:
                truth.lesion[row_of[int(sample)]] = part.lesion[row]
                truth.candidate[row_of[int(sample)]] = part.candidate[row]
    return truth
