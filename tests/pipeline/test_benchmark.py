"""The comparison table without a cluster: what is made of the runs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.benchmark import table as module
from pipeline.checkpoint import save_weights
from preprocessing.errors import ConfigError, RunError
from tests.pipeline.made_up_table import config, finished, without_cluster
from tests.preprocessing.test_splits import table as cases_table

__all__ = ["without_cluster"]


@pytest.mark.usefixtures("without_cluster")
def test_the_table_its_verdicts_plots_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = config(tmp_path, benchmark__label_fractions=(0.5, 1.0), benchmark__seeds=(0, 1, 2))

    def run(cell: Any) -> None:
        finished(cell, 0.1 if cell.pretrain.method == "mps_ams" else 0.0)
        if cell.pretrains:
            (Path(cell.run.dir) / "pretrain").mkdir()
            record = {"samples_seen": 100, "masked": 0.75, "ratio": 0.75}
            (Path(cell.run.dir) / "pretrain" / "history.jsonl").write_text(json.dumps(record))

    found = module.benchmark(chosen, lambda _: None, run, run)
    assert len(found) == 12
    assert (found.loc[found["arm"] == "mps_ams", "samples_seen"] == 100).all()  # at every share of labels
    flops = found["flops_mean"] * 100
    assert found["pretrain_flops"].tolist() == flops.where(found["arm"] == "mps_ams", 0).tolist()
    assert "is not known" in capsys.readouterr().out
    text = (tmp_path / "table.md").read_text()
    assert text.count("| worse |") == 2
    assert (tmp_path / "plots" / "dsc_over_labels.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "benchmark.html").read_text()
    assert page.count("data:image/png") == 3
    assert "http" not in page


@pytest.mark.usefixtures("without_cluster")
def test_a_failed_pretraining_takes_only_its_own_cells_with_it(tmp_path: Path) -> None:
    ran = []

    def run(cell: Any) -> None:
        if cell.pretrains:
            raise RunError("no memory")
        ran.append(cell.run.dir)
        finished(cell, 0.0)

    with pytest.raises(RunError, match=r"mps_ams, seed 0, fold 0, labels 0\.5: no memory"):
        module.benchmark(config(tmp_path, benchmark__label_fractions=(0.5, 1.0)), lambda _: None, run, run)
    assert len(ran) == 2
    assert all(place.endswith("scratch") for place in ran)


@pytest.mark.usefixtures("without_cluster")
@pytest.mark.parametrize(("concurrent", "most"), [(0, 2), (1, 1), (3, 3)])
def test_so_many_runs_at_a_time(tmp_path: Path, concurrent: int, most: int) -> None:
    chosen = config(tmp_path, benchmark__seeds=(0, 1, 2), benchmark__concurrent=concurrent)
    module.benchmark(chosen, lambda _: None, lambda cell: finished(cell, 0.0), lambda _: None)
    assert module.ray.most == most


@pytest.mark.usefixtures("without_cluster")
def test_a_half_finished_table_says_what_it_lacks_and_how_many_seeds_are_compared(tmp_path: Path) -> None:
    def run(cell: Any) -> None:
        if cell.run.seed and cell.segmenter.kind == "unet":
            raise RunError("no memory")
        finished(cell, 0.0)

    chosen = config(tmp_path, benchmark__arms=("unet", "scratch"), benchmark__seeds=(0, 1, 2))
    with pytest.raises(RunError, match="unet, seed 2"):
        module.benchmark(chosen, lambda _: None, run, None)
    text = (tmp_path / "table.md").read_text()
    assert "2 runs are not in it yet: unet, seed 1, fold 0, labels 1; unet, seed 2, fold 0, labels 1." in text
    (row,) = (line.split(" | ") for line in text.splitlines() if line.startswith("| scratch"))
    head = text.splitlines()[0].split(" | ")
    assert (row[head.index("n")], row[head.index("trainings")]) == ("3", "1")
    assert row[head.index("verdict")].endswith(" (one training)")


@pytest.mark.usefixtures("without_cluster")
@pytest.mark.parametrize(
    ("seeds", "mark", "told"),
    [
        ((0,), " (one training)", "it cannot be told from so few trainings"),
        ((0, 1), " (these trainings)", "it cannot be told from so few trainings"),
        ((0, 1, 2), "", "with 100% of the labels (2 degrees of freedom)"),
    ],
)
def test_a_verdict_about_trainings_and_not_about_methods_is_marked(
    tmp_path: Path, seeds: tuple[int, ...], mark: str, told: str
) -> None:
    chosen = config(tmp_path, benchmark__arms=("unet", "scratch"), benchmark__seeds=seeds)

    def run(cell: Any) -> None:
        finished(cell, 0.3 * (cell.segmenter.kind == "unet"))

    module.benchmark(chosen, lambda _: None, run, None)
    text = (tmp_path / "table.md").read_text()
    assert f"| worse{mark} |" in text
    assert told in text


@pytest.mark.usefixtures("without_cluster")
def test_a_table_that_is_taken_up_again_does_not_shrink(tmp_path: Path) -> None:
    chosen = config(tmp_path, benchmark__arms=("unet", "scratch"), benchmark__seeds=(0, 1, 2))
    whole = module.benchmark(chosen, lambda _: None, lambda cell: finished(cell, 0.0), None)
    again = []

    def interrupted(cell: Any) -> None:
        again.append(cell)
        if len(again) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        module.benchmark(chosen, lambda _: None, interrupted, None)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "table.csv")[["arm", "seed", "dsc"]], order_of(whole))
    more = config(tmp_path, benchmark__arms=("unet", "scratch", "mae"), benchmark__seeds=(0, 1, 2))

    def failing(cell: Any) -> None:
        if cell.pretrain.method == "mae":
            raise RunError("no memory")

    with pytest.raises(RunError, match=r"the same command tries them again, and the others are in .*benchmark\.html"):
        module.benchmark(more, lambda _: None, failing, None)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "table.csv")[["arm", "seed", "dsc"]], order_of(whole))


def order_of(table: pd.DataFrame) -> pd.DataFrame:
    """As the file has it: arm by arm."""
    return table.sort_values(["arm", "seed"], ascending=[False, True])[["arm", "seed", "dsc"]].reset_index(drop=True)


@pytest.mark.usefixtures("without_cluster")
def test_folds_of_one_seed_are_averaged_before_the_spread_over_seeds(tmp_path: Path) -> None:
    def run(cell: Any) -> None:
        finished(cell, 0.2 * cell.data.fold + 0.01 * cell.run.seed)

    fields = {"data__folds": 3, "benchmark__folds": (0, 1, 2), "benchmark__arms": ("scratch", "unet")}
    seeds = {"one": (0,), "two": (0, 1)}
    text = {}
    for name, chosen in seeds.items():
        made = config(tmp_path / name, benchmark__seeds=chosen, **fields)
        module.benchmark(made, lambda _: None, run, None)
        text[name] = (tmp_path / name / "table.md").read_text()
    rows = pd.read_csv(tmp_path / "two" / "table.csv").query("arm == 'unet'")
    expected = rows.groupby("seed")["dsc"].mean()
    assert f"| {expected.mean():.3f} ± {expected.std():.3f} |" in text["two"]
    assert expected.std() < 0.02 < rows["dsc"].std()
    assert "n: seeds; ±: standard deviation over them, each the mean of its folds." in text["two"]
    assert "n: folds of the one seed; ±: standard deviation over them." in text["one"]
    (row,) = (line.split(" | ") for line in text["two"].splitlines() if line.startswith("| unet"))
    head = text["two"].splitlines()[0].split(" | ")
    assert (row[head.index("n")], row[head.index("trainings")]) == ("2", "6")
    numbers = pd.read_csv(tmp_path / "two" / "summary.csv").set_index("arm").loc["unet"]
    assert numbers[["n", "dsc", "dsc_sd"]].tolist() == pytest.approx([2, expected.mean(), expected.std()])
    assert numbers["low"] < numbers["difference"] < numbers["high"]
    assert len(row[head.index("by seed")].split(", ")) == 2


@pytest.mark.usefixtures("without_cluster")
def test_folds_of_given_splits_are_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = cases_table(60).assign(split_given="train")
    cache = SimpleNamespace(cases=given, channels=1, size=(32, 32), patch=(8, 8))
    monkeypatch.setattr(module.PatchCache, "open", lambda _: cache)
    with pytest.raises(ConfigError, match="every fold would be the same"):
        module.benchmark(config(tmp_path, data__folds=3, benchmark__folds=(0, 1)), lambda _: None, None, None)


@pytest.mark.usefixtures("without_cluster")
def test_a_fold_without_a_lesion_has_no_dsc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(cell: Any) -> None:
        finished(cell, 0.0)
        cases = Path(cell.run.dir) / "evaluate" / "cases.csv"
        pd.read_csv(cases).assign(dsc=np.nan).to_csv(cases, index=False)
        (Path(cell.run.dir) / "metrics.json").write_text(
            json.dumps({"segmentation": {"test": {"dsc": None, "ppv": None, "sen": None, "hd95": None}}})
        )

    module.benchmark(config(tmp_path, benchmark__arms=("unet", "scratch")), lambda _: None, run, None)
    assert "unet, seed 0, fold 0, labels 1: no lesion to test on" in capsys.readouterr().out


@pytest.mark.usefixtures("without_cluster")
def test_an_encoder_from_elsewhere_is_not_called_free(tmp_path: Path) -> None:
    save_weights(tmp_path / "encoder", {}, {"kind": "encoder"})
    fields = {"moved": {"finetune.encoder": str(tmp_path / "encoder")}}
    chosen = config(tmp_path, benchmark__arms=("scratch", "moved"), benchmark__fields=fields)
    found = module.benchmark(chosen, lambda _: None, lambda cell: finished(cell, 0.0), None).set_index("arm")
    assert found.loc["scratch", "pretrain_flops"] == 0
    assert np.isnan(found.loc["moved", ["samples_seen", "pretrain_flops", "pretrain_seconds"]].astype(float)).all()


@pytest.mark.usefixtures("without_cluster")
def test_of_several_regions_the_dsc_and_its_difference_are_of_one_kind(tmp_path: Path) -> None:
    """ET is in one case of ten alone: a mean over regions first would give that case half of the whole."""

    def run(cell: Any) -> None:
        finished(cell, 0.0)
        folder = Path(cell.run.dir)
        whole = pd.read_csv(folder / "evaluate" / "cases.csv").assign(region="WT", dsc=0.5)
        part = whole.head(1).assign(region="ET", dsc=0.9 if cell.segmenter.kind == "unet" else 0.1)
        pd.concat([whole, part]).to_csv(folder / "evaluate" / "cases.csv", index=False)

    chosen = config(tmp_path, benchmark__arms=("scratch", "unet"), benchmark__seeds=(0, 1))
    found = module.benchmark(chosen, lambda _: None, run, None).groupby("arm")["dsc"].mean()
    summary = pd.read_csv(tmp_path / "summary.csv").set_index("arm")
    assert summary.loc["unet", "difference"] == pytest.approx(found["unet"] - found["scratch"])
    cases = len(pd.read_csv(tmp_path / "scores.csv")) / 4
    assert found["unet"] - found["scratch"] == pytest.approx(0.4 / cases)
