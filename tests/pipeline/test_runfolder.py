import json

import pytest

from pipeline import runfolder
from pipeline.runfolder import RunFolder, differences
from preprocessing.errors import RunError


@pytest.fixture
def run(tmp_path):
    said = []
    folder = RunFolder(str(tmp_path / "run"), said.append)
    folder.said = said
    return folder


def enter(run, inputs, write=None, fail=False):
    with run.stage("pretrain", inputs) as stage:
        if write and not stage.done:
            (stage.folder / write).write_text("x")
        if fail:
            raise KeyboardInterrupt
        return stage.done, sorted(p.name for p in stage.folder.iterdir() if p.name != "stage.json")


def test_a_stage_is_done_once(run):
    assert enter(run, {"lr": 0.1}, "a")[0] is False
    assert enter(run, {"lr": 0.1}, "b") == (True, ["a"])


def test_an_interrupted_stage_goes_on(run):
    with pytest.raises(KeyboardInterrupt):
        enter(run, {"lr": 0.1}, "a", fail=True)
    assert enter(run, {"lr": 0.1}, "b") == (False, ["a", "b"])
    assert "goes on" in run.said[-2]


def test_a_killed_stage_has_spent_the_time_of_its_epochs(run):
    with pytest.raises(KeyboardInterrupt):
        enter(run, {"lr": 0.1}, fail=True)
    epochs = [{"samples_seen": 8, "seconds": 40.0}, {"samples_seen": 16, "seconds": 60.0}]
    (run.root / "pretrain" / "history.jsonl").write_text("".join(json.dumps(epoch) + "\n" for epoch in epochs))
    enter(run, {"lr": 0.1})
    assert 100 <= run.stage_record("pretrain")["seconds"] < 101


def test_changed_inputs_begin_anew_and_say_why(run):
    enter(run, {"mask": {"ratio": 0.5}, "lr": 0.1}, "a")
    assert enter(run, {"mask": {"ratio": 0.75}, "lr": 0.1}, "b") == (False, ["b"])
    assert any("mask.ratio changed: 0.5 -> 0.75" in line for line in run.said)


def test_a_stage_whose_removal_was_interrupted_is_not_done(run, monkeypatch):
    enter(run, {"lr": 0.1}, "a")

    def interrupted(folder, last):
        (folder / "a").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runfolder, "remove_folder", interrupted)
        with pytest.raises(KeyboardInterrupt):
            enter(run, {"lr": 0.2}, "b")
    assert not run.is_done("pretrain", {"lr": 0.1})
    assert enter(run, {"lr": 0.1}, "c") == (False, ["c"])  # the old setting again


def test_differences_name_each_leaf():
    before, after = {"a": {"b": 1, "c": [1, 2]}, "d": 3}, {"a": {"b": 2, "c": [1, 2]}, "e": 4}
    assert differences(before, after) == ["a.b changed: 1 -> 2", "d changed: 3 -> None", "e changed: None -> 4"]


def test_metrics_are_merged_by_section(run):
    run.root.mkdir(parents=True)
    run.merge_metrics({"data": {"cases": 3}, "pretrain": {"samples_seen": 10}})
    run.merge_metrics({"data": {"rejected": 1}})
    assert run.read_metrics() == {"data": {"cases": 3, "rejected": 1}, "pretrain": {"samples_seen": 10}}


def test_a_second_driver_is_kept_out(run):
    with run.locked(), pytest.raises(RunError, match="in use by process"), RunFolder(str(run.root)).locked():
        pass
