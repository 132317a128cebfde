"""The statistics of the comparison table, against scipy, hand-computed cases and simulations of known truth."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from pipeline.report.statistics import (
    Interval,
    expected,
    holm,
    independent_cases,
    paired,
    simultaneous,
    verdict,
    wilcoxon,
)


def cases(differences: np.ndarray, groups: list[str] | None = None) -> pd.DataFrame:
    names = [f"c{n:04d}" for n in range(len(differences))]
    columns = {"case": names, "group": groups or names, "training": "0.1 0 0", "difference": differences}
    return pd.DataFrame(columns)


def test_pairs_are_the_cases_of_the_same_seed_and_fold() -> None:
    rows = [
        ("a", 0, 0, "x", 0.9), ("a", 1, 0, "x", 0.5), ("a", 0, 0, "y", 0.4), ("a", 2, 0, "x", 1.0),
        ("a", 0, 0, "free", np.nan), ("ref", 0, 0, "x", 0.6), ("ref", 1, 0, "x", 0.4), ("ref", 0, 1, "y", 0.3),
        ("ref", 0, 0, "free", np.nan), ("other", 2, 0, "x", 0.0),
    ]  # fmt: skip
    scores = pd.DataFrame(rows, columns=["arm", "seed", "fold", "case", "dsc"]).assign(group="g", labels=0.1)
    found = paired(scores, "a", "ref")
    assert found["case"].tolist() == ["x", "x"]  # y was tested in another fold, free has no lesion, seed 2 lacks ref
    assert found["difference"].tolist() == pytest.approx([0.3, 0.1])
    assert found["training"].tolist() == ["0.1 0 0", "0.1 1 0"]


def test_one_comparison_of_many_cases_is_the_t_interval() -> None:
    values = np.random.default_rng(0).normal(0.02, 0.1, 200)
    (found,) = simultaneous([cases(values)])
    low, high = stats.t.interval(0.95, 199, values.mean(), stats.sem(values))
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.001)


def test_a_comparison_made_twice_is_no_wider_and_unlike_ones_are_as_wide_as_sidak_says() -> None:
    rng = np.random.default_rng(1)
    alike = cases(rng.normal(0, 1, 300))
    (one,) = simultaneous([alike])
    assert simultaneous([alike] * 8)[3].low == pytest.approx(one.low)
    unlike = [cases(rng.normal(0, 1, 300)) for _ in range(8)]
    found = simultaneous(unlike)
    factors = [(i.high - i.mean) / stats.sem(part["difference"]) for i, part in zip(found, unlike, strict=True)]
    sidak = NormalDist().inv_cdf((1 + 0.95 ** (1 / 8)) / 2)
    assert np.mean(factors) == pytest.approx(sidak, rel=0.03)
    assert sidak > 2.7


def test_near_duplicates_count_once() -> None:
    """Each case four times in its group: the interval of the cases once, not half as wide."""
    values = np.random.default_rng(2).normal(0.01, 0.1, 60)
    names = [f"g{n}" for n in range(60)]
    (once,) = simultaneous([cases(values, names)])
    (four,) = simultaneous([cases(np.tile(values, 4), names * 4)])
    assert (four.low, four.high) == pytest.approx((once.low, once.high), abs=1e-9)
    (wrong,) = simultaneous([cases(np.tile(values, 4))])
    assert wrong.high - wrong.low < 0.6 * (once.high - once.low)


def test_all_intervals_hold_together_with_the_confidence() -> None:
    """Groups of unequal size, skewed differences, three comparisons on shared cases: about 95 of 100 tables hold."""
    rng, held, tables = np.random.default_rng(3), 0, 200
    sizes = np.tile([1, 1, 2, 3], 12)
    groups = [f"g{n:02d}" for n in np.repeat(np.arange(len(sizes)), sizes)]
    for number in range(tables):
        shared = np.repeat(rng.gamma(2, 0.05, len(sizes)) - 0.1, sizes)
        tested = [cases(shared + rng.normal(0, 0.05, len(shared)), groups) for _ in range(3)]
        held += all(i.low <= 0 <= i.high for i in simultaneous(tested, resamples=400, seed=number))
    assert 0.90 <= held / tables <= 0.99


def test_a_comparison_that_says_next_to_nothing_does_not_take_the_others_with_it() -> None:
    values = np.random.default_rng(6).normal(0.06, 0.1, 100)
    seldom = np.zeros(100)
    seldom[[3, 50]] = 0.01  # in one of seven resamples neither of them is drawn, and nothing varies
    alone = simultaneous([cases(values)])[0]
    beside, hopeless = simultaneous([cases(values), cases(seldom)])
    assert (beside.low, beside.high) == pytest.approx((alone.low, alone.high), abs=1e-9)
    assert math.isinf(hopeless.high)


def test_comparisons_may_have_cases_of_their_own() -> None:
    rng = np.random.default_rng(4)
    every, some = cases(rng.normal(0, 1, 80)), cases(rng.normal(0, 1, 80)).iloc[:40]
    wide, narrow = simultaneous([some, every])
    assert wide.mean == pytest.approx(some["difference"].mean())
    assert wide.high - wide.low > 1.15 * (narrow.high - narrow.low)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_groups_give_no_interval(count: int) -> None:
    (found,) = simultaneous([cases(np.linspace(0.1, 0.3, count))])
    assert (found.low, found.high) == (-math.inf, math.inf)


def test_the_reference_against_itself_is_nothing_with_certainty() -> None:
    assert simultaneous([cases(np.zeros(30))]) == [Interval(0, 0, 0)]


def test_wilcoxon_is_scipys_on_cases_and_on_the_means_of_groups() -> None:
    values = np.random.default_rng(5).normal(0.05, 0.1, 40)
    assert wilcoxon(cases(values)) == stats.wilcoxon(values).pvalue
    pairs = [f"g{n // 2}" for n in range(40)]
    assert wilcoxon(cases(values, pairs)) == stats.wilcoxon(values.reshape(20, 2).mean(1)).pvalue
    assert wilcoxon(cases(np.zeros(5))) == 1.0


def test_holm_by_hand() -> None:
    # sorted .01, .02, .03, .04 times 4, 3, 2, 1 = .04, .06, .06, .04, never falling
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_what_is_expected_before_the_run_is_what_the_run_then_finds() -> None:
    rng = np.random.default_rng(6)
    found = simultaneous([cases(rng.normal(0, 0.1, 100)) for _ in range(5)])
    half = np.mean([i.high - i.mean for i in found])
    assert expected(0.1, 100, 5).half_width == pytest.approx(half, rel=0.1)
    assert expected(0.1, 100, 1).half_width == pytest.approx(1.984 * 0.01, rel=1e-3)  # t table, 99 degrees
    assert expected(0.1, 1, 1).half_width == math.inf


def test_chance_that_few_trainings_tell_widens_what_is_expected() -> None:
    assert expected(0.0, 100, 1, chance=0.01, freedom=4).half_width == pytest.approx(2.776 * 0.01, rel=1e-3)  # t table
    surely, hardly = (expected(0.1, 100, 1, 0.01, freedom) for freedom in (1000, 2))
    assert surely.half_width == pytest.approx(1.96 * math.hypot(0.01, 0.01), rel=0.02)
    assert hardly.half_width > 1.1 * surely.half_width
    assert expected(0.1, 100, 1, 0.01, 0).half_width == math.inf


def test_cases_of_one_group_are_worth_one() -> None:
    assert independent_cases(["a", "b", "c"]) == 3
    assert independent_cases(["a"] * 7) == 1
    assert independent_cases(["a", "a", "b"]) == pytest.approx(9 / 5)
    assert independent_cases([]) == 0


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ((0.02, 0.001, 0.04), "better"),
        ((-0.02, -0.04, -0.001), "worse"),
        ((0.004, 0.001, 0.007), "better"),
        ((0.0, -0.009, 0.009), "alike"),
        ((0.0, 0.0, 0.0), "alike"),
        ((0.005, -0.002, 0.012), "undecided"),
        ((0.0, -0.02, 0.02), "cannot be decided"),
        ((math.nan, -math.inf, math.inf), "cannot be decided"),
    ],
)
def test_the_verdict(interval: tuple[float, float, float], said: str) -> None:
    assert verdict(Interval(*interval), 0.01) == said


@pytest.mark.parametrize("comparisons", [1, 4, 10])
def test_a_difference_that_is_called_detectable_is_found_four_times_in_five(comparisons: int) -> None:
    rng, cases_of_a_table = np.random.default_rng(8), 100
    true = expected(0.1, cases_of_a_table, comparisons).detectable
    found, tables = 0, 1000 // comparisons
    for number in range(tables):
        tested = [cases(rng.normal(true, 0.1, cases_of_a_table)) for _ in range(comparisons)]
        found += sum(i.low > 0 for i in simultaneous(tested, resamples=400, seed=number))
    assert found / (tables * comparisons) == pytest.approx(0.8, abs=0.05)
