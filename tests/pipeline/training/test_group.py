"""What a user reads when a group of workers cannot go on."""

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
