"""Comparison tables that were made elsewhere or before, counted in without a cluster."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

from pipeline.benchmark import table as module
from pipeline.checkpoint import save_weights
from preprocessing.errors import ConfigError
from tests.pipeline.made_up_table import config, finished, without_cluster
from tests.preprocessing.test_splits import table as cases_table

__all__ = ["without_cluster"]


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


@pytest.mark.usefixtures("without_cluster")
def test_another_runs_encoder_is_known_by_its_weights_and_not_by_where_it_lies(tmp_path: Path) -> None:
    def made(name: str, encoder: Path, **fields: Any) -> Any:
        chosen = {"benchmark__arms": ("moved",), "benchmark__reference": "moved"}
        return config(
            tmp_path / name, benchmark__fields={"moved": {"finetune.encoder": str(encoder)}}, **chosen, **fields
        )

    def encoder(name: str, value: float) -> Path:
        save_weights(tmp_path / name, {"weight": torch.full((2,), value)}, {"kind": "encoder"})
        return tmp_path / name

    first, copy, other = encoder("first", 1.0), encoder("copy", 1.0), encoder("other", 2.0)
    module.benchmark(made("old", first), lambda _: None, lambda cell: finished(cell, 0.0), None)
    assert str(tmp_path) not in (tmp_path / "old" / "settings.json").read_text()
    assert not list((tmp_path / "old" / "plots").iterdir())  # one arm, of unknown cost
    included = {"benchmark__include": (str(tmp_path / "old"),), "benchmark__seeds": (0, 1)}
    module.planned_cells(made("new", copy, **included))
    with pytest.raises(ConfigError, match=r"old was made with benchmark\.fields\.moved = "):
        module.planned_cells(made("new", other, **included))


def test_every_encoder_that_an_arm_lacks_is_told_before_anything_is_started(tmp_path: Path) -> None:
    fields = {name: {"finetune.encoder": str(tmp_path / name)} for name in ("here", "gone", "lost")}
    save_weights(tmp_path / "here", {}, {"kind": "encoder"})
    chosen = config(tmp_path, benchmark__arms=("mps_ams", *fields), benchmark__fields=fields)
    with pytest.raises(ConfigError) as raised:
        module.planned_cells(chosen)
    assert raised.value.mistakes == [
        f"benchmark.fields, {name}: finetune.encoder = {tmp_path / name}: there is no such folder"
        for name in ("gone", "lost")
    ]


@pytest.mark.usefixtures("without_cluster")
@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("settings.json", lambda text: text[:-9], r"settings\.json is no JSON"),
        (
            "settings.json",
            lambda text: text.replace('"methods"', '"method"'),
            r"settings\.json says nothing of methods",
        ),
        (
            "settings.json",
            lambda text: text.replace('"fields"', '"field"'),
            r"settings\.json says nothing of benchmark$",
        ),
        ("settings.json", lambda _: "[]", r"settings\.json says nothing of benchmark, cache"),
        ("table.csv", lambda _: "", r"table\.csv is no table"),
        ("table.csv", lambda text: text.replace("unet,0,", "unet,zero,"), r"table\.csv needs numbers .*zero"),
        ("scores.csv", lambda text: text.replace(",0.5", ",half", 1), r"scores\.csv needs numbers .*half"),
        ("scores.csv", lambda text: text + text.splitlines()[-1] + "\n", r"two scores of scratch, 0, 0, 1"),
        ("scores.csv", lambda text: text.rstrip().rpartition("\n")[0] + "\n", r"no score of case .* which other runs"),
    ],
)
def test_a_table_that_is_broken_is_refused_before_anything_is_started(
    tmp_path: Path, name: str, change: Callable[[str], str], told: str
) -> None:
    arms = {"benchmark__arms": ("unet", "scratch")}
    module.benchmark(config(tmp_path / "old", **arms), lambda _: None, lambda cell: finished(cell, 0.0), None)
    file = tmp_path / "old" / name
    file.write_text(change(file.read_text()))
    chosen = config(tmp_path / "new", benchmark__include=(str(tmp_path / "old"),), benchmark__seeds=(0, 1), **arms)
    with pytest.raises(ConfigError, match=told):
        module.planned_cells(chosen)


@pytest.mark.usefixtures("without_cluster")
@pytest.mark.parametrize("name", ["settings.json", "table.csv", "scores.csv"])
def test_a_table_that_is_no_text_is_refused(tmp_path: Path, name: str) -> None:
    arms = {"benchmark__arms": ("scratch",)}
    module.benchmark(config(tmp_path / "old", **arms), lambda _: None, lambda cell: finished(cell, 0.0), None)
    (tmp_path / "old" / name).write_bytes(b"\xff\xfe\x00,\x9d\n")
    with pytest.raises(ConfigError, match=name.replace(".", r"\.") + " is no "):
        module.planned_cells(config(tmp_path / "new", benchmark__include=(str(tmp_path / "old"),), **arms))


@pytest.mark.usefixtures("without_cluster")
def test_a_table_of_models_that_were_built_otherwise_is_another_one(tmp_path: Path) -> None:
    arms = {"benchmark__arms": ("unet",)}
    module.benchmark(config(tmp_path / "old", **arms), lambda _: None, lambda cell: finished(cell, 0.0), None)
    file = tmp_path / "old" / "settings.json"
    settings = json.loads(file.read_text())
    del settings["checkpoints"]  # as in tables of the first version
    file.write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=r"old was made with checkpoints = 1 \(here 2\)"):
        module.planned_cells(config(tmp_path / "new", benchmark__include=(str(tmp_path / "old"),), **arms))


@pytest.mark.usefixtures("without_cluster")
def test_what_an_older_tables_settings_do_not_know_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module.benchmark(
        config(tmp_path / "old", benchmark__arms=("unet",)), lambda _: None, lambda cell: finished(cell, 0.0), None
    )
    file = tmp_path / "old" / "settings.json"
    settings = json.loads(file.read_text())
    del settings["finetune"]["frozen"], settings["search"]
    file.write_text(json.dumps(settings))
    capsys.readouterr()
    chosen = config(tmp_path / "new", benchmark__arms=("mae", "unet"), benchmark__include=(str(tmp_path / "old"),))
    module.benchmark(chosen, lambda _: None, lambda cell: finished(cell, 0.0), None)
    assert "old: its settings say nothing of finetune.frozen, search; taken to be as here" in capsys.readouterr().out
