"""What a report is made of, collected from a run's folder; whatever a stage has not written stays empty."""

from __future__ import annotations

import io
import json
import platform
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pandas as pd
import yaml
from PIL import Image
from upath import UPath

from pipeline.training.history import Record, read_history
from preprocessing.object_store import fresh, read_text
from preprocessing.text_table import read_results

STAGES = ("selection", "search", "pretrain", "search_finetune", "finetune", "evaluate")
SEARCHES = ("search", "search_finetune")
PACKAGES = ("mps-ams", "ray", "torch", "numpy", "pandas", "pyarrow", "scipy", "pillow", "nibabel", "SimpleITK")


@dataclass(frozen=True)
class Picture:
    """A PNG file; its caption travels in the file's own `Description`, else the file's name serves."""

    name: str
    caption: str
    png: bytes


@dataclass(frozen=True)
class ReportData:
    """Everything that the report shows.

    Attributes:
        name: of the run; root: its folder.
        metrics: metrics.json.
        config, config_text: the resolved configuration, as a tree and as YAML.
        cases: one row a case kept: case, stratum, split, labelled_used (and whatever else the cache says).
        rejected: case, file, reason.
        pretrain, finetune: one record an epoch or validation, as `History` writes them.
        trials: one row a trial, by search ("search", "search_finetune"): trial, stage, seed, dsc, epochs, and a column
            for each searched field.
        scored: one row a test case and region: case, stratum, region, dsc, ppv, sen, hd95 (NaN without lesion).
        pictures: by stage ("selection", "pretrain", "evaluate").
        seconds: by stage, "preprocess" first.
        versions: by package.
    """

    name: str
    root: str
    metrics: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    config_text: str = ""
    cases: pd.DataFrame = field(default_factory=pd.DataFrame)
    rejected: pd.DataFrame = field(default_factory=pd.DataFrame)
    pretrain: list[Record] = field(default_factory=list)
    finetune: list[Record] = field(default_factory=list)
    trials: dict[str, pd.DataFrame] = field(default_factory=dict)
    scored: pd.DataFrame = field(default_factory=pd.DataFrame)
    pictures: dict[str, list[Picture]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def setting(self, path: str) -> Any:
        """A field of the resolved configuration by its dotted path."""
        tree: Any = self.config
        for name in path.split("."):
            tree = tree.get(name) if isinstance(tree, dict) else None
        return tree


def collect(root: str) -> ReportData:
    """Read a run's folder (path or URI)."""
    folder = fresh(UPath(root))
    text = _text(folder / "config.yaml")
    config = yaml.safe_load(text) or {}
    cache = fresh(UPath(config.get("cache", {}).get("dir") or folder / "cache"))
    metrics = json.loads(_text(folder / "metrics.json") or "{}")
    prepared = metrics.get("data", {}).get("preprocess_seconds")
    seconds = {} if prepared is None else {"preprocess": float(prepared)}
    for stage in STAGES:
        mark = json.loads(_text(folder / stage / "stage.json") or "{}")
        if "seconds" in mark:
            seconds[stage] = float(mark["seconds"])
    return ReportData(
        name=folder.name,
        root=str(root),
        metrics=metrics,
        config=config,
        config_text=text,
        cases=_cases(folder, cache),
        rejected=_table(cache / "rejected.parquet"),
        pretrain=read_history(folder / "pretrain"),
        finetune=read_history(folder / "finetune"),
        trials={name: _table(folder / name / "trials.csv") for name in SEARCHES},
        scored=_table(folder / "evaluate" / "cases.csv"),
        pictures={stage: _pictures(folder / stage / "pictures") for stage in ("selection", "pretrain", "evaluate")},
        seconds=seconds,
        versions=_versions(),
    )


def _cases(folder: UPath, cache: UPath) -> pd.DataFrame:
    splits, cases = _table(folder / "splits.csv"), _table(cache / "cases.parquet")
    if splits.empty or cases.empty:
        return splits if cases.empty else cases
    return cases.drop(columns=["group", "split"], errors="ignore").merge(splits, on="case", how="inner")


def _table(path: UPath) -> pd.DataFrame:
    if not path.exists():
        return pd.DataFrame()
    if path.suffix == ".parquet":
        return pd.read_parquet(io.BytesIO(path.read_bytes()))
    return read_results(path.read_bytes(), ("case", "group", "stratum"))


def _pictures(folder: UPath) -> list[Picture]:
    if not folder.exists():
        return []
    found = []
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.suffix == ".png":
            png = file.read_bytes()
            with Image.open(io.BytesIO(png)) as image:
                caption = image.info.get("Description") or file.stem.replace("_", " ")
            found.append(Picture(file.stem, caption, png))
    return found


def _text(path: UPath) -> str:
    return read_text(path) if path.exists() else ""


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "system": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # an extra, or the project run from a checkout
            continue
    return found
