import json
import shutil

import numpy as np
import pytest
import torch
from upath import UPath

from pipeline.checkpoint import load_weights
from pipeline.pretrain import Pretraining, pretrain_loop
from pipeline.probe import Probe
from pipeline.training.group import train_group
from pipeline.training.history import read_history
from pipeline.training.session import LocalSession
from preprocessing.errors import RunError
from preprocessing.lock import OwnedLock
from tests.tiny import make_tiny


class Stopped(Exception):
    """A kill, as far as a loop in this process can tell."""


class StopsAt(LocalSession):
    """Dies right after the report of an epoch; `before` its checkpoint is kept, or after."""

    def __init__(self, folder, epoch, before):
        super().__init__(folder)
        self.epoch, self.before = epoch, before

    def report(self, metrics, write=None):
        if metrics["epoch"] == self.epoch and self.before:
            raise Stopped
        super().report(metrics, write)
        if metrics["epoch"] == self.epoch:
            raise Stopped


class KilledWithin(LocalSession):
    """Asked for a checkpoint after a number of steps within an epoch, and dead once it is written."""

    def __init__(self, folder, due):
        super().__init__(folder)
        self.steps, self.due = 0, due

    def checkpoint_due(self):
        self.steps += 1
        return self.steps == self.due

    def report(self, metrics, write=None):
        super().report(metrics, write)
        if "loss" not in metrics:
            raise Stopped


def pretrained(task, folder, session=None):
    Pretraining(task, session or LocalSession(folder / "checkpoints")).run()
    return load_weights(UPath(task.folder) / "encoder", "encoder")[0]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


TIMES = ("seconds", "samples_per_second", "data_wait_fraction")


def timeless(folder):
    return [{k: v for k, v in record.items() if k not in TIMES} for record in read_history(UPath(folder))]


def test_it_learns_and_logs_what_a_user_needs(tiny, tmp_path):
    task = tiny.task(tmp_path, mask__strength__start=1.0)
    encoder = pretrained(task, tmp_path)
    records = read_history(UPath(tmp_path))
    assert [r["epoch"] for r in records] == [1, 2, 3, 4]
    assert records[-1]["loss"] < records[0]["loss"]
    assert records[0]["masked"] == pytest.approx(0.75, abs=0.02)
    assert records[0]["hit_rate"] > 0.8  # the selection masks lesions more often than chance
    assert records[0]["lesion_seen"] == pytest.approx(1 - records[0]["hit_rate"])
    assert 0 <= records[1]["probe_dsc"] <= 1
    assert any(r["noise_scale"] for r in records)
    assert (tmp_path / "pictures" / "epoch_00004.png").stat().st_size > 1000
    assert list((tmp_path / "tensorboard").iterdir())
    assert all(torch.isfinite(tensor).all() for tensor in encoder.values())


@pytest.mark.parametrize("due", [1, 2])
def test_killed_within_an_epoch_it_tells_the_whole_epoch(tiny, tmp_path, due):
    whole = pretrained(tiny.task(tmp_path / "whole"), tmp_path / "whole")
    task = tiny.task(tmp_path / "killed")
    with pytest.raises(Stopped):
        pretrained(task, tmp_path, KilledWithin(tmp_path / "killed" / "checkpoints", due))
    assert equal(whole, pretrained(task, tmp_path / "killed"))
    for one, two in zip(timeless(tmp_path / "whole"), timeless(tmp_path / "killed"), strict=True):
        assert one == pytest.approx(two, rel=1e-6)


@pytest.mark.parametrize("before", [True, False])
def test_a_training_that_was_killed_ends_like_an_undisturbed_one(tiny, tmp_path, before):
    fields = {"mask__feedback__signal": "plateau", "mask__feedback__patience": 1, "mask__ratio__start": 0.5}
    whole = pretrained(tiny.task(tmp_path / "whole", **fields), tmp_path / "whole")
    task = tiny.task(tmp_path / "killed", **fields)
    with pytest.raises(Stopped):
        pretrained(task, tmp_path, StopsAt(tmp_path / "killed" / "checkpoints", 2, before))
    resumed = pretrained(task, tmp_path / "killed")
    assert equal(whole, resumed)
    assert timeless(tmp_path / "whole") == timeless(tmp_path / "killed")


@pytest.mark.parametrize("killed_at", [2, 3, 4])  # 3: after the checkpoint from which it clusters
def test_clustering_again_on_the_encoders_tokens_is_resumed_too(tiny, tmp_path, killed_at):
    fields = {"selection__refresh": 0.5, "mask__strength__start": 1.0, "pretrain__epochs": 6}
    whole = pretrained(tiny.task(tmp_path / "whole", **fields), tmp_path / "whole")
    plain = pretrained(tiny.task(tmp_path / "plain", **fields | {"selection__refresh": 0.0}), tmp_path / "plain")
    assert not equal(whole, plain)
    task = tiny.task(tmp_path / "killed", **fields)
    with pytest.raises(Stopped):
        pretrained(task, tmp_path, StopsAt(tmp_path / "killed" / "checkpoints", killed_at, False))
    assert equal(whole, pretrained(task, tmp_path / "killed"))


def test_a_training_that_stopped_early_and_was_killed_then_does_not_go_on(tiny, tmp_path, monkeypatch):
    fields = {"pretrain__epochs": 8, "pretrain__probe_every": 1, "pretrain__patience": 2}
    dsc = iter([0.5, 0.4, 0.3, 0.9])  # the next probe would be better
    monkeypatch.setattr(Probe, "dsc", lambda *_: next(dsc))
    task = tiny.task(tmp_path, **fields)
    with pytest.raises(Stopped):
        pretrained(task, tmp_path, StopsAt(tmp_path / "checkpoints", 3, False))
    pretrained(task, tmp_path)
    assert [record["epoch"] for record in read_history(UPath(tmp_path))] == [1, 2, 3]
    assert next(dsc) == 0.9


def test_accumulation_and_noise_measurement_change_nothing_but_rounding(tiny, tmp_path):
    plain = pretrained(tiny.task(tmp_path / "a", pretrain__noise_every=0), tmp_path / "a")
    other = pretrained(tiny.task(tmp_path / "b", pretrain__accumulate=2), tmp_path / "b")
    for name in plain:
        torch.testing.assert_close(plain[name], other[name], rtol=1e-3, atol=1e-4)


def test_the_learned_weights_are_averaged_when_asked(tiny, tmp_path):
    plain = pretrained(tiny.task(tmp_path / "a"), tmp_path / "a")
    averaged = pretrained(tiny.task(tmp_path / "b", pretrain__ema=0.5), tmp_path / "b")
    assert not equal(plain, averaged)


def test_slices_are_turned_in_the_millimetres_of_their_cache(tiny, tmp_path):
    task = tiny.task(tmp_path, cache__spacing=(6, 2, 1))
    assert Pretraining(task, LocalSession(tmp_path / "checkpoints")).views.spacing == (2.0, 1.0)


def test_it_stops_early_when_the_probe_gets_no_better(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.probe.Probe.dsc", lambda self, encoder: 0.5)
    pretrained(tiny.task(tmp_path, pretrain__patience=1, pretrain__probe_every=1, pretrain__epochs=20), tmp_path)
    assert len(read_history(UPath(tmp_path))) == 2


def test_a_step_whose_noise_is_measured_is_cut_into_no_larger_parts(tiny, tmp_path, monkeypatch):
    """Its halves too: otherwise a larger pretrain.accumulate would not save the memory that it promises."""
    sizes = []
    fields = {"pretrain__epochs": 2, "pretrain__noise_every": 2, "pretrain__accumulate": 4}
    training = Pretraining(tiny.task(tmp_path, **fields), LocalSession(tmp_path / "checkpoints"))
    trained = training.learner.trained

    def watched(part, *rest):
        sizes.append(len(part[0].sample))
        return trained(part, *rest)

    monkeypatch.setattr(training.learner, "trained", watched)
    training.run()
    assert set(sizes) == {2}  # of batches of 8
    assert all(record["noise_scale"] is not None for record in read_history(UPath(tmp_path)))


def test_probes_and_checkpoints_are_not_missed_where_a_step_is_longer_than_an_epoch(tiny, tmp_path):
    fields = {"pretrain__batch": 32, "pretrain__epochs": 20, "pretrain__probe_every": 4}
    training = Pretraining(tiny.task(tmp_path, **fields), LocalSession(tmp_path / "checkpoints"))
    assert training.loader.epoch_samples < 32
    training.run()
    probed = [r["epoch"] // 4 for r in read_history(UPath(tmp_path)) if r.get("probe_dsc") is not None]
    assert probed == sorted(set(probed))
    assert set(range(1, 6)) <= set(probed)


def test_a_loss_that_is_not_finite_names_the_cases(tiny, tmp_path, monkeypatch):
    from pipeline.training.loader import PatchLoader

    collate = PatchLoader._collate

    def poisoned(self, positions, sample):
        batch = collate(self, positions, sample)
        batch.patches[batch.position == 20] = torch.nan
        return batch

    monkeypatch.setattr(PatchLoader, "_collate", poisoned)
    training = Pretraining(tiny.task(tmp_path), LocalSession(tmp_path / "checkpoints"))
    case = training.cache.samples["case"].iloc[training.loader.sample_at(np.array([20]))[0]]
    with pytest.raises(RunError, match="not finite at global sample 16") as error:
        training.run()
    assert case in str(error.value)


def test_the_test_images_leave_no_trace(tiny, tmp_path, ray_session):
    """Another test image and label, and encoder, curves and probe are the same bit for bit; with include_test not."""
    from PIL import Image

    from preprocessing.splits import Splits

    case = Splits.read(tiny.splits).cases("test")[0]
    shutil.copytree(tiny.root, tmp_path / "scans")
    file = next((tmp_path / "scans").rglob(f"{case}.png"))
    image = np.asarray(Image.open(file))
    Image.fromarray(np.ascontiguousarray(image[::-1] // 2)).save(file)
    mask = np.zeros(image.shape[:2], np.uint8)
    mask[:8, :8] = 255
    Image.fromarray(mask).save(file.with_name(f"{case}_mask.png"))
    other = make_tiny(tmp_path)
    assert Splits.read(other.splits).cases("test") == Splits.read(tiny.splits).cases("test")
    same = [pretrained(t.task(tmp_path / n, pretrain__epochs=2), tmp_path / n) for t, n in ((tiny, "a"), (other, "b"))]
    assert equal(*same)
    assert timeless(tmp_path / "a") == timeless(tmp_path / "b")
    assert "probe_dsc" in timeless(tmp_path / "a")[-1]  # what the search judges by
    fields = {"pretrain__epochs": 2, "pretrain__include_test": True}
    seen = [pretrained(t.task(tmp_path / n, **fields), tmp_path / n) for t, n in ((tiny, "c"), (other, "d"))]
    assert not equal(*seen)


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_ray_train_gives_the_same_training_on_any_number_of_workers(tiny, tmp_path, ray_session, workers):
    alone = pretrained(tiny.task(tmp_path / "alone"), tmp_path / "alone")
    task = tiny.task(tmp_path / "group", resources__workers=workers)
    with OwnedLock(str(tmp_path / "owner.json"), "a test") as lock:
        train_group(pretrain_loop, task, UPath(task.folder), task.config.resources, 2, lock.file, lock.token)
    group = load_weights(UPath(task.folder) / "encoder", "encoder")[0]
    for name in alone:
        torch.testing.assert_close(alone[name], group[name], rtol=1e-3, atol=1e-4)
    for one, other in zip(timeless(tmp_path / "alone"), timeless(tmp_path / "group"), strict=True):
        assert one["ratio"] == other["ratio"]
        assert one["samples_seen"] == other["samples_seen"]
        assert one["hit_rate"] == other["hit_rate"]
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_a_worker_of_a_former_driver_may_not_write(tiny, tmp_path, ray_session):
    task = tiny.task(tmp_path / "group")
    (tmp_path / "owner.json").write_text(
        json.dumps({"host": "h", "pid": 1, "token": "new", "what": "", "beat": 0, "started": 0})
    )
    with pytest.raises(RunError, match="no longer held"):
        train_group(
            pretrain_loop, task, UPath(task.folder), task.config.resources, 2, str(tmp_path / "owner.json"), "old"
        )
    assert not read_history(UPath(task.folder))
    assert not list((tmp_path / "group").rglob("*.png"))
