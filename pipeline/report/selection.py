"""How well the lesion scores find lesions, where there are labels to tell, and pictures of what they select."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from upath import UPath

from preprocessing.cache import PatchCache
from preprocessing.geometry.patchify import unpatchify
from preprocessing.selection import baselines
from preprocessing.selection.feature_table import FeatureTable
from preprocessing.selection.hitrate import SHARES, LesionPatches, ranked_hit_rate, read_lesion_patches
from preprocessing.selection.scores import ScoreTable
from preprocessing.splits import Splits
from preprocessing.storage import make_folder

_PICTURES = 6


def report_selection(
    cache: PatchCache,
    splits: Splits,
    table: ScoreTable,
    features: FeatureTable,
    fitted: Sequence[str],
    folder: UPath,
    seed: int,
) -> dict[str, Any]:
    """Hit rates of the scores, of random ones and of a rule without clusters; pictures in `folder`.

    Judged on the test cases; where there are none, on the labelled training cases.

    Args:
        cache, splits, table, features: of the run.
        fitted: cases that the clusters were fitted on; the pictures say whether they are among them.
        folder: where to.
        seed: of the random scores.

    Returns:
        the "selection" part of metrics.json; empty without labels.
    """
    test = splits.cases("test")
    cases = test or splits.labelled("train")
    samples = cache.sample_indices(cases)
    samples = samples[cache.samples["labelled"].to_numpy()[samples]]
    if not len(samples):
        return {}
    truth = read_lesion_patches(cache, samples)
    rankings = {
        "lesion_hit_rate": table.scores,
        "random": baselines.random_scores(features, seed),
        **_without_clusters(cache, features),
    }
    found = {name: ranked_hit_rate(scores[samples], truth) for name, scores in rankings.items()}
    if not found["lesion_hit_rate"].cases:
        return {}
    seen = set(cases) & set(fitted)
    told = f"{'Test' if test else 'Training'} cases, {'which' if seen else 'none of which'} the clusters were fitted on"
    _draw(cache, table.scores, samples, truth, folder, told)
    # of several modalities the one that the labels of these cases say is best: hard to beat without labels
    rule = max(found.keys() - {"lesion_hit_rate", "random"}, key=lambda name: (found[name].rates[SHARES[0]], name))
    named = {"lesion_hit_rate": "lesion_hit_rate", "random": "random", "no_clusters": rule}
    rates = {name: {str(share): rate for share, rate in found[key].rates.items()} for name, key in named.items()}
    judged = {"judged_on": "test" if test else "train", "cases": found["lesion_hit_rate"].cases}
    return {**rates, **judged, "no_clusters_rule": rule}


def _without_clusters(cache: PatchCache, features: FeatureTable) -> dict[str, np.ndarray]:
    """What needs no clusters: the brightness of each modality where there are several, else a rank-sum."""
    if cache.channels > 1:
        return {f"brightness of {name}": baselines.brightness(features, name) for name in cache.modalities}
    return {"darkness for the place and centrality": baselines.rank_sum(features)}


def _first_quarter(scores: np.ndarray, truth: LesionPatches, shown: np.ndarray) -> np.ndarray:
    """The score above which the first quarter of the case's candidates lies, for each sample shown."""
    cases = [truth.case == truth.case[row] for row in shown]
    return np.array([np.quantile(scores[rows][truth.candidate[rows]], 0.75) for rows in cases])


def _draw(
    cache: PatchCache, scores: np.ndarray, samples: np.ndarray, truth: LesionPatches, folder: UPath, caption: str
) -> None:
    """Image with the label's outline, score, and the first quarter of its patches: a column a case.

    Of a volume the sample with most lesion is shown, of a crop the slice with most.
    """
    size = truth.lesion.sum(1)
    largest = np.lexsort((-size, truth.case))
    largest = largest[np.unique(truth.case[largest], return_index=True)[1]]
    with_lesion = largest[size[largest] > 0]  # a case counts by all of its samples together
    shown = with_lesion[np.linspace(0, len(with_lesion) - 1, min(_PICTURES, len(with_lesion))).astype(int)]
    batch = cache.read(samples[shown])
    pixels = int(np.prod(cache.patch))

    lesion = unpatchify(batch.label > 0, cache.size, cache.patch, 1)[:, 0]
    depth = None if lesion.ndim == 3 else lesion.sum(axis=(2, 3)).argmax(1)

    def plane(patches: np.ndarray, channels: int) -> np.ndarray:
        image = unpatchify(patches, cache.size, cache.patch, channels)[:, 0]
        return image if depth is None else image[np.arange(len(image)), depth]

    image, label = plane(batch.patches.astype(np.float32), cache.channels), plane((batch.label > 0) * 1.0, 1)
    values, candidate = scores[samples[shown]], truth.candidate[shown]
    first = candidate & (values >= _first_quarter(scores[samples], truth, shown)[:, None])
    score_map, chosen = (plane(np.repeat(v[..., None], pixels, -1), 1) for v in (values, first * 1.0))
    figure = Figure(figsize=(2.3 * len(shown), 6.6), layout="constrained")
    axes = figure.subplots(3, len(shown), squeeze=False)
    for column in range(len(shown)):
        for row in axes[:, column]:
            row.imshow(image[column], cmap="gray", vmin=0, vmax=1)
            row.set(xticks=[], yticks=[])
        axes[1, column].imshow(score_map[column], cmap="magma", alpha=0.8)
        axes[2, column].imshow(np.ma.masked_equal(chosen[column], 0), cmap="autumn", alpha=0.5)
        for row in axes[::2, column]:
            row.contour(label[column], [0.5], colors="tab:cyan", linewidths=1)
        axes[0, column].set_title(cache.samples["case"].iloc[samples[shown[column]]], fontsize=8)
    for row, name in zip(axes[:, 0], ("image and label", "lesion score", "first 25 % of the case"), strict=True):
        row.set_ylabel(name, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90, metadata={"Description": caption})
    path = folder / "pictures" / "selection.png"
    make_folder(path.parent)
    path.write_bytes(buffer.getvalue())
