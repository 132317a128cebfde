"""Masked patches selection: code books fitted on training patches, and a lesion score for every patch from them.

The score of a patch comes from the clusters that it belongs to, never from its features alone:
score(x) = mean over the code books of sum over the clusters k of p(k | x) * s_k, where s_k is what the rule says of
cluster k from its statistics, and p is a hard or a soft assignment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import AfterValidator, Field, field_validator
from torch import Tensor

from preprocessing.errors import RunError
from preprocessing.selection.feature_table import FeatureTable
from preprocessing.selection.features import Polarity, check_name
from preprocessing.selection.kmeans import Clusters, kmeans, soft_assign
from preprocessing.selection.neighbourhood import smooth
from preprocessing.selection.rules import RULES, SIZE, rank_clusters, rule_features, rule_weights
from preprocessing.settings import Settings


def check_evidence(name: str) -> str:
    """The name of a patch feature or of a cluster's `size`.

    Raises:
        ValueError: there is no such feature.
    """
    return name if name == SIZE else check_name(name)


_CLAMP = 4.0  # standard deviations: the rare patch beyond would have a cluster for itself
_CHUNK = 2**16  # patches scored at once


class SelectionSettings(Settings):
    """How patches likely to hold lesions are found, without labels."""

    features: tuple[Annotated[str, AfterValidator(check_name)], ...] = Field(
        ("enclosure", "enclosure_weak", "place_enclosure", "basin", "scatter3"),
        min_length=1,
        description="Patch features that are clustered.",
    )
    polarity: tuple[Polarity, ...] = Field(
        ("dark",),
        min_length=1,
        description="Lesions against surroundings: dark, bright or both; one, or one a channel.",
    )
    rule: str = Field("lesion", description=f"Rule that ranks the clusters: {', '.join(RULES)}.")
    weights: dict[Annotated[str, AfterValidator(check_evidence)], float] = Field(
        {}, description="A rule of one's own in place of a named one: weights of patch features, or of `size`."
    )
    location_prior: float = Field(0.0, ge=0, description="Weight of nearness to the image centre; 0 is off.")
    clusters: int = Field(64, ge=2, le=4096, description="Clusters of a code book (k).")
    codebooks: int = Field(3, ge=1, description="Code books, fitted with different seeds, whose scores are averaged.")
    restarts: int = Field(2, ge=1, description="k-means runs for each code book, of which the best is kept.")
    iterations: int = Field(25, ge=1, description="k-means iterations at most.")
    patches: int = Field(40_000, ge=100, description="Training patches that k-means sees at most, drawn at random.")
    assign: Literal["hard", "soft"] = Field("soft", description="Assignment of a patch to the clusters.")
    temperature: float = Field(1.0, gt=0, description="Softness: in units of the mean squared distance to a centre.")
    smoothing: int = Field(2, ge=0, description="Rounds of mixing a patch's score with that of its neighbours.")
    refresh: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Progress of pretraining at which the encoder's own tokens are clustered; 0 is never.",
    )

    @field_validator("rule")
    @classmethod
    def _known(cls, rule: str) -> str:
        if rule not in RULES:
            raise ValueError(f"no rule {rule!r}; there are {', '.join(RULES)}")
        return rule

    def polarities(self, channels: int) -> tuple[Polarity, ...]:
        """One polarity a channel.

        Raises:
            RunError: there are neither one nor as many as channels.
        """
        if len(self.polarity) not in (1, channels):
            raise RunError(
                f"selection.polarity has {len(self.polarity)} entries for {channels} channels; give 1 or {channels}"
            )
        return self.polarity if len(self.polarity) == channels else self.polarity * channels

    def clustered(self) -> tuple[str, ...]:
        """The features that span the space of the clusters: the location prior is one of them when it is on."""
        prior = ("centrality",) if self.location_prior and "centrality" not in self.features else ()
        return self.features + prior

    def columns(self, modalities: Sequence[str] = ()) -> tuple[str, ...]:
        """Every feature that any rule may ask for, so that one table serves them all; brightness of each modality."""
        asked = {name for rule in RULES for name in rule_features(RULES[rule], location_prior=1.0)}
        levels = {f"{name}.level" for name in modalities} if len(modalities) > 1 else set()
        return tuple(sorted(asked | levels | set(rule_features(self.weights)) | set(self.features)))

    @property
    def ranking(self) -> dict[str, float]:
        """The weights of the rule that applies."""
        return self.weights or RULES[self.rule]

    def score_content(self) -> dict[str, Any]:
        """What decides the scores; when they are made again is the pretraining's affair."""
        return self.model_dump(mode="json", exclude={"refresh"})


@dataclass(frozen=True)
class CodeBooks:
    """Clusters of standardised patches, and the score of each cluster.

    Attributes:
        mean, sd: float32 [F], standardise a patch.
        books: centres [k, F] each.
        scores: float32 [k] for each book.
        temperature: of the assignment; 0 is hard.
    """

    mean: Tensor
    sd: Tensor
    books: tuple[Clusters, ...]
    scores: tuple[Tensor, ...]
    temperature: float

    def score(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Score float32 [M] and nearest cluster of the first book int64 [M], for points [M, F] as they were fitted."""
        scores, clusters = [], []
        for part in points.split(_CHUNK):
            standard = _standardise(part, self.mean, self.sd)
            belongs = [soft_assign(standard, book, self.temperature) for book in self.books]
            shares = [p @ score for p, score in zip(belongs, self.scores, strict=True)]
            scores.append(torch.stack(shares).mean(0))
            clusters.append(belongs[0].argmax(-1))
        return torch.cat(scores), torch.cat(clusters)

    def tensors(self) -> dict[str, Tensor]:
        """For storage."""
        stored = {"mean": self.mean, "sd": self.sd, "temperature": torch.tensor(self.temperature)}
        for number, (book, score) in enumerate(zip(self.books, self.scores, strict=True)):
            stored |= {f"centres.{number}": book.centres, f"scores.{number}": score}
            stored[f"width.{number}"] = torch.tensor(book.width)
        return {name: tensor.contiguous() for name, tensor in stored.items()}


def cluster_scores(
    points: Tensor, rank: Callable[[Tensor], Tensor], settings: SelectionSettings, seed: int
) -> CodeBooks:
    """Fit code books on any description of patches and let `rank` score their clusters.

    Args:
        points: float32 [M, F], training patches: hand-made features or an encoder's tokens.
        rank: takes the membership [M, k] of these patches, gives the clusters' scores [k].
        settings: clusters, codebooks, restarts, iterations, assign and temperature are used.
        seed: of the run.
    """
    generator = torch.Generator().manual_seed(seed)
    mean, sd = _moments(points)
    standard = _standardise(points, mean, sd)
    temperature = settings.temperature if settings.assign == "soft" else 0.0
    books = tuple(
        kmeans(standard, settings.clusters, settings.restarts, settings.iterations, generator)
        for _ in range(settings.codebooks)
    )
    scores = tuple(rank(soft_assign(standard, book, temperature)) for book in books)
    return CodeBooks(mean, sd, books, scores, temperature)


def _moments(points: Tensor) -> tuple[Tensor, Tensor]:
    mean = points.mean(0)
    return mean, (points - mean).square().mean(0).sqrt().clamp_min(1e-6)


def _standardise(points: Tensor, mean: Tensor, sd: Tensor) -> Tensor:
    return ((points - mean) / sd).clamp(-_CLAMP, _CLAMP)


def training_patches(table: FeatureTable, train: np.ndarray, settings: SelectionSettings, seed: int) -> np.ndarray:
    """Which patches are learned from: int64 [M], indices into [S * N], ascending; a function of the seed.

    Raises:
        RunError: no training sample has a patch that is mostly real.
    """
    rows, tokens = np.nonzero(table.candidate[train])
    index = train[rows] * table.valid.shape[1] + tokens
    if not len(index):
        raise RunError("no training image has a patch of which at least half is real: is cache.patch too large?")
    if len(index) > settings.patches:
        index = np.random.default_rng(seed).choice(index, settings.patches, replace=False)
    return np.sort(index)


def fit_selection(
    table: FeatureTable,
    train: np.ndarray,
    settings: SelectionSettings,
    seed: int,
    tokens: np.ndarray | None = None,
) -> CodeBooks:
    """Fit on the given samples only.

    Args:
        table: features of all patches.
        train: int64, training samples.
        tokens: [S, N, F], a description to cluster in place of the features, for instance the encoder's tokens;
            the rule still looks at the features of the table.

    Raises:
        RunError: there is nothing to fit on.
    """
    chosen = training_patches(table, train, settings, seed)
    weights = rule_weights(settings.ranking, settings.location_prior)
    asked = rule_features(settings.ranking, settings.location_prior)
    evidence = _rows(table.values, chosen, table.columns(asked))
    evidence = _standardise(evidence, *_moments(evidence))
    points = _points(table, chosen, settings, tokens)
    return cluster_scores(points, lambda membership: rank_clusters(weights, evidence, membership), settings, seed)


def score_patches(
    books: CodeBooks, table: FeatureTable, settings: SelectionSettings, tokens: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and clusters of all patches.

    Returns:
        float32 [S, N], mean 0 and standard deviation 1 over each case's candidates, 0 elsewhere; int16 [S, N],
        the nearest cluster of the first code book, -1 elsewhere.
    """
    candidate = table.candidate
    scores = np.zeros(candidate.shape, np.float32)
    clusters = np.full(candidate.shape, -1, np.int16)
    for start in range(0, len(candidate), 256):
        part = slice(start, start + 256)
        index = np.flatnonzero(candidate[part]) + start * candidate.shape[1]
        score, cluster = books.score(_points(table, index, settings, tokens))
        scores[part][candidate[part]] = score.numpy()
        clusters[part][candidate[part]] = cluster.numpy()
    return standardise_scores(smoothed_scores(scores, table, settings.smoothing), candidate, table.case), clusters


def standardise_scores(scores: np.ndarray, candidate: np.ndarray, case: np.ndarray) -> np.ndarray:
    """float32 [S, N]: mean 0 and standard deviation 1 over the candidates of each case (int [S]), 0 elsewhere.

    Over the case and not the sample, so that a crop without anything lesion-like has low scores throughout.
    """
    number = np.maximum(_by_case(candidate.sum(1), case), 1)
    centred = np.where(candidate, scores - (_by_case((scores * candidate).sum(1), case) / number)[:, None], 0)
    sd = np.sqrt(_by_case((centred**2).sum(1), case) / number)[:, None]
    return np.divide(centred, sd, out=np.zeros_like(centred), where=sd > 1e-6).astype(np.float32)


def _by_case(values: np.ndarray, case: np.ndarray) -> np.ndarray:
    """float64 [S], the sum over all samples of the same case."""
    return np.bincount(case, values.astype(np.float64))[case]


def smoothed_scores(scores: np.ndarray, table: FeatureTable, rounds: int) -> np.ndarray:
    """Scores [S, N] mixed with those of neighbouring candidates, see `neighbourhood.smooth`.

    The crops of a volume are put together for that. Where they overlap and disagree, as they may on an encoder's
    tokens, the later one counts.
    """
    share = np.where(table.candidate, table.valid / np.float32(255), 0)
    score, weight = (torch.from_numpy(values).reshape(len(values), 1, *table.grid) for values in (scores, share))
    if not table.volumes:
        return smooth(score, weight, rounds).reshape(scores.shape).numpy()
    smoothed = np.empty_like(scores)
    for samples, mosaic in table.volumes:
        whole = smooth(mosaic.assemble(score[samples]), mosaic.assemble(weight[samples]), rounds)
        smoothed[samples] = mosaic.cut(whole.flatten(2).mT)[..., 0].numpy()
    return smoothed


def _points(table: FeatureTable, index: np.ndarray, settings: SelectionSettings, tokens: np.ndarray | None) -> Tensor:
    if tokens is None:
        return _rows(table.values, index, table.columns(settings.clustered()))
    return _rows(tokens, index, range(tokens.shape[-1]))


def _rows(values: np.ndarray, index: np.ndarray, columns: Sequence[int]) -> Tensor:
    flat = values.reshape(-1, values.shape[-1])
    return torch.from_numpy(flat[index][:, list(columns)].astype(np.float32))
