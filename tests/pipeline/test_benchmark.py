"""The comparison table without a cluster: which runs it is made of, what they share, and what is made of them."""

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
from pipeline.benchmark.cells import cells, check_compute, equal_compute, without
from pipeline.checkpoint import save_weights
from pipeline.measure.flops import Costs, step_cost
from pipeline.methods import Shape
from preprocessing.errors import ConfigError, RunError
from tests.pipeline.methods.samples import config_with
from tests.preprocessing.test_splits import table as cases_table

SHAPE = Shape(1, (32, 32), (8, 8))


def config(folder: Path | str = "runs/x", **fields: Any) -> Any:
    chosen = {"run__dir": str(folder), "benchmark__seeds": (0,), "benchmark__arms": ("mps_ams", "scratch")} | fields
    chosen.setdefault("benchmark__reference", chosen["benchmark__arms"][0])
    return config_with(**chosen)


def test_a_table_of_seeds_alone_lies_where_it_always_did() -> None:
    found = cells(config(benchmark__seeds=(0, 1)))
    places = [cell.config.run.dir for cell in found]
    assert places == [f"runs/x/cells/seed_{seed}/{arm}" for seed in (0, 1) for arm in ("mps_ams", "scratch")]
    assert not any(cell.config.finetune.encoder for cell in found)


def test_one_pretraining_serves_all_shares_of_labels_of_a_seed_and_fold() -> None:
    chosen = config(
        data__folds=4, data__label_fraction=0.1, benchmark__folds=(0, 2), benchmark__label_fractions=(0.1, 1.0)
    )
    found = cells(chosen)
    assert len({cell.config.run.dir for cell in found}) == len(found) == 8
    pretrained = [cell for cell in found if cell.config.pretrains]
    assert [(cell.fold, cell.labels) for cell in pretrained] == [(0, 0.1), (2, 0.1)]
    for cell in found:
        if cell.arm == "mps_ams" and cell.labels == 1.0:
            home = found[cell.needs]
            assert (home.fold, home.seed, home.arm) == (cell.fold, cell.seed, cell.arm)
            assert cell.config.finetune.encoder == f"{home.config.run.dir}/pretrain/encoder"
            assert cell.config.data.fold == home.config.data.fold == cell.fold


def test_a_share_that_is_not_compared_still_pretrains_for_the_others() -> None:
    found = cells(config(data__label_fraction=0.1, benchmark__label_fractions=(0.5,)))
    assert [(cell.arm, cell.labels, cell.counted) for cell in found] == [
        ("mps_ams", 0.1, False), ("mps_ams", 0.5, True), ("scratch", 0.5, True)
    ]  # fmt: skip


def test_arms_of_ones_own_and_mistakes_in_them() -> None:
    fields = {"unet": {"finetune.lr": 0.002}, "moved": {"finetune.encoder": "runs/y/pretrain/encoder"}}
    found = cells(config(benchmark__arms=("unet", "moved"), benchmark__fields=fields))
    assert (found[0].config.segmenter.kind, found[0].config.finetune.lr) == ("unet", 0.002)
    assert not found[1].config.pretrains
    with pytest.raises(ConfigError, match=r"scratch: there is no setting finetune\.speed"):
        cells(config(benchmark__fields={"scratch": {"finetune.speed": 1}}))
    with pytest.raises(ConfigError, match="give it to an arm of its own"):
        cells(config(finetune__encoder="runs/y/pretrain/encoder"))
    with pytest.raises(ConfigError, match="would be judged in place of every arm"):
        cells(config(checkpoint="runs/y/finetune"))
    with pytest.raises(ConfigError, match=r"scratch: finetune\.lr = -1: should be more than 0"):
        cells(config(benchmark__fields={"scratch": {"finetune.lr": -1}}))
    with pytest.raises(ConfigError, match=r"scratch: there is no setting finetune\.lr\.x"):
        cells(config(benchmark__fields={"scratch": {"finetune.lr.x": 1}}))
    sections = {"finetune": {"lr": 0.1}, "mask.ratio": {"end": 0.9}, "pretrain": {"include_test": True}}
    for section, fields in sections.items():  # would reset what it does not name, or look at test images
        with pytest.raises(ConfigError, match=rf"benchmark\.fields, mps_ams: {section} is a section"):
            cells(config(benchmark__fields={"mps_ams": {section: fields}}))
    for share in ((0.1, 0.5), (0.1,)):  # data.label_fraction is 1: its cell pretrains for the others
        with pytest.raises(ValueError, match=r"pretrain\.patience=0"):
            config(pretrain__patience=2, benchmark__label_fractions=share)


def test_two_arms_that_are_the_same_are_a_mistake() -> None:
    halves = {"benchmark__arms": ("mps_ams", "mps_only", "ams_only", "random_75")}
    with pytest.raises(ConfigError) as told:
        cells(config(**halves, benchmark__seeds=(0, 1)))  # as configured the ratio is constant: MPS-AMS without AMS
    assert [line.split(" here;")[0] for line in told.value.mistakes] == [
        "benchmark.arms: mps_only is the same as mps_ams", "benchmark.arms: random_75 is the same as ams_only"
    ]  # fmt: skip
    assert "mask.ratio.family=linear" in told.value.mistakes[0]
    assert len(cells(config(**halves, mask__ratio={"family": "linear", "start": 0.6, "end": 0.85}))) == 4
    tokens = {"segmenter.kind": "vit_unet"}  # has no image_levels
    fields = {"tokens": tokens, "fewer": tokens | {"segmenter.image_levels": 1}}
    with pytest.raises(ConfigError, match="fewer is the same as tokens"):
        cells(config(benchmark__arms=tuple(fields), benchmark__fields=fields))
    with pytest.raises(ConfigError, match="again is the same as scratch here; leave one out"):
        cells(config(benchmark__arms=("scratch", "again"), benchmark__fields={"again": {"pretrain.method": "scratch"}}))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"benchmark__fields": {"unett": {"finetune.lr": 0.1}}}, "'unett' is neither an arm of its own"),
        ({"benchmark__fields": {"scratch": {"data.label_fraction": 0.5}}}, "scratch sets data.label_fraction, which"),
        ({"benchmark__fields": {"scratch": {"finetune.classes.x": [1]}}}, "scratch sets finetune.classes.x, which"),
        ({"benchmark__fields": {"../x": {}}, "benchmark__arms": ("mps_ams", "../x")}, "not so '../x'"),
        ({"benchmark__fields": {"a|b": {}}, "benchmark__arms": ("mps_ams", "a|b")}, "letters, digits"),
        ({"benchmark__fields": {"mps_ams": {"pretrain.include_test": True}}}, "sets pretrain.include_test, which"),
        ({"benchmark__fields": {"mps_ams": {"checkpoint": "runs/y/finetune"}}}, "sets checkpoint, which"),
        ({"benchmark__fields": {"mps_ams": {"profile": "full"}}}, "sets profile, which"),
        ({"benchmark__fields": {"mps_ams": {"evaluate.mirror": False}}}, r"sets evaluate\.mirror, which"),
        ({"benchmark__folds": (0, 1)}, "set data.folds to their number"),
        ({"benchmark__folds": (0, 4), "data__folds": 4}, r"must be below data\.folds \(4\)"),
        ({"benchmark__reference": "mae"}, "the reference 'mae' is not among benchmark.arms"),
        ({"benchmark__arms": ("scratch", "scratch")}, "each may be named once"),
        ({"benchmark__seeds": (0, 1, 0)}, "each may be named once"),
    ],
)
def test_mistakes_in_what_is_compared(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        config(**fields)


def test_equal_compute_gives_each_arm_the_references_flops() -> None:
    chosen = config(benchmark__arms=("mps_ams", "simmim", "scratch"), pretrain__epochs=100)
    epochs = equal_compute(chosen, Costs(SHAPE))
    assert epochs.keys() == {"mps_ams", "simmim"}
    found = {cell.arm: cell.config for cell in cells(chosen, epochs)}
    assert found["mps_ams"].pretrain.epochs == 100
    totals = [step_cost(found[arm], SHAPE).mean * found[arm].pretrain.epochs for arm in epochs]
    assert totals[1] == pytest.approx(totals[0], rel=0.02)
    assert epochs["simmim"] < 100  # its encoder sees all patches
    own = config(benchmark__arms=("mps_ams", "mae"), benchmark__fields={"mae": {"pretrain.epochs": 7}})
    assert [cell.config.pretrain.epochs for cell in cells(own, equal_compute(own, Costs(SHAPE)))] == [
        own.pretrain.epochs, 7
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="must be a pretrained arm"):
        check_compute(config(benchmark__equal="compute", benchmark__reference="scratch"))
    check_compute(config(benchmark__reference="scratch"))  # nothing is to be equal


class FakeRay:
    """Tasks run at once; what starts from a failed one fails with it, as in Ray."""

    def remote(self, **_: Any) -> Any:
        def call(function: Any) -> Any:
            def start(*given: Any) -> dict[str, Any]:
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


def test_an_encoder_that_others_need_is_pretrained_though_its_own_run_is_there() -> None:
    fields = {"data__label_fraction": 0.1, "benchmark__label_fractions": (0.1, 0.5), "benchmark__seeds": (0, 1)}
    every = cells(config(**fields))
    there = {(arm, 0, 0, 0.1) for arm in ("mps_ams", "scratch")} | {("mps_ams", 1, 0, 0.5)}
    left = without(every, there)
    found = [(*cell.place, cell.counted, cell.needs) for cell in left]
    assert found == [
        ("mps_ams", 0, 0, 0.1, False, None),
        ("mps_ams", 0, 0, 0.5, True, 0),
        ("scratch", 0, 0, 0.5, True, None),
        ("mps_ams", 1, 0, 0.1, True, None),
        ("scratch", 1, 0, 0.1, True, None),
        ("scratch", 1, 0, 0.5, True, None),
    ]
    assert without(every, set()) == every


def test_fine_tunings_take_as_many_steps_at_every_share_of_labels() -> None:
    fields = {"data__label_fraction": 0.1, "benchmark__label_fractions": (0.05, 0.1, 1.0)}
    fields |= {"finetune__epochs": 60, "finetune__validate_every": 5, "benchmark__arms": ("scratch",)}

    def rounds(**more: Any) -> dict[float, tuple[int, int]]:
        found = cells(config(**fields, **more))
        return {c.labels: (c.config.finetune.epochs, c.config.finetune.validate_every) for c in found}

    assert rounds() == {0.1: (60, 5), 0.05: (120, 10), 1.0: (6, 1)}
    assert set(rounds(benchmark__finetuning="epochs").values()) == {(60, 5)}
