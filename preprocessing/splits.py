"""Train, validation and test: by group, stratified, a function of the seed; written to a file that can be given back.

Cases without a label join the pretraining ("unlabelled") unless their group is kept apart for validation or
testing ("excluded"): a near-duplicate of a test image must not be trained on either.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from pydantic import Field, model_validator
from upath import UPath

from preprocessing.errors import ConfigError
from preprocessing.given_splits import PARTS, SPLITS, find_leaks, find_left_out, read_columns
from preprocessing.settings import Settings
from preprocessing.storage import write_text


class SplitSettings(Settings):
    """How the cases are split, and how many labels may be used."""

    splits: str = Field("", description="CSV with columns case and split (such as a run's splits.csv) to use instead.")
    folds: int = Field(0, ge=0, description="Folds of a cross-validation; 0 is a single split.")
    fold: int = Field(0, ge=0, description="Which fold is the test set.")
    val_fraction: float = Field(0.15, gt=0, lt=1, description="Share of the labelled cases for validation.")
    test_fraction: float = Field(0.2, gt=0, lt=1, description="Share of the labelled cases for testing.")
    label_fraction: float = Field(
        1.0, gt=0, le=1, description="Share of the labels used for fine-tuning; cuts train and val alike."
    )

    @model_validator(mode="after")
    def _possible(self) -> SplitSettings:
        if self.folds == 1:
            raise ValueError("folds must be 0 (a single split) or at least 2")
        if self.fold >= max(1, self.folds):
            raise ValueError(f"fold must be below folds ({self.folds}), it is {self.fold}")
        if self.val_fraction + (1 / self.folds if self.folds else self.test_fraction) >= 1:
            raise ValueError("nothing is left to train on: val_fraction and the test share add up to 1 or more")
        return self


@dataclass(frozen=True)
class Splits:
    """Which case belongs where.

    Attributes:
        table: columns case, group, split (one of SPLITS), labelled_used (its label may be used), sorted by case.
    """

    table: pd.DataFrame

    def cases(self, split: str) -> list[str]:
        """All cases of a split."""
        return self.table.loc[self.table["split"] == split, "case"].tolist()

    def labelled(self, split: str) -> list[str]:
        """Cases whose label may be used: under label_fraction for train and val, every labelled one for test."""
        return self.table.loc[(self.table["split"] == split) & self.table["labelled_used"], "case"].tolist()

    def pretraining(self, include_test: bool = False) -> list[str]:
        """Cases whose images may be looked at without labels: train and unlabelled, never val; test if so wished."""
        wanted = ["train", "unlabelled", *(["test"] if include_test else [])]
        return self.table.loc[self.table["split"].isin(wanted), "case"].tolist()

    def group(self, case: str) -> str:
        """The group of a case.

        Raises:
            KeyError: there is no such case.
        """
        return self._groups[case]

    @cached_property
    def _groups(self) -> dict[str, str]:
        return dict(zip(self.table["case"], self.table["group"], strict=True))

    def counts(self) -> dict[str, int]:
        """Cases of each split that has any."""
        found = self.table["split"].value_counts()
        return {split: int(found[split]) for split in SPLITS if split in found}

    @property
    def trainable(self) -> bool:
        """Whether a segmenter can be trained and tested: labels in each of train, val and test."""
        return all(self.labelled(part) for part in PARTS)

    def write(self, path: str) -> None:
        """Write as CSV."""
        write_text(UPath(path), self.table.to_csv(index=False))

    @classmethod
    def read(cls, path: str) -> Splits:
        """Read what `write` wrote.

        Raises:
            ConfigError: the file is missing or has other columns.
        """
        table = read_columns(path, ("case", "group", "split", "labelled_used"), strip=False)
        return cls(table.assign(labelled_used=table["labelled_used"].str.lower() == "true"))


def make_splits(cases: pd.DataFrame, settings: SplitSettings, seed: int) -> Splits:
    """Split the cases.

    Splits that the data set or a file gives are kept (without any val, some of train becomes val). With fewer than
    three labelled groups everything counts as training: enough to cluster and score, see `Splits.trainable`.

    Args:
        cases: columns case, group, stratum, split_given, labelled, lesion_pixels (`PatchCache.cases`); of the last
            only matters whether it is 0.
        settings: shares, folds, label_fraction.
        seed: the only source of chance.

    Raises:
        ConfigError: a given split parts a group (the pairs are named) or leaves labelled cases out, or there are too
            few groups for the folds.
    """
    cases = cases.sort_values("case", ignore_index=True)
    given = cases["split_given"].to_numpy(str)
    labelled = cases["labelled"].to_numpy(bool) & (given != "unlabelled")
    if (given != "").any():
        mistakes = find_leaks(cases["case"], cases["group"], given) + find_left_out(cases["case"], labelled, given)
        if mistakes:
            raise ConfigError(mistakes)
        parts = {group: part for group, part in zip(cases["group"], given, strict=True) if part in PARTS}
        if "val" not in parts.values():
            inside = cases[labelled & (given == "train")]
            parts |= _deal(inside, {"train": 1 - settings.val_fraction, "val": settings.val_fraction}, seed)
    elif cases.loc[labelled, "group"].nunique() < 3:
        parts = dict.fromkeys(cases["group"], "train")
    elif settings.folds:
        parts = _fold(cases[labelled], settings, seed)
    else:
        train = 1 - settings.val_fraction - settings.test_fraction
        shares = {"train": train, "val": settings.val_fraction, "test": settings.test_fraction}
        parts = _deal(cases[labelled], shares, seed)
    split = np.array([_place(parts.get(g, "train"), *x) for g, *x in zip(cases["group"], labelled, given, strict=True)])
    used = labelled & (split == "test")
    for number, part in enumerate(("train", "val")):
        chosen = cases[labelled & (split == part)]
        used[_labels_used(chosen, settings.label_fraction, [seed, number])] = True
    return Splits(pd.DataFrame({"case": cases["case"], "group": cases["group"], "split": split, "labelled_used": used}))


def _place(part: str, labelled: bool, given: str) -> str:
    """The split of one case whose group belongs to a part."""
    if given == "unlabelled" and part != "train":
        return "excluded"  # of a group that is validated or tested on
    if given in ("unlabelled", "excluded"):
        return given
    if labelled:
        return part
    return "unlabelled" if part == "train" else "excluded"


def _deal(cases: pd.DataFrame, shares: dict[str, float], seed: int) -> dict[str, str]:
    """A part for each group: stratum by stratum in random order, always to the part that lags most behind its share."""
    groups = _groups(cases, seed)
    counts, seen, dealt = dict.fromkeys(shares, 0), 0, {}
    for row in groups.itertuples():
        seen += row.size
        part = max(shares, key=lambda name: shares[name] * seen - counts[name])
        counts[part] += row.size
        dealt[row.Index] = part
    # a small data set: a part without any lesion could neither choose a threshold nor be measured
    lesions = list(groups.index[groups["lesion"]])
    for part in reversed(shares):
        holders = {name: [group for group in lesions if dealt[group] == name] for name in shares}
        donor = max(holders, key=lambda name: len(holders[name]))
        if not holders[part] and len(holders[donor]) > 1:
            # the last of the smallest: a group of many cases would leave little where it was
            dealt[min(reversed(holders[donor]), key=lambda group: groups.at[group, "size"])] = part
    return dealt


def _fold(cases: pd.DataFrame, settings: SplitSettings, seed: int) -> dict[str, str]:
    """Parts for one fold of a cross-validation: the folds do not depend on which of them is tested."""
    groups = cases["group"].nunique()
    if groups < settings.folds + 2:
        raise ConfigError(
            f"data.folds = {settings.folds}: with {groups} labelled groups at most {groups - 2} folds leave one to "
            "train on and one to validate on"
        )
    names = [str(fold) for fold in range(settings.folds)]
    folds = _deal(cases, dict.fromkeys(names, 1 / settings.folds), seed)
    test = {group for group, name in folds.items() if name == names[settings.fold]}
    share = settings.val_fraction / (1 - 1 / settings.folds)
    rest = _deal(cases[~cases["group"].isin(test)], {"train": 1 - share, "val": share}, seed)
    return rest | dict.fromkeys(test, "test")


def _groups(cases: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Groups (index) in the order of dealing, with their size and whether they hold a lesion."""
    table = cases.groupby("group").agg(size=("case", "size"), lesion_pixels=("lesion_pixels", "max"))
    table["lesion"] = table.pop("lesion_pixels") > 0
    strata = cases.groupby(["group", "stratum"]).size().reset_index(name="size").sort_values("size", kind="stable")
    table["stratum"] = strata.groupby("group")["stratum"].last()  # that of most members
    table["chance"] = np.random.default_rng(seed).random(len(table))
    return table.sort_values(["stratum", "chance"])


def _labels_used(cases: pd.DataFrame, fraction: float, seed: list[int]) -> np.ndarray:
    """Row numbers of the cases whose label is used: the first of an order in which every beginning is stratified."""
    if cases.empty:
        return np.zeros(0, np.int64)
    order = cases.assign(chance=np.random.default_rng(seed).random(len(cases))).sort_values("chance")
    strata = order.groupby("stratum")["case"]
    order["place"] = (strata.cumcount() + 0.5) / strata.transform("size")
    order = order.sort_values(["place", "chance"])
    lesion = order["lesion_pixels"] > 0
    if lesion.any():  # also the smallest share holds a lesion
        order = pd.concat([order.loc[[lesion.idxmax()]], order.drop(index=lesion.idxmax())])
    return order.index[: max(1, round(fraction * len(order)))].to_numpy()
