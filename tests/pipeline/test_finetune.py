"""Fine-tuning in this process: it learns, resumes exactly, and stops where it should."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from upath import UPath

from pipeline import finetune
from pipeline.checkpoint import load_weights, save_weights
from pipeline.config import Config
from pipeline.configuration.overrides import with_fields
from pipeline.finetune import FinetuneTask, Finetuning
from pipeline.models.encoder import Encoder, EncoderSettings
from pipeline.segmentation.segmenter_file import load_segmenter
from pipeline.training.history import read_history
from pipeline.training.session import LocalSession
from preprocessing.errors import RunError
from preprocessing.splits import Splits
from tests.pipeline.fake_cache import FakeCache

MODEL = {"width": 16, "depth": 2, "heads": 2}


class Killed(Exception):
    """Stands for a worker that dies."""


class Run:
    """A cache of 30 cases, 20 of them for training and 6 for validation, and tasks that use it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.cache = FakeCache(samples=30, size=(32, 32), patch=(8, 8))
        monkeypatch.setattr(finetune.PatchCache, "open", lambda _: self.cache)
        cases = self.cache.samples["case"]
        split = ["train"] * 20 + ["val"] * 6 + ["test"] * 4
        table = pd.DataFrame({"case": cases, "group": cases, "split": split, "labelled_used": True})
        Splits(table).write(str(folder / "splits.csv"))

    def task(self, name: str, encoder: Path | None = None, seed: int = 0, **settings: Any) -> FinetuneTask:
        chosen = {"epochs": 4, "batch": 8, "validate_every": 1, "ema": 0.5, **settings}
        config = Config(
            run={"seed": seed},
            cache={"size": (32, 32), "patch": (8, 8)},
            model=MODEL,
            segmenter={"stem": 4, "width": 16},
            finetune=chosen,
            resources={"precision": "fp32"},
        )
        path = None if encoder is None else str(encoder)
        return FinetuneTask(config, "fake", str(self.folder / "splits.csv"), path, str(self.folder / name))

    def train(self, name: str, encoder: Path | None = None, **settings: Any) -> dict[str, torch.Tensor]:
        session = LocalSession(self.folder / f"{name}-checkpoints")
        Finetuning(self.task(name, encoder, **settings), session).run()
        return load_weights(UPath(self.folder / name / "segmenter"), "segmenter")[0]

    def write_encoder(self, name: str, settings: EncoderSettings, patch: tuple[int, int] = (8, 8)) -> Encoder:
        torch.manual_seed(5)
        encoder = Encoder(settings, token_dim=patch[0] * patch[1], dims=2)
        shape = {"channels": 1, "size": [32, 32], "patch": patch}
        meta = {"kind": "encoder", "model": settings.model_dump(), "shape": shape}
        save_weights(UPath(self.folder / name), encoder.state_dict(), meta)
        return encoder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return Run(tmp_path, monkeypatch)


def test_it_learns_and_the_checkpoint_says_what_it_is(run: Run) -> None:
    run.train("learn", epochs=20, validate_every=5, lr=5e-3, layer_decay=1.0)
    records = read_history(UPath(run.folder / "learn"))
    assert [record["epoch"] for record in records] == [5, 10, 15, 20]
    assert records[-1]["loss"] < 0.75 * records[0]["loss"]
    assert records[-1]["val_dsc"] > 0.8
    model, card = load_segmenter(run.folder / "learn" / "segmenter")
    assert (card.channels, card.size, card.patch) == (1, (32, 32), (8, 8))
    assert card.classes == {"lesion": ()}
    assert card.trained["validation_dsc"] in [record["val_dsc"] for record in records]
    assert model(torch.rand(1, 1, 32, 32), torch.ones(1, 1, 32, 32, dtype=torch.bool)).shape == (1, 1, 32, 32)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(run: Run) -> None:
    first, second, other = run.train("a"), run.train("b"), run.train("c", seed=1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(("altered", "same"), [(slice(26, None), True), (slice(20, 26), False), (slice(0, 1), False)])
def test_test_cases_leave_no_trace_in_weights_history_or_threshold(run: Run, altered: slice, same: bool) -> None:
    """Cases 26 to 29 are the test's, 20 to 25 the validation's; with those altered the record is another one."""

    def made(name: str) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]], tuple[float, ...]]:
        weights = run.train(name)
        records = [{k: r[k] for k in ("loss", "val_dsc")} for r in read_history(UPath(run.folder / name))]
        return weights, records, load_segmenter(run.folder / name / "segmenter")[1].thresholds

    before = made("before")
    run.cache.whole.patches[altered] = run.cache.whole.patches[altered][:, ::-1] / 2
    run.cache.whole.label[altered] = 1 - run.cache.whole.label[altered]
    after = made("after")
    unchanged = all(torch.equal(before[0][name], after[0][name]) for name in before[0]) and before[1:] == after[1:]
    assert unchanged == same


def test_going_on_after_a_kill_ends_like_an_undisturbed_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run.train("whole")
    session = LocalSession(run.folder / "killed-checkpoints")
    broken = Finetuning(run.task("killed"), session)
    step, calls = broken._step, []

    def dying(*args: Any) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 8:  # between two checkpoints
            raise Killed
        return step(*args)

    monkeypatch.setattr(broken, "_step", dying)
    with pytest.raises(Killed):
        broken.run()
    assert session.latest() is not None
    resumed = run.train("killed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    drop = ["seconds", "samples_per_second", "data_wait_fraction"]
    one, two = (pd.DataFrame(read_history(UPath(run.folder / n))).drop(columns=drop) for n in ("whole", "killed"))
    pd.testing.assert_frame_equal(one, two)


def test_a_finished_training_run_again_writes_the_same_segmenter(run: Run) -> None:
    first = run.train("done")
    assert all(torch.equal(value, first[name]) for name, value in run.train("done").items())


def test_pretrained_weights_and_architecture_come_from_the_encoders_checkpoint(run: Run, capsys: Any) -> None:
    settings = EncoderSettings(width=24, depth=1, heads=2)  # not what the configuration says
    encoder = run.write_encoder("encoder", settings)
    training = Finetuning(run.task("warm", run.folder / "encoder"), LocalSession(run.folder / "warm-checkpoints"))
    assert torch.equal(training.learner.model.encoder.embed.weight, encoder.embed.weight)
    assert "tensors loaded" in capsys.readouterr().out
    run.write_encoder("other", settings, patch=(16, 16))
    with pytest.raises(RunError, match=r"cache.patch=\[16, 16\]"):
        Finetuning(run.task("wrong", run.folder / "other"), LocalSession(run.folder / "wrong-checkpoints"))


def test_a_frozen_encoder_stays_as_it_was(run: Run) -> None:
    run.write_encoder("encoder", EncoderSettings(**MODEL))
    task = run.task("frozen", run.folder / "encoder", frozen=1.0)
    training = Finetuning(task, LocalSession(run.folder / "frozen-checkpoints"))
    before = {name: value.clone() for name, value in training.learner.model.state_dict().items()}
    training.run()
    moved = {
        name for name, value in training.learner.model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert moved
    assert not any(name.startswith("encoder.") for name in moved)


def test_patience_stops_and_the_best_weights_are_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.3, 0.6, 0.5, 0.4, 0.9])
    monkeypatch.setattr(finetune, "choose_thresholds", lambda _: finetune.Choice((0.4,), (next(scores),)))
    training = Finetuning(run.task("early", epochs=9, patience=2), LocalSession(run.folder / "early-checkpoints"))
    kept = []
    end = training._end_round

    def watch(*args: Any) -> dict[str, Any]:
        record = end(*args)
        kept.append({name: value.clone() for name, value in training.learner.smoothed.state_dict().items()})
        return record

    monkeypatch.setattr(training, "_end_round", watch)
    training.run()
    assert len(kept) == 4  # the best was the second
    assert all(torch.equal(value, training.best[name]) for name, value in kept[1].items())
    assert load_segmenter(run.folder / "early" / "segmenter")[1].thresholds == (0.4,)
    again = Finetuning(run.task("early", epochs=9, patience=2), LocalSession(run.folder / "early-checkpoints"))
    again.run()
    assert again.position == training.position  # the same command does not train on


def test_accumulation_does_not_change_the_step(run: Run) -> None:
    whole, parts = run.train("one", epochs=1), run.train("three", epochs=1, accumulate=3)
    for name, value in whole.items():
        torch.testing.assert_close(value, parts[name], rtol=1e-3, atol=1e-4)


def test_a_loss_that_is_not_finite_names_the_cases(run: Run) -> None:
    run.cache.whole.patches[3] = np.nan
    with pytest.raises(RunError, match=r"not finite at global sample .*case 003"):
        run.train("nan")


def test_slices_are_turned_in_the_millimetres_of_their_cache(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    task, seen, augment = run.task("mm", epochs=1), [], finetune.augment
    config = with_fields(task.config, {"cache.spacing": (6, 2, 1)})
    monkeypatch.setattr(finetune, "augment", lambda *given: seen.append(given[-1]) or augment(*given))
    Finetuning(replace(task, config=config), LocalSession(run.folder / "mm-checkpoints")).run()
    assert set(seen) == {(2.0, 1.0)}


def test_no_label_to_learn_from(run: Run) -> None:
    table = Splits.read(str(run.folder / "splits.csv")).table.assign(labelled_used=False)
    Splits(table).write(str(run.folder / "splits.csv"))
    with pytest.raises(RunError, match="no labelled training case"):
        run.train("none")


def test_without_validation_labels_the_last_weights_and_one_half(run: Run) -> None:
    table = Splits.read(str(run.folder / "splits.csv")).table
    Splits(table.assign(labelled_used=table["split"] == "train")).write(str(run.folder / "splits.csv"))
    run.train("blind", epochs=2)
    card = load_segmenter(run.folder / "blind" / "segmenter")[1]
    assert card.thresholds == (0.5,)
    assert card.trained["samples_seen"] == 40
    assert card.trained["validation_dsc"] is None


class KilledWithin(LocalSession):
    """Asked for a checkpoint after a number of steps within a round, and dead once it is written."""

    steps, due = 0, 5

    def checkpoint_due(self) -> bool:
        self.steps += 1
        return self.steps == self.due

    def report(self, metrics, write=None):
        super().report(metrics, write)
        if "loss" not in metrics:
            raise Killed


def test_killed_within_a_round_it_ends_like_an_undisturbed_one(run):
    whole = run.train("whole", validate_every=2)
    task = run.task("within", validate_every=2)
    with pytest.raises(Killed):
        Finetuning(task, KilledWithin(run.folder / "within-checkpoints")).run()
    resumed = run.train("within", validate_every=2)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    losses = [[record["loss"] for record in read_history(UPath(run.folder / name))] for name in ("whole", "within")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    seconds = [record["samples_per_second"] for record in read_history(UPath(run.folder / "within"))]
    assert len(seconds) == 2
