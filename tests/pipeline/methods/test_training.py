"""Every method in the trainer itself: records, pictures, checkpoints, the encoder that it leaves."""

import numpy as np
import pandas as pd
import pytest
import torch
from upath import UPath

from pipeline.checkpoint import load_weights, transfer
from pipeline.methods import METHODS, Masking
from pipeline.models.encoder import Encoder
from pipeline.pretrain import Pretraining, PretrainTask, selection_key
from pipeline.training.history import read_history
from pipeline.training.session import LocalSession
from preprocessing.selection.selection import SelectionSettings
from preprocessing.splits import Splits
from tests.pipeline.methods.samples import NAMES, config_with
from tests.preprocessing.tiny_cache import blobs, box_with_padding, write_cache

MOMENTUM = [name for name in NAMES if hasattr(METHODS[name].Options(), "momentum")]
TIMES = ("seconds", "samples_per_second", "data_wait_fraction")


class Stopped(Exception):
    """A kill, as far as a loop in this process can tell."""


class KilledAfter(LocalSession):
    """Asked for a checkpoint within the second epoch, and dead once it is written."""

    steps = 0

    def checkpoint_due(self):
        self.steps += 1
        return self.steps == 2

    def report(self, metrics, write=None):
        super().report(metrics, write)
        if "loss" not in metrics:
            raise Stopped


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A cache of 30 images, 22 of them for training, and its splits; no scores, which random masks do not need."""
    folder = tmp_path_factory.mktemp("data")
    size = (32, 24)
    images, labels = blobs(0, 30, size)
    cache = write_cache(folder / "cache", images, labels, (8, 4), np.tile(box_with_padding(size, 5), (30, 1)))
    split = ["train"] * 22 + ["val"] * 4 + ["test"] * 4
    names = cache.cases["case"]
    table = pd.DataFrame({"case": names, "group": names, "split": split, "labelled_used": True})
    Splits(table).write(str(folder / "splits.csv"))
    return folder


def task(data, folder, name, **fields):
    fields = {
        "pretrain__method": name,
        "mask__strength__start": 0.0,
        "mask__strength__end": 0.0,
        "pretrain__epochs": 3,
        "pretrain__probe_every": 3,
        "pretrain__checkpoint_every": 1,
        "pretrain__noise_every": 2,
        "pretrain__pictures": 2,
    } | fields
    config = config_with(**fields)
    return PretrainTask(config, str(data / "cache"), str(data / "splits.csv"), {}, str(folder))


def trained(task, session):
    Pretraining(task, session).run()
    return load_weights(UPath(task.folder) / "encoder", "encoder")


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_logs_the_truth_and_leaves_an_encoder(data, tmp_path, name):
    tensors, _ = trained(task(data, tmp_path, name), LocalSession(tmp_path / "checkpoints"))
    encoder = Encoder(config_with().model, 32, 2)
    assert transfer(encoder, tensors, 1.0).share == 1.0
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    records = read_history(UPath(tmp_path))
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert 0 <= records[-1]["probe_dsc"] <= 1
    masks = issubclass(METHODS[name], Masking)
    assert (tmp_path / "pictures" / "epoch_00003.png").exists() == masks
    for record in records:
        assert np.isfinite(record["loss"])
        assert (record["ratio"] is not None) == masks
        assert all((record[key] is not None) == masks for key in ("masked", "hit_rate", "lesion_seen", "lesion_masked"))
        if masks:
            # uniform sampling keeps a patch of every block, also of those that are mostly padding
            near = 0.2 if name == "um_mae" else 0.12
            assert record["masked"] == pytest.approx(record["ratio"], abs=near)
        if METHODS[name].whole_batch:
            assert record["noise_scale"] is None


@pytest.mark.parametrize("name", MOMENTUM)
def test_killed_and_resumed_it_ends_like_an_undisturbed_training(data, tmp_path, name):
    whole, _ = trained(task(data, tmp_path / "whole", name), LocalSession(tmp_path / "whole" / "checkpoints"))
    again = task(data, tmp_path / "killed", name)
    with pytest.raises(Stopped):
        trained(again, KilledAfter(tmp_path / "killed" / "checkpoints"))
    resumed, _ = trained(again, LocalSession(tmp_path / "killed" / "checkpoints"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    states = [
        load_weights(UPath(LocalSession(tmp_path / run / "checkpoints").latest()))[0] for run in ("whole", "killed")
    ]
    assert any("target_encoder" in key or "teacher_encoder" in key for key in states[0])
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    one, two = (
        [{k: v for k, v in r.items() if k not in TIMES and v is not None} for r in read_history(UPath(tmp_path / run))]
        for run in ("whole", "killed")
    )
    assert all(a == pytest.approx(b, rel=1e-6) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("name", MOMENTUM)
def test_the_slow_copy_follows_after_every_update(data, tmp_path, name):
    training = Pretraining(task(data, tmp_path, name), LocalSession(tmp_path / "checkpoints"))
    model = training.learner.model
    slow = next(value for key, value in model.named_parameters() if key.endswith("_encoder.embed.weight"))
    before, follow, calls = slow.clone(), model.after_update, []
    model.after_update = lambda now, steps: (calls.append((now, steps)), follow(now, steps))
    training.run()
    steps = training.total // 8
    assert calls == [(step / steps, steps) for step in range(steps)]
    assert 0 < float((slow - before).norm()) < float((model.encoder.embed.weight - before).norm().detach())


def test_each_view_has_chance_of_its_own(data, tmp_path):
    training = Pretraining(task(data, tmp_path, "simclr"), LocalSession(tmp_path / "checkpoints"))
    seen = []
    training.learner.trained = lambda views, *rest: seen.extend(views) or training.learner.model(views, *rest)
    batch = next(iter(training.loader.batches(0, 8)))
    training._step(batch, 0)
    first, second = seen
    assert torch.equal(first.position, second.position)
    apart = (first.patches - second.patches).abs().mean(dim=(1, 2))
    assert (apart > 0.01).all()
    assert torch.equal(first.patches, training.views(batch).patches)


def test_a_method_that_selects_asks_for_scores_and_the_others_do_not(data, tmp_path):
    with pytest.raises(KeyError):
        Pretraining(task(data, tmp_path, "mps_ams", mask__strength__start=0.5), LocalSession(tmp_path))
    Pretraining(task(data, tmp_path, "mae", mask__strength__start=0.5), LocalSession(tmp_path))
    assert selection_key(config_with()) == SelectionSettings().model_dump_json()
