"""Chance in training, against an analysis of variance by hand and tables of known truth."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pipeline.report.comparison import comparisons, differences
from pipeline.report.statistics import paired, simultaneous
from pipeline.report.training_noise import TrainingNoise, training_noise

SHARE = 0.1
ARMS = ("ref", "a", "b", "c", "d", "e", "f", "g")


def table(dsc: np.ndarray, drawn: np.ndarray | None = None) -> pd.DataFrame:
    """Scores from DSC [arms, trainings, cases]; `drawn` [trainings, cases] numbers of the cases, each a group."""
    _, trainings, count = dsc.shape
    drawn = np.arange(trainings * count).reshape(trainings, count) if drawn is None else drawn
    arm, training, _ = np.indices(dsc.shape)
    case = np.broadcast_to(drawn, dsc.shape).ravel().astype(str)
    names = np.array(ARMS)[arm.ravel()]
    places = {"arm": names, "seed": training.ravel(), "fold": 0, "labels": SHARE}
    return pd.DataFrame(places | {"case": case, "group": case, "dsc": dsc.ravel()})


def test_where_cases_do_not_differ_it_is_the_residual_of_a_two_way_layout() -> None:
    means = np.random.default_rng(0).normal(0.6, 0.02, (4, 3))
    found = training_noise(table(np.repeat(means[:, :, None], 5, axis=2)))[SHARE]
    residual = means - means.mean(1, keepdims=True) - means.mean(0) + means.mean()
    assert found.variance == found.total == pytest.approx((residual**2).sum() / (3 * 2))
    assert found.freedom == 3 * 2
    assert found.cases == pytest.approx(0, abs=1e-12)


def test_each_share_of_labels_has_its_own() -> None:
    few, many = (np.random.default_rng(seed).normal(0.5, sd, (4, 3, 1)) for seed, sd in ((0, 0.05), (1, 0.005)))
    tables = [table(np.repeat(dsc, 5, axis=2)).assign(labels=share) for dsc, share in ((few, 0.1), (many, 1.0))]
    found = training_noise(pd.concat(tables))
    assert found == {0.1: training_noise(tables[0])[0.1], 1.0: training_noise(tables[1])[1.0]}
    assert found[0.1].variance > 20 * found[1.0].variance
    whole = pd.concat([*tables[:1], tables[1].query("seed == 0")])
    pairs = comparisons(whole, "ref")
    intervals = differences(pairs, training_noise(whole))
    widths = {share: intervals["a", share].high - intervals["a", share].low for share in (0.1, 1.0)}
    assert widths[1.0] == 0 < widths[0.1]  # one training with all labels tells nothing of chance


def test_what_an_estimate_leaves_open() -> None:
    rng = np.random.default_rng(0)
    sure = TrainingNoise(0.02**2, 0.0, 8).plausible(rng, 200_000)
    assert np.median(sure) == pytest.approx(8 * 0.02**2 / stats.chi2.median(8), rel=0.02)
    assert np.mean(0.02**2 * 8 / sure < 3) == pytest.approx(stats.chi2.cdf(3, 8), abs=0.005)
    partly = TrainingNoise(0.02**2, 0.01**2, 8).plausible(rng, 200_000) + 0.01**2
    kept = sure[sure > 0.01**2]  # the same, where more than the cases' part
    assert np.quantile(partly, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(kept, [0.1, 0.5, 0.9]), rel=0.02)
    none = TrainingNoise(0.01**2, 0.02**2, 4)
    assert none.variance == 0 < np.median(none.plausible(rng, 1000))
    assert not TrainingNoise().plausible(rng, 3).any()
    assert not TrainingNoise(0.0, 0.0, 4).plausible(rng, 3).any()


@pytest.mark.parametrize("sd", [0.0, 0.02])
@pytest.mark.parametrize("pool", [120, 600])
def test_what_the_test_cases_explain_is_no_chance_in_training(sd: float, pool: int) -> None:
    """Cases on which the arms differ for good, some of them tested in several seeds."""
    rng, found = np.random.default_rng(1), []
    for _ in range(30):
        drawn = np.stack([rng.choice(pool, 80, replace=False) for _ in range(3)])
        lasting = rng.normal(0, 0.15, (5, pool))[:, drawn]
        dsc = lasting + rng.normal(0, 0.05, (5, 3, 80)) + rng.normal(0, sd, (5, 3, 1))
        noise = training_noise(table(dsc, drawn))[SHARE]
        found.append(noise.total - noise.cases)
    assert np.mean(found) == pytest.approx(sd**2, abs=0.005**2 if sd == 0 else 0.15 * sd**2)


def test_one_training_of_each_arm_tells_nothing() -> None:
    dsc = np.random.default_rng(2).normal(0.5, 0.1, (3, 1, 20))
    assert not training_noise(table(dsc))[SHARE].known
    assert training_noise(table(np.empty((0, 0, 0)))) == {}
    lone = pd.concat([table(dsc), table(dsc).query("arm == 'a'").assign(seed=1)])
    assert math.isnan(training_noise(lone)[SHARE].variance)


def test_a_lesion_free_case_and_an_arm_that_lacks_a_seed_do_not_disturb() -> None:
    dsc = np.random.default_rng(3).normal(0.5, 0.1, (3, 3, 20))
    scores = table(dsc)
    free = scores[scores["case"] == "0"].assign(case="free", group="free", dsc=np.nan)
    assert training_noise(pd.concat([scores, free])) == training_noise(scores)
    lacking = training_noise(scores.query("not (arm == 'b' and seed == 2)"))[SHARE]
    assert lacking.freedom == training_noise(scores)[SHARE].freedom - 1 == 3


@pytest.mark.parametrize(("arms", "tables"), [(2, 100), (4, 80), (8, 60)])
def test_intervals_hold_together_though_trainings_differ_by_chance(arms: int, tables: int) -> None:
    """No true difference, three trainings of each arm: by the cases alone far too many tables would claim one."""
    rng, held, held_of_cases = np.random.default_rng(4), 0, 0
    for number in range(tables):
        dsc = rng.normal(0, 0.1, (arms, 3, 60)) + rng.normal(0, 0.02, (arms, 3, 1))
        scores = table(dsc)
        pairs = [paired(scores, arm, "ref") for arm in ARMS[1:arms]]
        for noises in ([training_noise(scores)[SHARE]] * len(pairs), []):
            found = simultaneous(pairs, noises, resamples=400, seed=number)
            hold = all(i.low <= 0 <= i.high for i in found)
            held, held_of_cases = held + (bool(noises) and hold), held_of_cases + (not noises and hold)
    assert held / tables >= 0.92
    assert held_of_cases / tables < 0.85


def test_a_comparison_with_more_trainings_is_surer() -> None:
    rng = np.random.default_rng(5)
    scores = table(rng.normal(0, 0.001, (3, 4, 60)) + rng.normal(0, 0.02, (3, 4, 1)))
    noises = [TrainingNoise(0.02**2, 0.0, 1000)] * 2
    once = scores.query("arm != 'b' or seed == 0")
    four, one = simultaneous([paired(once, arm, "ref") for arm in ("a", "b")], noises)
    assert (one.high - one.low) / (four.high - four.low) == pytest.approx(2, rel=0.02)
    # the largest of two: the factor lies between that of one and Bonferroni's
    assert 1.96 < (one.high - one.mean) / (0.02 * math.sqrt(2)) < 2.3
