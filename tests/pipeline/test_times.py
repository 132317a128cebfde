"""What a dry run says of the time, against counts by hand."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.benchmark import times as table
from pipeline.measure import times as single
from pipeline.measure.estimate import finetuning_speed
from pipeline.measure.times import Amount, run_times
from tests.pipeline.methods.samples import config_with

AMOUNT = Amount(samples=1000, labelled=500, channels=1)  # .65 of the labelled are trained on, and all others


@pytest.fixture(autouse=True)
def speeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 samples/s of pretraining, 10 with SimMIM; 5 of fine-tuning, 2 of the U-Net's."""

    def pretraining(model: Any, config: Any) -> float:
        return 10.0 if config.pretrain.method == "simmim" else 100.0

    def finetuning(config: Any, channels: int) -> float:
        return 2.0 if config.segmenter.kind == "unet" else 5.0

    for module in (single, table):
        monkeypatch.setattr(module, "pretraining_speed", pretraining)
        monkeypatch.setattr(module, "finetuning_speed", finetuning)


def config(**fields: Any) -> Any:
    shares = {"data__label_fraction": 0.1, "pretrain__epochs": 20, "finetune__epochs": 40, "search__enabled": False}
    return config_with(**shares | fields)


def test_a_run_is_its_samples_over_the_speed() -> None:
    facts = dict(run_times(config(), AMOUNT))
    assert facts["pretraining"] == "about 3 min"  # (500 + 500 * .65) * 20 / 100 = 165 s
    assert facts["fine-tuning"] == "about 4 min"  # 500 * .65 * .1 * 40 / 5 = 260 s
    assert facts["in all"].startswith("about 7 min")  # 425 s
    assert "search" not in facts
    assert dict(run_times(config(pretrain__method="scratch"), AMOUNT))["in all"].startswith("about 4 min")


def test_with_folds_the_test_share_is_a_fold() -> None:
    assert Amount(1000, 500, 1).pretraining(config(data__folds=4)) == pytest.approx((500 + 500 * 0.6) * 20)


def test_given_splits_are_counted_as_they_are() -> None:
    amount = Amount(1000, 500, 1, 500, {"train": 0.3, "unlabelled": 0.4, "test": 0.3})
    assert amount.pretraining(config()) == pytest.approx((500 + 500 * (0.3 + 0.4)) * 20)
    assert amount.finetuning(config(data__label_fraction=1.0)) == pytest.approx(500 * 0.3 * 40)
    arms = {"benchmark__arms": ("scratch", "unet"), "benchmark__reference": "scratch", "benchmark__seeds": (0, 1, 2)}
    told = dict(table.table_times(config(**arms), amount))["intervals"]
    assert told.startswith("at most 150 different test cases")  # the same in every seed


def test_a_table_is_all_its_runs_and_one_pretraining_serves_all_shares() -> None:
    arms = ("mps_ams", "simmim", "scratch", "unet")
    chosen = config(benchmark__arms=arms, benchmark__seeds=(0, 1, 2), benchmark__label_fractions=(0.1, 0.2))
    facts = dict(table.table_times(chosen, AMOUNT))
    assert facts["runs"] == "24: 4 arms, 6 seeds x folds x shares of labels"
    assert facts["mps_ams"] == "pretraining about 3 min (100 samples/s), fine-tuning about 4 min (5 samples/s)"
    assert facts["simmim"].startswith("pretraining about 28 min (10 samples/s)")
    assert facts["scratch"] == "fine-tuning about 4 min (5 samples/s)"  # as many steps at both shares
    # 3 seeds * (165 + 1650 s of pretraining, 2 shares * (3 * 260 + 650 s) of fine-tuning) = 14025 s
    assert facts["in all"].startswith("about 3 h 54 min")


def test_a_search_of_the_fine_tuning_is_counted() -> None:
    search = {"search__finetune": True, "search__trials": 4, "search__finalists": 2, "search__repeats": 3}
    one = dict(run_times(config(**search), AMOUNT))
    assert one["search of the fine-tuning"].startswith("at most 43 min")  # 10 trainings of 260 s
    assert one["in all"].startswith("about 50 min")
    arms = {"benchmark__arms": ("scratch", "unet"), "benchmark__seeds": (0,), "benchmark__reference": "scratch"}
    facts = dict(table.table_times(config(**search, **arms), AMOUNT))
    assert facts["scratch"].startswith("fine-tuning with its search at most 48 min")
    assert facts["in all"].startswith("about 2 h 47 min")  # 11 * (260 + 650 s)


def test_how_wide_the_intervals_will_be_is_told_before_anything_is_run() -> None:
    amount = Amount(samples=1000, labelled=500, channels=1, cases=500)
    arms = {"benchmark__arms": ("scratch", "unet"), "benchmark__reference": "scratch"}

    def told(**fields: Any) -> str:
        return dict(table.table_times(config(**arms, **fields), amount))["intervals"]

    once = {"benchmark__seeds": (0,), "benchmark__expected_sd": 0.1}
    assert "is not known (set benchmark.expected_sd to plan)" in told(benchmark__seeds=(0,))
    # a fifth of 500 cases, Student's t with 99 degrees of freedom: 1.984 * .1 / 10
    assert told(**once).startswith("at most 100 different test cases")
    assert "about ±0.020 DSC, about these trainings, are expected, so that 0.01 CANNOT be told from zero" in told(
        **once
    )
    assert "so that 0.05 can be told" in told(**once, benchmark__aim=0.05)
    many = {"benchmark__seeds": tuple(range(9)), "benchmark__expected_sd": 0.1}
    assert told(**many).startswith("at most 433 different test cases")  # 500 * (1 - .8^9)
    assert "about ±0.009 DSC (more by chance in training, not known yet)" in told(**many)
    assert "about ±0.023 DSC are expected" in told(**many, benchmark__expected_chance=0.02)
    assert told(**once, data__folds=4, benchmark__folds=(0, 1, 2)).startswith("at most 375 different")


@pytest.mark.parametrize("kind", ["vit", "unet"])
def test_the_segmenter_itself_is_timed(kind: str) -> None:
    classes = {"WT": (1, 2, 4), "TC": (1, 4)}
    chosen = config(pretrain__method="scratch", segmenter__kind=kind, finetune__classes=classes)
    assert finetuning_speed(chosen, 2) > 0
