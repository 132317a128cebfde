"""The training's record and the progress lines."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event
from upath import UPath

from pipeline.training.history import History, read_history
from pipeline.training.progress import StageProgress


def _record(epoch: int) -> dict[str, float | None]:
    return {"epoch": epoch, "samples_seen": 10 * epoch, "loss": 1.0 / epoch, "hit_rate": None}


def _write(folder: UPath, epochs: range, position: int = 0) -> None:
    history = History(folder, position)
    for epoch in epochs:
        history.append(_record(epoch))
    history.close()


def _board(folder: Path) -> list[tuple[str, int]]:
    """(tag, step) of every scalar in the event files, by TFRecord's framing: length, checksum, data, checksum."""
    found = []
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + length])
            found += [(value.tag, event.step) for value in event.summary.value]
            data = data[16 + length :]
    return found


def test_one_json_object_an_epoch(tmp_path: Path) -> None:
    _write(UPath(tmp_path), range(1, 4))
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [_record(epoch) for epoch in (1, 2, 3)]


def test_resuming_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    _write(UPath(tmp_path), range(1, 6))
    _write(UPath(tmp_path), range(4, 7), position=30)  # the checkpoint was of epoch 3
    assert [record["epoch"] for record in read_history(UPath(tmp_path))] == [1, 2, 3, 4, 5, 6]


def test_starting_anew_drops_everything(tmp_path: Path) -> None:
    _write(UPath(tmp_path), range(1, 6))
    _write(UPath(tmp_path), range(1, 3))
    assert [record["epoch"] for record in read_history(UPath(tmp_path))] == [1, 2]


def test_numbers_go_to_tensorboard_and_missing_ones_do_not(tmp_path: Path) -> None:
    _write(UPath(tmp_path), range(1, 3))
    assert _board(tmp_path / "tensorboard") == [("epoch", 10), ("loss", 10), ("epoch", 20), ("loss", 20)]


def test_object_store() -> None:
    folder = UPath("memory://history-test/run")
    _write(folder, range(1, 4))
    _write(folder, range(3, 4), position=20)
    assert [record["epoch"] for record in read_history(folder)] == [1, 2, 3]
    assert list((folder / "tensorboard").iterdir())


def test_other_ranks_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    history = History(None)
    history.append(_record(1))
    history.close()
    assert not list(tmp_path.iterdir())


def test_plain_lines_without_a_terminal() -> None:
    log = io.StringIO()
    with StageProgress("pretrain", 100, "samples", done=40, seconds=0, stream=log) as progress:
        progress.update(50, "loss 0.210")
        progress.update(100)
    first, last = log.getvalue().splitlines()
    assert first.startswith("pretrain: 50/100 samples (50%), loss 0.210, 0:00 elapsed, 0:00 left")
    assert last.startswith("pretrain: 100/100 samples (100%), 0:00 elapsed")
    assert "\x1b" not in log.getvalue()


def test_lines_are_rare() -> None:
    log = io.StringIO()
    with StageProgress("cases", 50, "cases", seconds=60, stream=log) as progress:
        for done in range(1, 51):
            progress.update(done)
        progress.update(50)  # told again while the workers end
    assert log.getvalue().count("\n") == 1


def test_the_time_that_is_left_falls_while_an_epoch_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("pipeline.training.progress.time.monotonic", lambda: clock[0])
    log = io.StringIO()
    with StageProgress("pretrain", 4, "epochs", seconds=0, stream=log) as progress:
        for seconds, done in ((100, 1), (140, 1), (260, 1), (300, 2)):
            clock[0] = seconds
            progress.update(done)
        clock[0] = 900  # stuck: what was expected is used up
        progress.update(2)
    left = [line.split(", ")[-1] for line in log.getvalue().splitlines()]
    assert left == ["5:00 left", "4:20 left", "2:20 left", "5:00 left", "0:00 left"]
