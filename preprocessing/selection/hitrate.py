"""How well a ranking of patches finds lesions: the share of lesion patches among the first patches of each case."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from preprocessing.cache import CANDIDATE, PatchCache

SHARES = (0.1, 0.25, 0.5, 0.75)
MIN_LESION_PATCHES = 3


class HitRate(NamedTuple):
    """Mean over cases.

    Attributes:
        rates: share of candidates -> share of lesion patches among them; empty when no case counts.
        cases: those that count (at least 3 lesion patches).
    """

    rates: dict[float, float]
    cases: int


class LesionPatches(NamedTuple):
    """What a ranking is measured against, for S samples of N patches.

    Attributes:
        lesion: bool [S, N], candidates with more than half of their pixels in a lesion.
        candidate: bool [S, N], at most half padding.
        case: int64 [S], number of each sample's case: the samples of a volume are ranked together.
    """

    lesion: np.ndarray
    candidate: np.ndarray
    case: np.ndarray


def candidates(valid: np.ndarray) -> np.ndarray:
    """bool, for shares of real pixels as uint8 (255 = all): at most half padding."""
    return valid >= CANDIDATE


def lesion_patches(label: np.ndarray, valid: np.ndarray) -> LesionPatches:
    """From label [B, N, P] (0 = background) and valid uint8 [B, N]; every sample a case."""
    candidate = candidates(valid)
    return LesionPatches(((label > 0).mean(-1) > 0.5) & candidate, candidate, np.arange(len(valid)))


def ranked_hit_rate(
    scores: np.ndarray, truth: LesionPatches, shares: Sequence[float] = SHARES, seed: int = 0
) -> HitRate:
    """Share of lesion patches among the first round(share * candidates) candidates of a case, highest score first.

    Mean over cases with at least 3 lesion patches. Equal scores are ordered at random (seeded), so that a ranking
    that says nothing scores as chance does.
    """
    ties = np.random.default_rng(seed).random(scores.shape)
    found = []
    for rows in _rows_of_cases(truth.case):
        candidate, lesion = truth.candidate[rows], truth.lesion[rows][truth.candidate[rows]]
        if lesion.sum() < MIN_LESION_PATCHES:
            continue
        order = np.lexsort((ties[rows][candidate], -scores[rows][candidate].astype(np.float64)))
        hits = np.concatenate([[0], lesion[order].cumsum()])
        found.append(hits[np.rint(np.array(shares) * len(order)).astype(np.int64)] / lesion.sum())
    if not found:
        return HitRate({}, 0)
    return HitRate(dict(zip(shares, np.mean(found, axis=0).tolist(), strict=True)), len(found))


def _rows_of_cases(case: np.ndarray) -> list[np.ndarray]:
    order = np.argsort(case, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(case[order])) + 1) if len(case) else []


def read_lesion_patches(cache: PatchCache, samples: np.ndarray) -> LesionPatches:
    """Truth for the given samples of a cache, read block by block; unlabelled samples hold no lesion."""
    samples = np.asarray(samples, np.int64)
    row_of = {int(sample): row for row, sample in enumerate(samples)}
    lesion, candidate = (np.zeros((len(samples), cache.tokens), bool) for _ in range(2))
    truth = LesionPatches(lesion, candidate, cache.case_numbers[samples])
    for block in np.unique(cache.samples["block"].to_numpy()[samples]):
        batch = cache.read_block(int(block))
        part = lesion_patches(batch.label, batch.valid)
        for row, sample in enumerate(batch.sample):
            if int(sample) in row_of:
                truth.lesion[row_of[int(sample)]] = part.lesion[row]
                truth.candidate[row_of[int(sample)]] = part.candidate[row]
    return truth
