"""Fine-tuning in a Ray Train group: two workers end where one process does."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from upath import UPath

from pipeline.checkpoint import load_weights
from pipeline.config import Config
from pipeline.finetune import FinetuneTask, Finetuning, finetune
from pipeline.training.session import LocalSession
from preprocessing import build
from preprocessing.layouts import load_cases
from preprocessing.lock import OwnedLock
from preprocessing.shards import write_shard
from preprocessing.splits import Splits
from tests.pipeline.segmentation.test_inference import scan


def test_two_workers_train_the_same_segmenter_as_one_process(ray_session, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "_run", lambda shards, *_: [write_shard(shard) for shard in shards])  # no Ray Data here
    scans = tmp_path / "scans" / "benign"
    scans.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(12):
        y, x = rng.integers(2, 20, 2)
        scan(scans, f"benign ({number})", (40, 36), np.s_[y : y + 12, x : x + 10])
    config = Config(
        data={"root": str(tmp_path / "scans"), "duplicate_threshold": 0},
        cache={"size": (32, 32), "patch": (8, 8)},
        model={"width": 16, "depth": 1, "heads": 2},
        segmenter={"stem": 4, "width": 8},
        finetune={"epochs": 3, "batch": 5, "validate_every": 1, "ema": 0.5},
        resources={"precision": "fp32", "workers": 2, "cpus_per_worker": 1, "gpu": "no"},
    )
    cases, rejected = load_cases(config.data)
    cache = build.build_cache(cases, rejected, config.data, config.cache, str(tmp_path / "cache"))
    names = cache.cases["case"]
    split = ["train"] * 8 + ["val"] * 3 + ["test"]
    table = pd.DataFrame({"case": names, "group": names, "split": split, "labelled_used": True})
    Splits(table).write(str(tmp_path / "splits.csv"))

    def task(name: str) -> FinetuneTask:
        return FinetuneTask(config, cache.root, str(tmp_path / "splits.csv"), None, str(tmp_path / name))

    Finetuning(task("one"), LocalSession(tmp_path / "checkpoints")).run()
    with OwnedLock(str(tmp_path / "owner.json"), "the test") as lock:
        folder = finetune(task("two"), lock.file, lock.token)
    one, first = load_weights(UPath(tmp_path / "one" / "segmenter"))
    two, second = load_weights(folder)
    assert first["trained"] == second["trained"]
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], rtol=1e-3, atol=1e-4, msg=name)
