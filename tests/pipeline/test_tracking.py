"""A run's numbers on an MLflow server: once each, in one MLflow run, and never in the way of the run itself."""

from __future__ import annotations

import json
import time

import pytest
from pydantic import ValidationError
from upath import UPath

from pipeline.tracking import Tracker, TrackingSettings

mlflow = pytest.importorskip("mlflow")
CONFIG = {"run": {"seed": 3}, "cache": {"size": [32, 32]}}
RECORDS = [{"epoch": n, "loss": 1.0 / n, "samples_seen": 8 * n, "note": "text"} for n in (1, 2, 3)]


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """A store that needs no server."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return TrackingSettings(uri=(tmp_path / "store").as_uri(), experiment="an experiment")


def run_of(root, settings):
    from mlflow import MlflowClient

    client = MlflowClient(settings.uri)
    (found,) = client.search_runs([client.get_experiment_by_name(settings.experiment).experiment_id])
    assert found.info.run_id == json.loads((root / "mlflow.json").read_text())["run"]
    return client, found


def test_every_record_arrives_once_and_the_result_ends_the_run(tmp_path, settings):
    root = UPath(tmp_path / "busi")
    root.mkdir()
    first = Tracker(settings, root, CONFIG)
    for seen in (1, 1, 2):  # the same history looked at again
        first.records("pretrain")(RECORDS[:seen])
    second = Tracker(settings, root, CONFIG)  # of the driver after a kill
    second.records("pretrain")(RECORDS)
    second.result({"dsc": 0.5, "resolution": "source"})
    client, run = run_of(root, settings)
    assert (run.info.run_name, run.info.status) == ("busi", "FINISHED")
    assert run.data.params == {"run.seed": "3", "cache.size": "[32, 32]"}
    losses = client.get_metric_history(run.info.run_id, "pretrain.loss")
    assert [(m.step, m.value) for m in losses] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert run.data.metrics["test.dsc"] == 0.5
    assert "pretrain.note" not in run.data.metrics


def test_a_record_every_few_epochs_arrives_after_a_restart_too(tmp_path, settings):
    root = UPath(tmp_path / "busi")
    root.mkdir()
    records = [{"epoch": epoch, "loss": 1.0 / epoch} for epoch in (8, 16, 24)]  # of a fine-tuning's validations
    Tracker(settings, root, CONFIG).records("finetune")(records[:1])
    Tracker(settings, root, CONFIG).records("finetune")(records)
    client, run = run_of(root, settings)
    assert [m.step for m in client.get_metric_history(run.info.run_id, "finetune.loss")] == [8, 16, 24]


def test_a_result_is_tried_at_once_after_a_failure_and_sent_once(tmp_path, settings, monkeypatch):
    root = UPath(tmp_path / "busi")
    root.mkdir()
    tracker = Tracker(settings, root, CONFIG, [].append)
    with monkeypatch.context() as broken:
        broken.setattr(mlflow.MlflowClient, "log_batch", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("no")))
        tracker.records("pretrain")(RECORDS[:1])
        tracker.result({"dsc": 0.5})
    for again in (tracker, Tracker(settings, root, CONFIG)):  # within a minute, and of the same command later
        again.result({"dsc": 0.5})
    client, run = run_of(root, settings)
    assert [m.value for m in client.get_metric_history(run.info.run_id, "test.dsc")] == [0.5]
    assert run.info.status == "FINISHED"


def test_a_server_that_is_not_there_is_told_once(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    said: list[str] = []
    tracker = Tracker(TrackingSettings(uri="http://127.0.0.1:9"), UPath(tmp_path), CONFIG, said.append)
    tracker.records("pretrain")(RECORDS)
    tracker.result({"dsc": 0.5})
    (line,) = said
    assert line.startswith("tracking: http://127.0.0.1:9 does not answer; the run goes on without")


def test_what_a_server_missed_is_sent_later(tmp_path, settings, monkeypatch):
    root, said = UPath(tmp_path / "busi"), []
    root.mkdir()
    tracker = Tracker(settings, root, CONFIG, said.append)
    with monkeypatch.context() as broken:
        broken.setattr(mlflow.MlflowClient, "log_batch", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("no")))
        tracker.records("pretrain")(RECORDS[:1])
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + 100)
    tracker.records("pretrain")(RECORDS)
    client, run = run_of(root, settings)
    assert [m.step for m in client.get_metric_history(run.info.run_id, "pretrain.loss")] == [1, 2, 3]
    assert len(said) == 1


def test_without_a_server_nothing_is_written(tmp_path):
    tracker = Tracker(TrackingSettings(), UPath(tmp_path), CONFIG)
    tracker.records("pretrain")(RECORDS)
    tracker.result({"dsc": 0.5})
    assert not list(tmp_path.iterdir())


def test_a_password_in_the_address_is_refused():
    with pytest.raises(ValidationError, match="MLFLOW_TRACKING_USERNAME"):
        TrackingSettings(uri="http://someone:secret@127.0.0.1:5000")
