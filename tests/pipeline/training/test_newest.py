"""The newest checkpoint where Ray's list of them was cut by a kill."""

import json

import pytest
import torch
from upath import UPath

from pipeline.checkpoint import load_weights, save_weights
from pipeline.config import Config
from pipeline.training.group import train_group
from pipeline.training.newest import LIST, newest_unlisted


@pytest.fixture
def checkpoints(tmp_path):
    """Two whole checkpoints, and a third whose upload was cut."""
    for number in range(3):
        save_weights(UPath(tmp_path / f"checkpoint_{number}"), {"weight": torch.ones(1)}, {"kind": "pretrain"})
    (tmp_path / "checkpoint_2" / "meta.json").unlink()
    return tmp_path


@pytest.mark.parametrize("cut", ["", '{"checkpoint_results": [', None])
def test_a_list_that_cannot_be_read_gives_way_to_the_newest_whole_checkpoint(checkpoints, cut):
    if cut is not None:
        (checkpoints / LIST).write_text(cut)
    assert newest_unlisted(UPath(checkpoints)) == str(checkpoints / "checkpoint_1")
    assert not (checkpoints / LIST).exists()


def test_a_list_that_can_be_read_is_left_to_ray(checkpoints, tmp_path):
    (checkpoints / LIST).write_text("{}")
    assert newest_unlisted(UPath(checkpoints)) == ""
    assert (checkpoints / LIST).exists()
    assert newest_unlisted(UPath(tmp_path / "not there")) == ""


def count(task, session):
    """Goes on counting from the newest checkpoint, once."""
    folder = session.latest()
    number = 0 if folder is None else load_weights(folder)[1]["number"]
    write = {"kind": "pretrain", "number": number + 1}
    session.report({"number": number}, lambda part: save_weights(UPath(part), {"weight": torch.ones(1)}, write))


@pytest.mark.slow
def test_a_group_goes_on_without_its_list(ray_session, tmp_path):
    group, lock = UPath(tmp_path), tmp_path / "owner.json"
    lock.write_text(json.dumps({"host": "", "pid": 0, "token": "t", "beat": 0.0, "what": ""}))
    for _ in range(2):
        train_group(count, None, group, Config().resources, 2, str(lock), "t")
    (listed,) = tmp_path.glob(f"train/{LIST}")
    listed.write_text(listed.read_text()[:50])
    train_group(count, None, group, Config().resources, 2, str(lock), "t")
    newest = max(path.name for path in (tmp_path / "train").glob("checkpoint_2*"))
    assert load_weights(UPath(tmp_path / "train" / newest))[1]["number"] == 3
