"""Chance in training, against an analysis of variance by hand and tables of known truth."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from pipeline.report.statistics import paired, simultaneous
from pipeline.report.training_noise import TrainingNoise, training_noise

ARMS = ("ref", "a", "b", "c", "d", "e", "f", "g")


def table(dsc: np.ndarray, drawn: np.ndarray | None = None) -> pd.DataFrame:
    """Scores from DSC [arms, trainings, cases]; `drawn` [trainings, cases] numbers of the cases, each a group."""
    _, trainings, count = dsc.shape
    drawn = np.arange(trainings * count).reshape(trainings, count) if drawn is None else drawn
    arm, training, _ = np.indices(dsc.shape)
    case = np.broadcast_to(drawn, dsc.shape).ravel().astype(str)
    names = np.array(ARMS)[arm.ravel()]
    places = {"arm": names, "seed": training.ravel(), "fold": 0, "labels": 0.1}
    return pd.DataFrame(places | {"case": case, "group": case, "dsc": dsc.ravel()})


def test_where_cases_do_not_differ_it_is_the_residual_of_a_two_way_layout() -> None:
    means = np.random.default_rng(0).normal(0.6, 0.02, (4, 3))
    found = training_noise(table(np.repeat(means[:, :, None], 5, axis=2)))
    residual = means - means.mean(1, keepdims=True) - means.mean(0) + means.mean()
    assert found.variance == pytest.approx((residual**2).sum() / (3 * 2))
    assert found.freedom == 3 * 2


@pytest.mark.parametrize("sd", [0.0, 0.02])
@pytest.mark.parametrize("pool", [120, 600])
def test_what_the_test_cases_explain_is_no_chance_in_training(sd: float, pool: int) -> None:
    """Cases on which the arms differ for good, some of them tested in several seeds."""
    rng, found = np.random.default_rng(1), []
    for _ in range(30):
        drawn = np.stack([rng.choice(pool, 80, replace=False) for _ in range(3)])
        lasting = rng.normal(0, 0.15, (5, pool))[:, drawn]
        dsc = lasting + rng.normal(0, 0.05, (5, 3, 80)) + rng.normal(0, sd, (5, 3, 1))
        found.append(training_noise(table(dsc, drawn)).variance)
    assert np.mean(found) == pytest.approx(sd**2, abs=0.01**2 if sd == 0 else 0.15 * sd**2)


def test_one_training_of_each_arm_tells_nothing() -> None:
    dsc = np.random.default_rng(2).normal(0.5, 0.1, (3, 1, 20))
    assert not training_noise(table(dsc)).known
    assert not training_noise(table(np.empty((0, 0, 0)))).known
    lone = pd.concat([table(dsc), table(dsc).query("arm == 'a'").assign(seed=1)])
    assert math.isnan(training_noise(lone).variance)


def test_a_lesion_free_case_and_an_arm_that_lacks_a_seed_do_not_disturb() -> None:
    dsc = np.random.default_rng(3).normal(0.5, 0.1, (3, 3, 20))
    scores = table(dsc)
    free = scores[scores["case"] == "0"].assign(case="free", group="free", dsc=np.nan)
    assert training_noise(pd.concat([scores, free])) == training_noise(scores)
    lacking = training_noise(scores.query("not (arm == 'b' and seed == 2)"))
    assert lacking.freedom == training_noise(scores).freedom - 1 == 3


def test_intervals_hold_together_though_trainings_differ_by_chance() -> None:
    """No true difference, three trainings of eight arms: with the cases alone every second table would claim one."""
    rng, tables, held, held_of_cases = np.random.default_rng(4), 40, 0, 0
    for number in range(tables):
        dsc = rng.normal(0, 0.1, (8, 3, 60)) + rng.normal(0, 0.02, (8, 3, 1))
        scores = table(dsc)
        pairs = [paired(scores, arm, "ref") for arm in ARMS[1:]]
        for noise in (training_noise(scores), TrainingNoise()):
            found = simultaneous(pairs, noise, resamples=400, seed=number)
            hold = all(i.low <= 0 <= i.high for i in found)
            held, held_of_cases = held + (noise.known and hold), held_of_cases + (not noise.known and hold)
    assert held / tables >= 0.9
    assert held_of_cases / tables < 0.75


def test_a_comparison_with_more_trainings_is_surer() -> None:
    rng = np.random.default_rng(5)
    scores = table(rng.normal(0, 0.001, (3, 4, 60)) + rng.normal(0, 0.02, (3, 4, 1)))
    noise = TrainingNoise(0.02**2, 100)
    once = scores.query("arm != 'b' or seed == 0")
    four, one = simultaneous([paired(once, arm, "ref") for arm in ("a", "b")], noise)
    assert (one.high - one.low) / (four.high - four.low) == pytest.approx(2, rel=0.02)
    # the largest of two: the factor lies between that of one and Bonferroni's
    assert 1.96 < (one.high - one.mean) / (0.02 * math.sqrt(2)) < 2.3
