"""One worker, two, and two of which one dies: the same sample, mask and ratio at every global step."""

import pytest
import torch
from upath import UPath

from pipeline.checkpoint import load_weights
from pipeline.training.group import train_group
from preprocessing.lock import OwnedLock
from tests.traced import KILL, steps, traced_loop


def trained(tiny, folder, workers, kill_at=None):
    fields = {"mask__ratio__family": "linear", "mask__ratio__start": 0.5, "mask__ratio__end": 0.9}
    task = tiny.task(folder / "pretrain", resources__workers=workers, **fields)
    (folder / "pretrain").mkdir(parents=True)
    if kill_at is not None:
        (folder / "pretrain" / KILL).write_text(str(kill_at))
    with OwnedLock(str(folder / "owner.json"), "a test") as lock:
        train_group(traced_loop, task, UPath(task.folder), task.config.resources, 2, lock.file, lock.token)
    assert not (folder / "pretrain" / KILL).exists()
    return steps(folder / "pretrain"), load_weights(UPath(task.folder) / "encoder", "encoder")[0]


@pytest.mark.slow
def test_every_step_sees_the_same_on_any_number_of_workers_and_after_a_loss(tiny, ray_session, tmp_path):
    one, encoder = trained(tiny, tmp_path / "one", 1)
    assert len({record["ratio"] for record in one.values()}) > 2
    assert sorted(one) == list(range(len(one)))
    for name, kill_at in (("two", None), ("killed", 40)):
        seen, weights = trained(tiny, tmp_path / name, 2, kill_at)
        assert seen == one
        for key, value in encoder.items():
            torch.testing.assert_close(value, weights[key], rtol=1e-3, atol=1e-4)
    assert len(list((tmp_path / "killed" / "pretrain").glob("trace-*"))) == 4  # two before the loss, two after
