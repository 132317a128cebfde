"""A run small enough for tests: phantoms in BUSI's layout, a 48 x 48 canvas, an encoder of two blocks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import Config
from pipeline.configuration.overrides import with_fields
from pipeline.pretrain import PretrainTask, selection_key
from preprocessing.build import build_cache
from preprocessing.layouts import load_cases
from preprocessing.phantoms.ultrasound import write_busi_phantoms
from preprocessing.selection.scores import score_cache
from preprocessing.splits import make_splits

FIELDS: dict[str, Any] = {
    "cache.size": (48, 48),
    "cache.row_group_kb": 32,
    "model.width": 24,
    "model.depth": 2,
    "decoder.width": 12,
    "decoder.depth": 1,
    "selection.clusters": 8,
    "selection.codebooks": 1,
    "pretrain.epochs": 4,
    "pretrain.batch": 8,
    "pretrain.probe_every": 2,
    "pretrain.checkpoint_every": 1,
    "pretrain.noise_every": 2,
    "pretrain.pictures": 2,
    "search.trials": 2,
    "search.epochs": 2,
    "search.probe_every": 1,
    "search.grace": 1,
    "search.repeats": 1,
    "finetune.epochs": 2,
    "finetune.batch": 4,
    "finetune.validate_every": 1,
    "resources.cpus_per_worker": 1,
    "resources.precision": "fp32",  # the same sums on every processor, whether it has bf16 or not
}


@dataclass(frozen=True)
class Tiny:
    """Paths of a tiny data set, its cache, splits and scores."""

    root: str
    config: Config
    cache: str
    splits: str
    scores: str

    def task(self, folder: Path, **fields: Any) -> PretrainTask:
        """A pretraining on it; fields by dotted path with __ for dots."""
        config = with_fields(self.config, {name.replace("__", "."): value for name, value in fields.items()})
        return PretrainTask(config, self.cache, self.splits, {selection_key(config): self.scores}, str(folder))


def make_tiny(folder: Path, count: int = 24, seed: int = 0, fields: dict[str, Any] | None = None) -> Tiny:
    """Write the phantoms and preprocess them; Ray must be up unless they are made already."""
    scans = str(folder / "scans")
    if not Path(scans).exists():
        write_busi_phantoms(scans, count, seed)
    config = with_fields(Config(), FIELDS | (fields or {}) | {"data.root": scans})
    cases, rejected = load_cases(config.data)
    cache = build_cache(cases, rejected, config.data, config.cache, str(folder / "cache"), log=lambda line: None)
    splits = make_splits(cache.cases, config.data, config.run.seed)
    splits.write(str(folder / "splits.csv"))
    scores = score_cache(cache, splits.pretraining(), config.selection, str(folder / "scores"), config.run.seed)
    return Tiny(scans, config, cache.root, str(folder / "splits.csv"), scores.root)
