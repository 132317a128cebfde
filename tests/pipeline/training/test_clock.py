from types import SimpleNamespace

import pytest

from pipeline.training.clock import EpochClock


def test_an_epoch_in_two_pieces_is_told_as_one(monkeypatch):
    now = 100.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    loader = SimpleNamespace(waited=0.0)
    clock = EpochClock(loader)
    clock.start(1000)
    now, loader.waited = 110.0, 1.0
    spent = clock.spent(1400)
    assert spent == {"samples": 400, "seconds": 10.0, "waited": 1.0}
    again = EpochClock(loader)
    now = 500.0  # the restart took its time, which is not the training's
    again.start(1400, spent)
    assert loader.waited == 0
    now, loader.waited = 510.0, 3.0
    assert again.record(2000) == pytest.approx({"seconds": 20.0, "samples_per_second": 50.0, "data_wait_fraction": 0.2})
    again.start(2000)
    now = 515.0
    assert again.record(2100)["samples_per_second"] == pytest.approx(20)
