"""A comparison table without a cluster, of runs whose scores are made up."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.benchmark import table as module
from preprocessing.errors import RunError
from tests.pipeline.methods.samples import config_with
from tests.preprocessing.test_splits import table as cases_table


def config(folder: Path | str = "runs/x", **fields: Any) -> Any:
    chosen = {"run__dir": str(folder), "benchmark__seeds": (0,), "benchmark__arms": ("mps_ams", "scratch")} | fields
    chosen.setdefault("benchmark__reference", chosen["benchmark__arms"][0])
    return config_with(**chosen)


class FakeRay:
    """Tasks run at once; what starts from a failed one fails with it, as in Ray.

    Attributes:
        unawaited: tasks that were started and not yet waited for; most: the largest number of them.
    """

    unawaited = most = 0

    def remote(self, **_: Any) -> Any:
        def call(function: Any) -> Any:
            def start(*given: Any) -> Ref:
                self.unawaited += 1
                self.most = max(self.most, self.unawaited)
                try:
                    for ref in given:
                        if isinstance(ref, Ref) and ref.error:
                            raise ref.error
                    function(*given)
                except RunError as error:
                    return Ref(error)
                return Ref(None)

            return SimpleNamespace(remote=start)

        return call

    def wait(self, refs: list[Any]) -> Any:
        self.unawaited -= 1
        return refs[:1], refs[1:]

    def get(self, ref: Any) -> None:
        if ref.error:
            raise ref.error


class Ref:
    def __init__(self, error: Exception | None) -> None:
        self.error = error


def finished(cell: Any, better: float) -> None:
    """What a run leaves, with made-up DSC on its test cases."""
    folder = Path(cell.run.dir)
    splits = module.make_splits(cases_table(60), cell.data, cell.run.seed)
    (folder / "evaluate").mkdir(parents=True)
    splits.write(str(folder / "splits.csv"))
    tested = [case for case in splits.labelled("test") if "normal" not in case]
    chance = np.random.default_rng(zlib.crc32("/".join(folder.parts[-2:]).encode()))  # of its place in the table
    dsc = 0.5 + better + chance.normal(0, 0.01, len(tested))
    pd.DataFrame({"case": tested, "region": "lesion", "dsc": dsc}).to_csv(folder / "evaluate" / "cases.csv")
    test = {"dsc": float(dsc.mean()), "ppv": 0.5, "sen": 0.5, "hd95": None}
    (folder / "metrics.json").write_text(json.dumps({"segmentation": {"test": test}}))


@pytest.fixture
def without_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = SimpleNamespace(cases=cases_table(60), channels=1, size=(32, 32), patch=(8, 8))
    monkeypatch.setattr(module, "ray", FakeRay())
    monkeypatch.setattr(module, "groups_at_once", lambda _: 2)
    monkeypatch.setattr(module.PatchCache, "open", lambda _: cache)
