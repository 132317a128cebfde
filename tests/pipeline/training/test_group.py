"""What a user reads when a group of workers cannot go on."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import ray.train
from ray.exceptions import ActorDiedError
from upath import UPath

from pipeline.training import group
from pipeline.training.precision import ResourceSettings
from preprocessing.errors import RunError


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ActorDiedError(), "died. Run the same command again to go on from the newest checkpoint"),
        (ray.train.WorkerGroupError("the third block", {}), "(?s)failed for good: .*the third block"),
    ],
)
def test_a_dead_group_is_told_in_a_sentence(tmp_path, monkeypatch, error, told):
    class Trainer:
        def __init__(self, *_, **__): ...

        def fit(self):
            raise error

    monkeypatch.setattr(group, "TorchTrainer", Trainer)
    monkeypatch.setattr(group, "demand", lambda resources: (1, False))
    with pytest.raises(RunError, match=told):
        group.train_group(print, None, UPath(tmp_path), ResourceSettings(), 2, "", "")


@pytest.mark.parametrize(
    ("workers", "rank", "raises", "owner"),
    [(1, 0, False, "this"), (2, 0, True, "this"), (2, 1, True, "this"), (2, 0, True, "another")],
)
def test_a_mistake_of_one_worker_ends_the_group_and_is_not_tried_again(
    tmp_path, monkeypatch, workers, rank, raises, owner
):
    """The others may not meet it, and would wait for this one's gradients; another driver's run is left alone."""
    ran = []

    def loop(task, session):
        ran.append(task)
        raise RunError("the shard patches-00002.parquet is damaged")

    monkeypatch.setattr(group, "TrainSession", lambda *_: SimpleNamespace(rank=rank, workers=workers))
    (tmp_path / "owner.json").touch()
    monkeypatch.setattr(group, "is_owner", lambda lock, token: owner == "this" or not ran)
    files = [str(tmp_path / "pretrain" / name) for name in ("failure.txt", "shortage.txt")]
    (tmp_path / "pretrain").mkdir()
    task = group.GroupTask(loop, "task", 1, 0.0, str(tmp_path / "owner.json"), "", *files, "")
    with pytest.raises(RunError, match="is damaged") if raises else nullcontext():
        group._work({"group": task})
    if owner != "this":
        assert not (tmp_path / "pretrain" / "failure.txt").exists()
        return
    assert (tmp_path / "pretrain" / "failure.txt").read_text() == "the shard patches-00002.parquet is damaged"
    group._work({"group": task})  # of the group that Ray starts again
    assert ran == ["task"]


def test_a_mistake_is_told_and_not_ray_s_word_for_it(tmp_path, monkeypatch):
    class Trainer:
        def __init__(self, *_, **__): ...

        def fit(self):
            (tmp_path / "failure.txt").write_text("the shard is damaged")
            raise ray.train.WorkerGroupError("a worker failed", {})

    monkeypatch.setattr(group, "TorchTrainer", Trainer)
    monkeypatch.setattr(group, "demand", lambda resources: (1, False))
    with pytest.raises(RunError, match=r"^the shard is damaged$"):
        group.train_group(print, None, UPath(tmp_path), ResourceSettings(), 2, "", "")
