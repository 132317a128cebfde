"""Train, validation and test: by group, stratified, a function of the seed; written to a file that can be given back.

Cases without a label join the pretraining ("unlabelled") unless their group is kept apart for validation or
testing ("excluded"): a near-duplicate of a test image must not be trained on either.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pydantic import Field, model_validator
from upath import UPath

from preprocessing.errors import ConfigError
from preprocessing.settings import Settings
from preprocessing.storage import write_text

PARTS = ("train", "val", "test")
SPLITS = (*PARTS, "unlabelled", "excluded")
_SHOWN = 10  # mistakes of one kind that are spelt out


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
        return str(self.table.set_index("case")["group"][case])

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
        table = _read_csv(path, ("case", "group", "split", "labelled_used"))
        return cls(table.assign(labelled_used=table["labelled_used"].str.lower() == "true"))


def make_splits(cases: pd.DataFrame, settings: SplitSettings, seed: int) -> Splits:
    """Split the cases.

    Splits that the data set or a file gives are kept (without any val, some of train becomes val). With fewer than
    three labelled groups everything counts as training: enough to cluster and score, see `Splits.trainable`.

    Args:
        cases: columns case, group, stratum, split_given, labelled, lesion_pixels (`PatchCache.cases`).
        settings: shares, folds, label_fraction.
        seed: the only source of chance.

    Raises:
        ConfigError: a given split parts a group (the pairs are named), or leaves labelled cases out.
    """
    cases = cases.sort_values("case", ignore_index=True)
    given = cases["split_given"].to_numpy(str)
    labelled = cases["labelled"].to_numpy(bool) & (given != "unlabelled")
    if (given != "").any():
        mistakes = find_leaks(cases["case"], cases["group"], given) + _left_out(cases["case"], labelled, given)
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


def read_given(path: str, known: Iterable[str]) -> dict[str, str]:
    """Split of each case from a CSV with columns case and split.

    Raises:
        ConfigError: the file is missing, lacks a column, or names a split or a case that does not exist.
    """
    table, names = _read_csv(path, ("case", "split")), set(known)
    mistakes = _some(
        [f"data.splits: {path}: case {c} has the split {s!r}, there are {', '.join(SPLITS)}"
         for c, s in zip(table["case"], table["split"], strict=True) if s not in SPLITS]
    )  # fmt: skip
    mistakes += _some([f"data.splits: {path}: there is no case {c}" for c in table["case"] if c not in names])
    mistakes += _some(
        [f"data.splits: {path}: case {c} is named twice" for c in table["case"][table["case"].duplicated()]]
    )
    if mistakes:
        raise ConfigError(mistakes)
    return dict(zip(table["case"], table["split"], strict=True))


def find_leaks(cases: Sequence[str], groups: Sequence[str], splits: Sequence[str]) -> list[str]:
    """A sentence for each pair of one group (a patient, or near-duplicate images) that the splits part."""
    table = pd.DataFrame({"case": list(cases), "group": list(groups), "split": list(splits)})
    # what is pretrained on without its label is trained on all the same
    table["part"] = table["split"].replace("unlabelled", "train")
    table = table[table["part"].isin(PARTS)].drop_duplicates(["group", "part"])
    leaks = []
    for group, members in table[table["group"].duplicated(keep=False)].groupby("group"):
        first, *others = members.itertuples(index=False)
        leaks += [
            f"the given split leaks: {first.case} ({first.split}) and {other.case} ({other.split}) are of one "
            f"group, {group} (same patient, or near-duplicate images)"
            for other in others
        ]
    return _some(leaks)


def _left_out(cases: pd.Series, labelled: np.ndarray, given: np.ndarray) -> list[str]:
    return _some([f"the given split leaves out the labelled case {case}" for case in cases[labelled & (given == "")]])


def _place(part: str, labelled: bool, given: str) -> str:
    """The split of one case whose group belongs to a part."""
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
            dealt[holders[donor][-1]] = part
    return dealt


def _fold(cases: pd.DataFrame, settings: SplitSettings, seed: int) -> dict[str, str]:
    """Parts for one fold of a cross-validation: the folds do not depend on which of them is tested."""
    names = [str(fold) for fold in range(settings.folds)]
    folds = _deal(cases, dict.fromkeys(names, 1 / settings.folds), seed)
    test = {group for group, name in folds.items() if name == names[settings.fold]}
    share = settings.val_fraction / (1 - 1 / settings.folds)
    rest = _deal(cases[~cases["group"].isin(test)], {"train": 1 - share, "val": share}, seed)
    return rest | dict.fromkeys(test, "test")


def _groups(cases: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Groups (index) in the order of dealing, with their size and whether they hold a lesion."""
    table = cases.groupby("group").agg(
        size=("case", "size"),
        lesion=("lesion_pixels", lambda pixels: bool((pixels > 0).any())),
        stratum=("stratum", lambda strata: strata.value_counts().sort_index().idxmax()),
    )
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


def _read_csv(path: str, columns: Sequence[str]) -> pd.DataFrame:
    """All columns as text: a case may be called 007.

    Raises:
        ConfigError: no such file, or a column is missing.
    """
    try:
        table = pd.read_csv(io.BytesIO(UPath(path).read_bytes()), dtype=str, keep_default_na=False)
    except (FileNotFoundError, IsADirectoryError):
        raise ConfigError(f"data.splits: there is no file {path}") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ConfigError(f"data.splits: {path} is no CSV file: {error}") from None
    missing = [name for name in columns if name not in table]
    if missing:
        raise ConfigError(f"data.splits: {path} lacks the column(s) {', '.join(missing)}; it has {', '.join(table)}")
    return table


def _some(mistakes: list[str]) -> list[str]:
    more = len(mistakes) - _SHOWN
    return mistakes if more <= 0 else [*mistakes[:_SHOWN], f"... and {more} more of this kind"]
