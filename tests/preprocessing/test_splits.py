from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from preprocessing.errors import ConfigError
from preprocessing.splits import Splits, SplitSettings, make_splits


def table(n=200, group_size=1, unlabelled=0, strata=("benign", "benign", "malignant", "normal")):
    number = np.arange(n)
    stratum = np.array([strata[i % len(strata)] for i in number])
    return pd.DataFrame(
        {
            "case": [f"{s} ({i})" for s, i in zip(stratum, number, strict=True)],
            "group": [f"g{i // group_size}" for i in number],
            "stratum": stratum,
            "split_given": "",
            "labelled": number >= unlabelled,
            "lesion_pixels": np.where(stratum == "normal", 0, 100) * (number >= unlabelled),
        }
    )


@given(st.integers(3, 120), st.integers(1, 5), st.integers(0, 20), st.integers(0, 1000), st.integers(0, 4))
@settings(max_examples=60)
def test_groups_never_straddle_and_nothing_is_lost(n, group_size, unlabelled, seed, folds):
    cases = table(n, group_size, unlabelled)
    chosen = SplitSettings(folds=folds if folds > 1 else 0)
    groups = cases.loc[cases["labelled"], "group"].nunique()
    if 3 <= groups < chosen.folds + 2:
        with pytest.raises(ConfigError, match="folds"):
            make_splits(cases, chosen, seed)
        return
    splits = make_splits(cases, chosen, seed)
    merged = cases.merge(splits.table[["case", "split", "labelled_used"]], on="case", validate="1:1")
    assert len(merged) == n
    part = merged["split"].replace({"unlabelled": "train", "excluded": np.nan})
    assert (part.groupby(merged["group"]).nunique() <= 1).all()
    kept_apart = set(merged.loc[merged["split"].isin(["val", "test"]), "group"])
    assert not kept_apart & set(merged.loc[merged["split"] == "unlabelled", "group"])
    assert not merged["labelled_used"][~merged["labelled"]].any()


def test_shares_hold_in_every_stratum():
    cases = table(400)
    splits = make_splits(cases, SplitSettings(val_fraction=0.15, test_fraction=0.2), 0)
    found = pd.crosstab(cases["stratum"], splits.table.set_index("case")["split"].loc[cases["case"]].to_numpy())
    shares = found.div(found.sum(axis=1), axis=0)
    assert np.allclose(shares["test"], 0.2, atol=0.02)
    assert np.allclose(shares["val"], 0.15, atol=0.02)
    assert splits.trainable
    assert splits.counts() == {"train": 260, "val": 60, "test": 80}


def test_splits_depend_on_the_seed_alone():
    cases = table(60, 2)
    one = make_splits(cases, SplitSettings(), 1).table
    assert one.equals(make_splits(cases.sample(frac=1, random_state=3), SplitSettings(), 1).table)
    assert not one.equals(make_splits(cases, SplitSettings(), 2).table)


@pytest.mark.parametrize(("n", "strata"), [(8, ("benign", "malignant", "normal")), (9, ("normal", "normal", "benign"))])
def test_every_part_of_a_small_data_set_holds_a_lesion(n, strata):
    for seed in range(20):
        cases = table(n, strata=strata)
        splits = make_splits(cases, SplitSettings(), seed)
        lesions = set(cases.loc[cases["lesion_pixels"] > 0, "case"])
        assert all(lesions & set(splits.cases(part)) for part in ("train", "val", "test"))


@pytest.mark.parametrize("seed", range(6))
def test_a_group_of_many_cases_is_not_moved_for_the_sake_of_a_lesion(seed):
    sizes = [60, 1, 1, 1]
    names = [f"g{number}" for number, size in enumerate(sizes) for _ in range(size)]
    cases = table(len(names)).assign(group=names, lesion_pixels=5)
    splits = make_splits(cases, SplitSettings(), seed)
    assert sorted(len(splits.labelled(part)) for part in ("val", "test")) in ([1, 1], [1, 2])


def test_of_a_lesion_only_matters_that_there_is_one():
    """Its pixels are counted on a grid that says nothing of its volume."""
    cases = table(40)
    resized = cases.assign(lesion_pixels=cases["lesion_pixels"] * np.random.default_rng(0).integers(1, 99, len(cases)))
    settings = SplitSettings(label_fraction=0.2)
    assert make_splits(cases, settings, 0).table.equals(make_splits(resized, settings, 0).table)


def test_folds_partition_the_cases():
    cases = table(100, 3)
    tests = [make_splits(cases, SplitSettings(folds=5, fold=fold), 0).cases("test") for fold in range(5)]
    assert sorted(case for test in tests for case in test) == sorted(cases["case"])
    assert all(15 <= len(test) <= 25 for test in tests)
    splits = make_splits(cases, SplitSettings(folds=5, fold=2, val_fraction=0.15), 0)
    assert splits.trainable
    assert len(splits.cases("val")) == pytest.approx(15, abs=4)


def test_label_fractions_are_nested_stratified_and_cut_train_and_val_alike():
    cases = table(400)
    fractions = (0.01, 0.05, 0.1, 0.2, 0.5, 1.0)
    by_fraction = {fraction: make_splits(cases, SplitSettings(label_fraction=fraction), 0) for fraction in fractions}
    for part, total in (("train", 260), ("val", 60)):
        before: set[str] = set()
        for fraction, splits in by_fraction.items():
            used = splits.labelled(part)
            assert len(used) == max(1, round(fraction * total))
            assert before <= set(used)
            assert any(not case.startswith("normal") for case in used)
            if len(used) >= 12:
                assert np.mean([case.startswith("benign") for case in used]) == pytest.approx(0.5, abs=0.1)
            assert len(splits.labelled("test")) == 80
            assert len(splits.cases(part)) == total
            before = set(used)


def test_the_smallest_share_of_labels_holds_a_lesion():
    cases = table(200, strata=("normal",) * 9 + ("malignant",))
    for seed in range(5):
        splits = make_splits(cases, SplitSettings(label_fraction=0.01), seed)
        assert [case.startswith("malignant") for case in splits.labelled("val")] == [True]


def test_pretraining_never_holds_val_or_test():
    splits = make_splits(table(100, 2, unlabelled=31), SplitSettings(), 0)
    kept_apart = set(splits.cases("val")) | set(splits.cases("test"))
    assert not kept_apart & set(splits.pretraining())
    assert set(splits.cases("unlabelled")) <= set(splits.pretraining())
    assert set(splits.pretraining(include_test=True)) == set(splits.pretraining()) | set(splits.cases("test"))


def test_unlabelled_members_of_a_test_group_are_excluded():
    cases = table(30, group_size=2)
    cases.loc[::2, "labelled"] = False
    splits = make_splits(cases, SplitSettings(), 0)
    for case in splits.cases("test"):
        twin = cases.loc[(cases["group"] == splits.group(case)) & ~cases["labelled"], "case"].item()
        assert twin in splits.cases("excluded")


def test_unlabelled_members_of_a_group_that_becomes_validation_are_not_pretrained_on():
    cases = table(40, group_size=2)
    given = np.where(np.arange(len(cases)) % 2 == 0, "train", "unlabelled")
    given[:8] = "test"
    cases = cases.assign(split_given=given, labelled=given != "unlabelled")
    splits = make_splits(cases, SplitSettings(), 0)
    validated = {splits.group(case) for case in splits.cases("val")}
    assert validated
    assert not validated & {splits.group(case) for case in splits.pretraining()}


def test_fewer_than_three_labelled_groups_all_count_as_training():
    cases = table(20, unlabelled=18)
    splits = make_splits(cases, SplitSettings(), 0)
    assert splits.counts() == {"train": 2, "unlabelled": 18}
    assert not splits.trainable


def test_a_split_written_can_be_given_back(tmp_path):
    cases = table(60, 2, unlabelled=7)
    splits = make_splits(cases, SplitSettings(label_fraction=0.3), 5)
    splits.write(str(tmp_path / "splits.csv"))
    again = Splits.read(str(tmp_path / "splits.csv"))
    assert again.table.equals(splits.table)
    given = cases.merge(again.table[["case", "split"]], on="case")
    given["split_given"] = given.pop("split")
    assert make_splits(given, SplitSettings(label_fraction=0.3), 5).table.equals(splits.table)


def test_a_given_split_without_val_takes_it_from_train():
    cases = table(40)
    cases["split_given"] = np.where(np.arange(40) < 10, "test", "train")
    splits = make_splits(cases, SplitSettings(), 0)
    assert splits.cases("test") == sorted(cases["case"][:10])
    assert len(splits.cases("val")) == pytest.approx(0.15 * 30, abs=2)


def test_a_leak_names_its_pairs():
    cases = table(8, group_size=2)
    cases["split_given"] = ["train", "test", "train", "train", "val", "unlabelled", "test", "test"]
    cases.loc[5, "labelled"] = False
    with pytest.raises(ConfigError) as caught:
        make_splits(cases, SplitSettings(), 0)
    first, second = caught.value.mistakes
    assert "benign (0) (train) and benign (1) (test)" in first
    assert "benign (4) (val) and benign (5) (unlabelled)" in second


def test_labelled_cases_may_not_be_left_out_of_a_given_split():
    cases = table(4)
    cases["split_given"] = ["train", "val", "test", ""]
    with pytest.raises(ConfigError, match=r"leaves out the labelled case normal \(3\)"):
        make_splits(cases, SplitSettings(), 0)


@pytest.mark.parametrize(
    "fields", [{"folds": 1}, {"folds": 3, "fold": 3}, {"fold": 1}, {"val_fraction": 0.5, "test_fraction": 0.5}]
)
def test_impossible_settings_are_refused(fields):
    with pytest.raises(ValidationError):
        SplitSettings(**fields)
