"""What jobs.clean would delete, and what it deletes."""

import runpy
import sys

import pytest

from pipeline.runfolder import RunFolder
from preprocessing.lock import OwnedLock


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(str(tmp_path / "run"), say=lambda _: None)
    folder.root.mkdir()
    kept = ["config.yaml", "cache/manifest.json", "pretrain/encoder/model.safetensors", "search/trials.csv"]
    kept += ["finetune/train/checkpoint_1/model.safetensors", "search/search/trial_1/result.json"]
    gone = ["pretrain/train/checkpoint_1/model.safetensors", "search/search/trial_1/checkpoint_0/model.safetensors"]
    for stage in ("pretrain", "search"):
        with folder.stage(stage, {}):
            pass
    with pytest.raises(KeyboardInterrupt), folder.stage("finetune", {}):
        raise KeyboardInterrupt
    for name in kept + gone:
        file = tmp_path / "run" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(1000))
    return tmp_path / "run", kept, gone


def clean(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["clean", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        runpy.run_module("jobs.clean", run_name="__main__")
    told = capsys.readouterr()
    return left.value.code, told.out + told.err


def test_nothing_is_deleted_until_told(run, monkeypatch, capsys):
    root, kept, gone = run
    status, told = clean(monkeypatch, capsys, root)
    assert status == 0
    assert "2 folders, 2.0 kB; nothing was deleted" in told
    assert all((root / name).exists() for name in kept + gone)


def test_what_is_done_loses_its_checkpoints_and_nothing_else(run, monkeypatch, capsys):
    root, kept, gone = run
    assert "2 folders deleted, 2.0 kB freed" in clean(monkeypatch, capsys, root, "--delete")[1]
    assert all((root / name).exists() for name in kept)
    assert not any((root / name).exists() for name in gone)


def test_the_cache_goes_when_asked(run, monkeypatch, capsys):
    root, _, _ = run
    clean(monkeypatch, capsys, root, "--cache", "--delete")
    assert not (root / "cache").exists()
    assert (root / "config.yaml").exists()


def test_a_run_in_use_is_left_alone(run, monkeypatch, capsys):
    root, _, gone = run
    with OwnedLock(str(root / "owner.json"), "the run"):
        status, told = clean(monkeypatch, capsys, root, "--delete")
    assert status == 1
    assert "in use" in told
    assert all((root / name).exists() for name in gone)


def test_no_run_is_a_mistake(tmp_path, monkeypatch, capsys):
    assert clean(monkeypatch, capsys, tmp_path)[0] == 2
