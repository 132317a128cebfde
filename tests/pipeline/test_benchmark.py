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
    for share in ((0.1, 0.5), (0.1,)):  # data.label_fraction is 1: its cell pretrains for the others
        with pytest.raises(ValueError, match=r"pretrain\.patience=0"):
            config(pretrain__patience=2, benchmark__label_fractions=share)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"benchmark__fields": {"unett": {"finetune.lr": 0.1}}}, "'unett' is neither an arm of its own"),
        ({"benchmark__fields": {"scratch": {"data.label_fraction": 0.5}}}, "scratch sets data.label_fraction, which"),
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
    chosen = config(tmp_path, benchmark__label_fractions=(0.5, 1.0), benchmark__seeds=(0, 1))

    def run(cell: Any) -> None:
        finished(cell, 0.1 if cell.pretrain.method == "mps_ams" else 0.0)
        if cell.pretrains:
            (Path(cell.run.dir) / "pretrain").mkdir()
            record = {"samples_seen": 100, "masked": 0.75, "ratio": 0.75}
            (Path(cell.run.dir) / "pretrain" / "history.jsonl").write_text(json.dumps(record))

    found = module.benchmark(chosen, lambda _: None, run, run)
    assert len(found) == 8
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
def test_a_table_made_in_two_places_is_the_table_made_in_one(tmp_path: Path) -> None:
    def run(cell: Any) -> None:
        finished(cell, 0.02 * cell.run.seed)

    fields = {"benchmark__arms": ("scratch", "unet"), "benchmark__label_fractions": (1 / 64, 1.0)}
    places = {"whole": (0, 1), "first": (0,), "second": (1,)}
    for name, seeds in places.items():
        include = (str(tmp_path / "first"),) if name == "second" else ()
        chosen = config(tmp_path / name, benchmark__seeds=seeds, benchmark__include=include, **fields)
        module.benchmark(chosen, lambda _: None, run, run)
    whole, second = (pd.read_csv(tmp_path / name / "table.csv") for name in ("whole", "second"))
    order = ["seed", "arm"]
    numbers = ["dsc", "labels", "samples_seen"]
    assert second.sort_values(order)[order].to_numpy().tolist() == whole.sort_values(order)[order].to_numpy().tolist()
    assert len(second) == 8
    text = {name: (tmp_path / name / "table.md").read_text() for name in places}
    assert text["second"] == text["whole"]  # differences, intervals, verdicts and what could be expected too
    assert "All runs are in it." in text["whole"]
    assert "| 2 |" in text["whole"]
    assert "nan" not in text["whole"]
    lengths = {name: len(pd.read_csv(tmp_path / name / "scores.csv")) for name in places}
    assert lengths["second"] == lengths["whole"] == 2 * lengths["first"]
    assert second[numbers].notna().all(axis=None)
    scores = pd.read_csv(tmp_path / "first" / "scores.csv")
    scores[scores["arm"] == "scratch"].to_csv(tmp_path / "first" / "scores.csv", index=False)
    with pytest.raises(ConfigError, match=r"first: scores\.csv has no case of \('unet', 0, 0, 0\.015625\)"):
        module.benchmark(
            config(tmp_path / "x", benchmark__include=(str(tmp_path / "first"),), **fields), None, run, run
        )
    with pytest.raises(ConfigError, match=r"benchmark\.include = .*nowhere: there is no table\.csv"):
        module.benchmark(config(tmp_path / "x", benchmark__include=(str(tmp_path / "nowhere"),)), None, run, run)


@pytest.mark.usefixtures("without_cluster")
def test_a_table_made_with_other_settings_is_refused_beside_all_that_are_missing(tmp_path: Path) -> None:
    arms = {"benchmark__arms": ("scratch", "unet"), "benchmark__reference": "scratch"}
    module.benchmark(config(tmp_path / "old", **arms), lambda _: None, lambda cell: finished(cell, 0.0), None)
    places = {"data__root": "elsewhere", "resources__workers": 2, "benchmark__seeds": (1, 2), "data__layout": "hecktor"}
    other = {"finetune__epochs": 17, "benchmark__fields": {"unet": {"finetune.lr": 0.5}}}
    include = (str(tmp_path / "nowhere"), str(tmp_path / "old"))
    with pytest.raises(ConfigError) as raised:
        module.benchmark(
            config(tmp_path / "x", benchmark__include=include, **arms, **places, **other), None, None, None
        )
    missing, differing = raised.value.mistakes
    assert "nowhere: there is no table.csv" in missing
    own = config("runs/x").finetune.epochs
    assert "data.layout" in differing
    assert f"finetune.epochs = {own} (here 17)" in differing
    assert 'benchmark.fields.unet = [["pretrain.method", "scratch"], ["segmenter.kind", "unet"]] (here' in differing
    assert differing.count(" = ") == 1 + 3  # include itself, and nothing of places and machines


@pytest.mark.usefixtures("without_cluster")
def test_a_table_that_includes_another_knows_the_settings_of_its_arms(tmp_path: Path) -> None:
    def made(name: str, arms: tuple[str, ...], include: str, **fields: Any) -> None:
        included = (str(tmp_path / include),) if include else ()
        chosen = config(tmp_path / name, benchmark__arms=arms, benchmark__include=included, **fields)
        module.benchmark(chosen, lambda _: None, lambda cell: finished(cell, 0.0), None)

    made("first", ("unet",), "")
    made("second", ("scratch",), "first")
    with pytest.raises(ConfigError, match=r"second was made with benchmark\.fields\.unet"):
        made("third", ("unet",), "second", benchmark__fields={"unet": {"finetune.lr": 0.5}})
    with pytest.raises(ConfigError, match=r"second was made with search\.finetune = false"):
        made("fourth", ("unet",), "second", search__finetune=True)
    made("fifth", ("unet",), "", search__finetune=True, search__trials=3)
    made("sixth", ("scratch",), "fifth", search__finetune=True, search__trials=3, search__concurrent=1)
    with pytest.raises(ConfigError, match=r"fifth was made with search\.trials = 3"):
        made("seventh", ("scratch",), "fifth", search__finetune=True, search__trials=4)


@pytest.mark.usefixtures("without_cluster")
def test_a_table_of_other_cases_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arms = {"benchmark__arms": ("scratch",)}
    module.benchmark(config(tmp_path / "old", **arms), lambda _: None, lambda cell: finished(cell, 0.0), None)
    changed = cases_table(60)
    changed.loc[3, "lesion_pixels"] += 1
    cache = SimpleNamespace(cases=changed, channels=1, size=(32, 32), patch=(8, 8))
    monkeypatch.setattr(module.PatchCache, "open", lambda _: cache)
    chosen = config(tmp_path / "new", benchmark__include=(str(tmp_path / "old"),), **arms)
    with pytest.raises(ConfigError, match=r"old was made with other cases, labels or data\.splits"):
        module.benchmark(chosen, lambda _: None, lambda cell: finished(cell, 0.0), None)


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
def test_a_reference_that_no_table_has_is_a_mistake(tmp_path: Path) -> None:
    old = {"benchmark__arms": ("scratch",), "benchmark__include": ()}
    module.benchmark(config(tmp_path / "old", **old), lambda _: None, lambda cell: finished(cell, 0.0), None)
    chosen = {"benchmark__arms": ("unet",), "benchmark__include": (str(tmp_path / "old"),)}
    module.planned_cells(config(tmp_path / "new", benchmark__reference="scratch", **chosen))
    with pytest.raises(ConfigError, match=r"benchmark\.reference = scrach is none of the tables' arms, scratch, unet"):
        module.planned_cells(config(tmp_path / "new", benchmark__reference="scrach", **chosen))


@pytest.mark.usefixtures("without_cluster")
def test_settings_of_methods_that_a_table_does_not_have_do_not_matter(tmp_path: Path) -> None:
    fields = {"benchmark__reference": "mae"}
    made = config(tmp_path / "old", benchmark__arms=("mae",), **fields)
    module.benchmark(made, lambda _: None, lambda cell: finished(cell, 0.0), None)
    fields |= {"benchmark__arms": ("hpm",), "benchmark__include": (str(tmp_path / "old"),)}
    other = config(tmp_path / "new", methods__hpm__momentum=0.5, **fields)
    module.benchmark(other, lambda _: None, lambda cell: finished(cell, 0.0), None)
    known = json.loads((tmp_path / "new" / "settings.json").read_text())["methods"]
    assert (known.keys(), known["hpm"]["momentum"]) == ({"mae", "hpm"}, 0.5)
    with pytest.raises(ConfigError, match=r"methods\.mae\.ratio = 0\.75 \(here 0\.5\)"):
        module.planned_cells(
            config(tmp_path / "x", **(fields | {"benchmark__arms": ("mae", "hpm")}), methods__mae__ratio=0.5)
        )


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
    assert "deviation over seeds, each the mean of its folds." in text["two"]
    assert "deviation over the folds of one seed." in text["one"]
    (row,) = (line.split(" | ") for line in text["two"].splitlines() if line.startswith("| unet"))
    head = text["two"].splitlines()[0].split(" | ")
    assert (row[head.index("n")], row[head.index("trainings")]) == ("6", "6")
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
    fields = {"moved": {"finetune.encoder": str(tmp_path / "encoder")}}
    chosen = config(tmp_path, benchmark__arms=("scratch", "moved"), benchmark__fields=fields)
    found = module.benchmark(chosen, lambda _: None, lambda cell: finished(cell, 0.0), None).set_index("arm")
    assert found.loc["scratch", "pretrain_flops"] == 0
    assert np.isnan(found.loc["moved", ["samples_seen", "pretrain_flops", "pretrain_seconds"]].astype(float)).all()


@pytest.mark.usefixtures("without_cluster")
def test_what_an_included_table_holds_is_not_run_again_and_rows_stand_in_the_order_of_the_arms(tmp_path: Path) -> None:
    ran = []

    def run(cell: Any) -> None:
        ran.append(Path(cell.run.dir).relative_to(tmp_path).as_posix())
        finished(cell, 0.0)

    own = {"benchmark__reference": "scratch"}
    module.benchmark(config(tmp_path / "old", benchmark__arms=("scratch",), **own), lambda _: None, run, run)
    before = pd.read_csv(tmp_path / "old" / "table.csv")
    include = (str(tmp_path / "old"),)
    arms = {"benchmark__arms": ("unet", "scratch"), "benchmark__include": include, "benchmark__seeds": (0, 1)}
    module.benchmark(config(tmp_path / "new", **arms, **own), lambda _: None, run, run)
    cells_of = [f"new/cells/seed_{place}" for place in ("0/unet", "1/unet", "1/scratch")]
    assert ran == ["old/cells/seed_0/scratch", *cells_of]
    table = pd.read_csv(tmp_path / "new" / "table.csv")
    assert table[["arm", "seed"]].to_numpy().tolist() == [["unet", 0], ["unet", 1], ["scratch", 0], ["scratch", 1]]
    assert table["dsc"][2] == before["dsc"][0]
    # a table of which nothing is left to run
    (tmp_path / "joined" / "plots").mkdir(parents=True)
    (tmp_path / "joined" / "plots" / "dsc_over_labels.png").write_bytes(b"of an earlier table")
    module.benchmark(
        config(tmp_path / "joined", **(arms | {"benchmark__seeds": (0,), "benchmark__arms": ("scratch",)}), **own),
        lambda _: None,
        run,
        run,
    )
    assert len(ran) == 4
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "joined" / "table.csv"), before)
    assert "All runs are in it." in (tmp_path / "joined" / "table.md").read_text()
    plots = {name: {file.stem for file in (tmp_path / name / "plots").iterdir()} for name in ("new", "joined")}
    assert plots == {"new": {"differences", "dsc_over_flops"}, "joined": {"dsc_over_flops"}}  # one share; one arm


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
