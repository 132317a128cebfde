import json
import shutil

import numpy as np
import pandas as pd
import pytest
import ray
import yaml
from PIL import Image
from upath import UPath

from pipeline import runs, stages
from pipeline.benchmark import table as comparison
from pipeline.config import Config
from pipeline.configuration.overrides import with_fields
from pipeline.pretrain import selection_key
from pipeline.runfolder import RunFolder
from pipeline.segmentation.segmenter_file import save_segmenter
from pipeline.stages import Pipeline
from pipeline.training.history import read_history
from preprocessing.errors import ConfigError, RunError
from preprocessing.splits import Splits
from tests.pipeline.segmentation.test_inference import card, scan
from tests.tiny import FIELDS


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """A whole run on the tiny phantoms, search included."""
    run = tmp_path_factory.mktemp("whole") / "run"
    config = with_fields(Config(), FIELDS | {"data.root": tiny.root, "run.dir": str(run)})
    runs.run(config)
    return config, run


def test_a_run_leaves_everything_that_is_promised(finished):
    config, run = finished
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"dsc", "ppv", "sen", "hd95", "cases"} <= metrics["segmentation"]["test"].keys()
    assert metrics["selection"]["lesion_hit_rate"].keys() == {"0.1", "0.25", "0.5", "0.75"}
    assert metrics["selection"]["lesion_hit_rate"]["0.25"] > metrics["selection"]["random"]["0.25"] + 0.2
    assert {"samples_seen", "samples_per_second", "data_wait_fraction"} <= metrics["pretrain"].keys()
    assert metrics["search"]["trials"] == 4
    assert metrics["data"]["cases"] == 24
    splits = pd.read_csv(run / "splits.csv")
    assert metrics["data"]["splits"] == splits["split"].value_counts().to_dict()
    assert "<html" in (run / "report.html").read_text()
    with Image.open(run / "selection" / "pictures" / "selection.png") as picture:
        assert picture.info["Description"] == "Test cases, none of which the clusters were fitted on"
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["root"] == config.data.root


def test_the_chosen_schedule_is_the_one_that_was_trained_with(finished):
    _, run = finished
    best = yaml.safe_load((run / "search" / "best.yaml").read_text())
    inputs = json.loads((run / "pretrain" / "stage.json").read_text())["inputs"]
    assert inputs["mask"]["ratio"]["family"] == best["mask.ratio.family"]
    assert inputs["mask"]["ratio"]["start"] == best["mask.ratio.start"]


def test_the_same_command_again_does_nothing(finished, capsys):
    config, run = finished
    before = {p: p.stat().st_mtime for p in run.rglob("model.safetensors")}
    runs.run(config)
    said = capsys.readouterr().out
    assert all(f"{name}: already done" in said for name in ("selection", "search", "pretrain", "finetune", "evaluate"))
    assert before == {p: p.stat().st_mtime for p in run.rglob("model.safetensors")}


@pytest.mark.slow
def test_a_changed_setting_redoes_what_depends_on_it_and_says_why(finished, capsys):
    config, _run = finished
    runs.run(with_fields(config, {"finetune.lr": 5e-4}))
    said = capsys.readouterr().out
    assert "pretrain: already done" in said
    assert "finetune: done again, since finetune.lr changed: 0.001 -> 0.0005" in said
    assert "evaluate: begins" in said  # what the former segmenter was judged by went with it
    runs.run(config)


def test_judging_otherwise_trains_nothing_anew(finished, capsys):
    config, run = finished
    weights = run / "finetune" / "segmenter" / "model.safetensors"
    before = weights.read_bytes()
    runs.evaluate(with_fields(config, {"evaluate.mirror": False}))
    said = capsys.readouterr().out
    assert "finetune/sizes: done again, since mirror changed: True -> False" in said
    assert "evaluate: done again" in said
    assert weights.read_bytes() == before
    runs.evaluate(config)


@pytest.mark.slow
def test_the_settings_of_fine_tuning_are_searched_once(finished, capsys):
    config, run = finished
    wanted = with_fields(config, {"search.finetune": True, "search.repeats": 0, "search.enabled": False})
    runs.run(wanted)
    best = yaml.safe_load((run / "search_finetune" / "best.yaml").read_text())
    inputs = json.loads((run / "finetune" / "stage.json").read_text())["inputs"]
    assert inputs["finetune"]["layer_decay"] == best["finetune.layer_decay"]
    capsys.readouterr()
    runs.run(wanted)
    said = capsys.readouterr().out
    assert "search_finetune: already done" in said
    assert "finetune: already done" in said
    runs.run(config)


def test_predictions_have_the_images_own_size(finished, tmp_path):
    config, _run = finished
    runs.predict(with_fields(config, {"predict.input": config.data.root, "predict.output": str(tmp_path)}))
    table = pd.read_csv(tmp_path / "predictions.csv")
    assert len(table) == 24
    row = table.iloc[0]
    mask = Image.open(tmp_path / "masks" / f"{row['case']}.png")
    assert mask.size == Image.open(row["file"]).size
    assert set(mask.convert("L").tobytes()) <= {0, 255}


def test_a_segmenter_is_judged_on_what_it_was_not_trained_on(finished, tmp_path, capsys):
    config, run = finished
    other = with_fields(config, {"checkpoint": str(run / "finetune" / "segmenter"), "run.dir": str(tmp_path / "other")})
    runs.evaluate(other)
    metrics = RunFolder(str(tmp_path / "other")).read_metrics()["segmentation"]["test"]
    splits = Splits.read(str(run / "splits.csv"))
    used = [*splits.labelled("train"), *splits.labelled("val")]
    assert metrics["cases"] + metrics["lesion_free_cases"] == 24 - len(used)
    assert f"{len(used)} of 24 labelled cases" in capsys.readouterr().out


def test_figures_are_never_those_of_another_segmenter(finished, tmp_path):
    """A run whose settings or splits have changed has no segmenter until it is trained anew."""
    config, run = finished
    shutil.copytree(run, tmp_path / "run")
    moved = with_fields(config, {"run.dir": str(tmp_path / "run"), "cache.dir": str(run / "cache")})
    for changed in ({"run.seed": 1}, {"finetune.lr": 0.01}):
        with pytest.raises(RunError, match="there is no segmenter in"):
            runs.evaluate(with_fields(moved, changed))
    before = RunFolder(str(tmp_path / "run")).read_metrics()
    assert "segmentation" in before
    runs.finetune(with_fields(moved, {"finetune.lr": 0.01}))
    assert "segmentation" not in RunFolder(str(tmp_path / "run")).read_metrics()
    assert not (tmp_path / "run" / "evaluate").exists()


def test_another_runs_segmenter_is_no_part_of_a_run(finished):
    config, run = finished
    with pytest.raises(ConfigError, match=r"give it to jobs\.evaluate"):
        runs.run(with_fields(config, {"checkpoint": str(run / "finetune" / "segmenter")}))


def test_a_corrected_test_label_trains_nothing_anew(tmp_path, capsys):
    fields = FIELDS | {"data.root": str(tmp_path / "scans"), "data.phantoms": 24, "run.dir": str(tmp_path / "run")}
    config = with_fields(Config(), fields | {"search.enabled": False})
    runs.run(config)
    capsys.readouterr()
    case = next(iter(Splits.read(str(tmp_path / "run" / "splits.csv")).labelled("test")))
    mask = next((tmp_path / "scans").rglob(f"{case}_mask.png"))
    values = np.asarray(Image.open(mask)).copy()
    values[:4, :4] = 255
    Image.fromarray(values).save(mask)
    runs.run(config)
    said = capsys.readouterr().out
    assert "pretrain: already done" in said
    assert "finetune: already done" in said
    assert "selection: done again" in said
    assert "evaluate: done again, since images_and_labels changed" in said


def test_a_changed_label_is_evaluated_again(tmp_path, capsys):
    """The segmenter and the names of the cases stay the same."""
    description, scans = card(), tmp_path / "scans" / "benign"
    save_segmenter(UPath(tmp_path / "model"), description.build().state_dict(), description)
    scans.mkdir(parents=True)
    for number in (1, 2):
        scan(scans, f"benign ({number})", (40, 40), np.s_[5:15, 5:15])
    scan(scans, "benign (3)", (40, 40), None)
    (scans / "benign (3)_mask.png").unlink()  # unlabelled: it has no part in the result
    fields = {"data.root": str(scans.parent), "run.dir": str(tmp_path / "run"), "checkpoint": str(tmp_path / "model")}
    pipeline = Pipeline(with_fields(Config(), fields), RunFolder(str(tmp_path / "run")), "")

    def said():
        pipeline.evaluate()
        return capsys.readouterr().out

    assert "evaluate: begins" in said()
    scan(scans, "benign (3)", (40, 40), np.s_[5:9, 5:9])
    (scans / "benign (3)_mask.png").unlink()
    assert "evaluate: already done" in said()
    scan(scans, "benign (2)", (40, 40), np.s_[20:38, 20:38])
    assert "evaluate: done again, since images_and_labels changed" in said()
    assert pd.read_csv(tmp_path / "run" / "evaluate" / "cases.csv")["lesion"].tolist() == [10 * 10, 18 * 18]
    assert "evaluate: already done" in said()


def test_too_few_labels_stop_the_training_but_not_the_preprocessing(tiny, tmp_path, capsys):
    rows = [f"a{i},benign/benign ({i}).png," for i in range(1, 8)] + [
        "b,benign/benign (8).png,benign/benign (8)_mask.png"
    ]
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("case,image,label\n" + "\n".join(rows) + "\n")
    import shutil

    shutil.copytree(tiny.root, tmp_path / "scans")
    shutil.copy(manifest, tmp_path / "scans" / "manifest.csv")
    fields = {"data.layout": "manifest", "data.root": str(tmp_path / "scans"), "run.dir": str(tmp_path / "run")}
    config = with_fields(Config(), FIELDS | fields)
    runs.preprocess(config)
    with pytest.raises(RunError, match="needs labelled cases in each of train, val and test"):
        runs.finetune(config)


@pytest.mark.slow
def test_the_comparison_table_is_resumed(tiny, tmp_path):
    fields = {
        "data.root": tiny.root,
        "data.label_fraction": 0.5,
        "run.dir": str(tmp_path),
        "benchmark.seeds": (0,),
        "benchmark.arms": ("random_75", "simclr", "scratch"),
        "benchmark.label_fractions": (0.5, 1.0),
        "benchmark.reference": "random_75",
        "pretrain.epochs": 1,
        "finetune.epochs": 2,
        "pretrain.probe_every": 0,
    }
    config = with_fields(Config(), FIELDS | fields)
    runs.benchmark(config)
    trained = {file: file.stat().st_mtime for file in tmp_path.rglob("*.safetensors")}
    assert len(list(tmp_path.glob("cells/*/*/pretrain/encoder"))) == 2
    assert len(list(tmp_path.glob("cells/*/*/finetune/segmenter"))) == 6
    (tmp_path / "table.csv").unlink()
    runs.benchmark(config)
    assert trained == {file: file.stat().st_mtime for file in tmp_path.rglob("*.safetensors")}
    table = pd.read_csv(tmp_path / "table.csv")
    assert list(table["arm"]) == [arm for arm in ("random_75", "simclr", "scratch") for _share in (0.5, 1.0)]
    assert list(table["labels"]) == [0.5, 1.0] * 3
    assert (table["samples_seen"] > 0).tolist() == [True] * 4 + [False] * 2
    assert "| scratch |" in (tmp_path / "table.md").read_text()
    history = read_history(RunFolder(str(tmp_path / "cells" / "seed_0" / "random_75")).root / "pretrain")
    assert history[0]["strength"] == 0


def test_a_search_has_scores_for_the_configurations_own_rule_too(finished, tmp_path):
    config, run = finished
    fields = {"selection.rule": "enclosed", "run.dir": str(tmp_path), "cache.dir": str(run / "cache")}
    pipeline = Pipeline(with_fields(config, fields), RunFolder(str(tmp_path)), "")
    pipeline.preprocess()
    rules = stages.space_of("mask_schedule").fields["selection.rule"].categories
    assert "enclosed" not in rules
    assert len(pipeline.pretrain_task(stages.space_of("mask_schedule")).scores) == len(rules) + 1
    assert selection_key(pipeline.config) in pipeline.pretrain_task(stages.space_of("mask_schedule")).scores


def test_a_rule_is_not_searched_where_weights_stand_in_its_place():
    assert "selection.rule" in stages.space_of("mask_schedule").fields
    kept = stages.space_of("mask_schedule", without=("selection.rule",))
    assert kept.fields.keys() == stages.space_of("mask_schedule").fields.keys() - {"selection.rule"}
    assert kept.mutations == stages.space_of("mask_schedule").mutations


def test_what_waits_for_a_failed_run_fails_with_its_reason(ray_session):
    def fail(_):
        raise RunError("no memory left")

    task = ray.remote(num_cpus=0, max_retries=0)(comparison._run)
    first = task.remote(fail, None, None)
    with pytest.raises(RunError, match="no memory left"):
        ray.get(task.remote(print, None, first))
