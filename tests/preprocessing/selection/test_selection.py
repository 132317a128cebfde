from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from preprocessing.errors import RunError
from preprocessing.selection.baselines import evidence_sum, pixel_kmeans, random_scores, rank_sum
from preprocessing.selection.benchmark import selection_table
from preprocessing.selection.feature_graph import feature_table
from preprocessing.selection.hitrate import ranked_hit_rate, read_lesion_patches
from preprocessing.selection.rules import RULES, rank_clusters, rule_features, rule_weights
from preprocessing.selection.scores import ScoreTable, open_features, score_cache, scores_from_tokens
from preprocessing.selection.selection import (
    SelectionSettings,
    cluster_scores,
    fit_selection,
    score_patches,
    standardise_scores,
)
from tests.preprocessing.tiny_cache import blobs, box_with_padding, write_cache

SMALL = SelectionSettings(clusters=12, codebooks=2)
TRAIN = [f"case-{number:03d}" for number in range(20)]
TEST = [f"case-{number:03d}" for number in range(20, 28)]


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    return blobs(0, 28, (64, 48))


@pytest.fixture(scope="module")
def boxes() -> np.ndarray:
    return np.stack([box_with_padding((64, 48), 8 if number % 2 else 0) for number in range(28)])


def test_rank_clusters_by_hand() -> None:
    membership = torch.tensor([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0.5, 0.5]])
    evidence = torch.tensor([[1.0], [3.0], [0.0], [6.0]])
    raw = torch.tensor([2.0, 3.0 / 1.5, 6.0])
    truth = (raw - raw.mean()) / raw.std(correction=0)
    torch.testing.assert_close(rank_clusters({"place3": 1.0}, evidence, membership), truth)
    smallest = rank_clusters({"size": -1.0}, evidence[:, :0], membership)
    assert smallest.argsort(descending=True).tolist() == [2, 1, 0]


@pytest.mark.parametrize("rule", sorted(RULES))
def test_the_prior_adds_centrality_and_nothing_else(rule: str) -> None:
    without, prior = rule_weights(RULES[rule], 0.0), rule_weights(RULES[rule], 0.5)
    assert prior == {**without, "centrality": without.get("centrality", 0.0) + 0.5}
    assert "size" not in rule_features(RULES[rule], 1.0)
    assert set(rule_features(RULES[rule], 1.0)) <= set(SelectionSettings().columns())


def test_scores_depend_on_clusters_only() -> None:
    points = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    hard = SelectionSettings(clusters=5, codebooks=1, assign="hard")
    books = cluster_scores(points, lambda m: torch.arange(m.shape[1], dtype=torch.float32), hard, 0)
    scores, clusters = books.score(points)
    torch.testing.assert_close(scores, clusters.float())
    soft = cluster_scores(points, lambda m: torch.ones(m.shape[1]), hard.model_copy(update={"assign": "soft"}), 0)
    torch.testing.assert_close(soft.score(points)[0], torch.ones(500))


def test_standardised_over_candidates() -> None:
    rng = np.random.default_rng(0)
    candidate = rng.random((3, 40)) < 0.7
    scores = standardise_scores(rng.normal(3, 5, (3, 40)).astype(np.float32), candidate, np.arange(3))
    for row, real in zip(scores, candidate, strict=True):
        assert row[real].mean() == pytest.approx(0, abs=1e-5)
        assert row[real].std() == pytest.approx(1, abs=1e-4)
        assert (row[~real] == 0).all()
    assert (standardise_scores(np.ones((1, 4), np.float32), np.ones((1, 4), bool), np.zeros(1, int)) == 0).all()


@pytest.mark.parametrize(
    "wrong", [{"rule": "best"}, {"features": ("plaice",)}, {"temperature": 0}, {"clusters": 1}, {"polarity": ("grey",)}]
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SelectionSettings(**wrong)


def test_one_polarity_or_one_a_channel() -> None:
    assert SelectionSettings(polarity=("bright",)).polarities(3) == ("bright",) * 3
    with pytest.raises(RunError, match="2 entries for 3 channels"):
        SelectionSettings(polarity=("dark", "bright")).polarities(3)


def test_finds_lesions_and_is_reused(
    ray_session: None, tmp_path: Path, images: tuple[np.ndarray, np.ndarray], boxes: np.ndarray
) -> None:
    cache = write_cache(tmp_path / "cache", *images, (8, 8), boxes)
    out = str(tmp_path / "scores")
    table = score_cache(cache, TRAIN, SMALL, out, seed=1)
    truth = read_lesion_patches(cache, cache.sample_indices(TEST))
    scores = table.scores[cache.sample_indices(TEST)]
    rate = ranked_hit_rate(scores, truth)
    assert rate.cases >= 5
    assert rate.rates[0.25] > 0.85
    shuffled = np.where(truth.candidate, np.random.default_rng(0).permuted(scores, axis=1), 0)
    assert ranked_hit_rate(shuffled, truth).rates[0.25] < 0.5
    assert ((table.clusters >= 0) == read_lesion_patches(cache, np.arange(28)).candidate).all()

    opened = ScoreTable.open(table.root)
    assert opened.fingerprint == table.fingerprint
    np.testing.assert_array_equal(opened.scores, table.scores)
    np.testing.assert_array_equal(opened.clusters, table.clusters)
    stamp = (Path(table.root) / "scores.parquet").stat().st_mtime_ns
    assert score_cache(cache, TRAIN[::-1], SMALL, out, seed=1).root == table.root
    assert (Path(table.root) / "scores.parquet").stat().st_mtime_ns == stamp
    others = [
        score_cache(cache, TRAIN, SMALL, out, seed=2),
        score_cache(cache, TRAIN, SMALL.model_copy(update={"rule": "place"}), out, seed=1),
        score_cache(cache, TRAIN[1:], SMALL, out, seed=1),
    ]
    assert len({table.fingerprint, *(other.fingerprint for other in others)}) == 4
    assert len(list((tmp_path / "scores").glob("features-*.parquet"))) == 2  # one for each set of training cases
    with pytest.raises(RunError, match="no training case"):
        score_cache(cache, ["nobody"], SMALL, out, seed=1)
    with pytest.raises(RunError, match="no complete table"):
        ScoreTable.open(str(tmp_path / "nowhere"))

    features = open_features(cache, TRAIN, SMALL, out)
    rng = np.random.default_rng(0)
    tokens = np.concatenate([features.values, rng.normal(0, 0.1, (*features.valid.shape, 4))], -1)
    again = scores_from_tokens(tokens, features, cache.sample_indices(TRAIN), SMALL, seed=1)
    assert ranked_hit_rate(again[cache.sample_indices(TEST)], truth).rates[0.25] > 0.7

    rows = selection_table(cache, TRAIN, TEST, SMALL, out, seed=1)
    assert {f"clusters, rule {rule}" for rule in RULES} <= set(rows.index)
    assert rows.loc["as configured", "0.25"] == pytest.approx(rate.rates[0.25])
    assert (rows["cases"] == rate.cases).all()


def test_no_case_but_the_training_cases_is_fitted_on(
    ray_session: None, tmp_path: Path, images: tuple[np.ndarray, np.ndarray], boxes: np.ndarray
) -> None:
    altered = images[0].copy()
    altered[20:] = np.random.default_rng(9).random(altered[20:].shape)
    fitted = []
    # other images and another cut in blocks: neither may change a bit of what is fitted
    for name, pixels, rows in (("first", images[0], 4), ("second", altered, 3)):
        cache = write_cache(tmp_path / name, pixels, images[1], (8, 8), boxes, rows, fingerprint=name)
        table = score_cache(cache, TRAIN, SMALL, str(tmp_path / f"{name}-scores"), seed=1)
        books = (Path(table.root) / "codebooks.safetensors").read_bytes()
        fitted.append((books, table.scores[:20], table.scores[20:]))
    assert fitted[0][0] == fitted[1][0]
    np.testing.assert_array_equal(fitted[0][1], fitted[1][1])
    assert not np.array_equal(fitted[0][2], fitted[1][2])


def test_bright_lesions_in_volumes_of_two_channels(ray_session: None, tmp_path: Path) -> None:
    images, labels = blobs(1, 8, (24, 24, 24), channels=2, bright=True)
    cache = write_cache(tmp_path / "cache", images, labels, (4, 4, 4))
    settings = SMALL.model_copy(update={"polarity": ("bright",)})
    table = score_cache(cache, TRAIN[:6], settings, str(tmp_path / "scores"), seed=0)
    assert table.scores.shape == (8, 216)
    assert ranked_hit_rate(table.scores, read_lesion_patches(cache, np.arange(8))).rates[0.25] > 0.85


def test_rankings_without_clusters(
    ray_session: None, tmp_path: Path, images: tuple[np.ndarray, np.ndarray], boxes: np.ndarray
) -> None:
    cache = write_cache(tmp_path / "cache", *images, (8, 8), boxes)
    train = cache.sample_indices(TRAIN)
    table = feature_table(cache, TRAIN, SMALL.columns(), ("dark",), str(tmp_path))
    truth = read_lesion_patches(cache, np.arange(28))
    chance = np.mean([ranked_hit_rate(random_scores(table, seed), truth).rates[0.25] for seed in range(20)])
    assert chance == pytest.approx(0.25, abs=0.03)
    assert ranked_hit_rate(rank_sum(table), truth).rates[0.25] > 0.8
    assert ranked_hit_rate(evidence_sum(table, train), truth).rates[0.25] > 0.8
    assert ranked_hit_rate(pixel_kmeans(cache, 2, "dark", 0), truth).rates[0.25] > 0.8
    # the lesion is the smaller of two clusters of pixels here, as it is not in real images
    assert ranked_hit_rate(pixel_kmeans(cache, 2, "small", 0), truth).rates[0.25] > 0.8
    # rank-sum by hand for one sample
    place, centre = (table.values[0, :, c].astype(np.float32) for c in table.columns(["place3", "centrality"]))
    real = table.candidate[0]
    by_hand = [(sum(place[real] < place[n]) + sum(centre[real] < centre[n])) / real.sum() for n in np.flatnonzero(real)]
    np.testing.assert_allclose(rank_sum(table)[0][real], by_hand, atol=4 / real.sum())


def test_a_patch_without_a_pixel_to_learn_from(ray_session: None, tmp_path: Path) -> None:
    images, labels = blobs(2, 4, (32, 32))
    cache = write_cache(tmp_path / "cache", images, labels, (32, 32), np.tile([0, 0, 32, 8], (4, 1)).astype(np.int32))
    table = feature_table(cache, ["case-000"], SMALL.columns(), ("dark",), str(tmp_path))
    with pytest.raises(RunError, match="at least half is real"):
        fit_selection(table, np.array([0]), SMALL, 0)


@pytest.mark.parametrize("assign", ["hard", "soft"])
def test_deterministic_in_the_seed(ray_session: None, tmp_path: Path, assign: str) -> None:
    images, labels = blobs(3, 6, (32, 32))
    cache = write_cache(tmp_path / "cache", images, labels, (4, 4))
    table = feature_table(cache, TRAIN, SMALL.columns(), ("dark",), str(tmp_path))
    settings = SMALL.model_copy(update={"assign": assign, "patches": 100})
    one, same, other = (
        score_patches(fit_selection(table, np.arange(6), settings, s), table, settings) for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(one[0], same[0])
    np.testing.assert_array_equal(one[1], same[1])
    assert not np.array_equal(one[0], other[0])
