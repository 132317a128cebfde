"""A training's record: one JSON object an epoch (of a fine-tuning, a validation) in `history.jsonl`, and the same
numbers for TensorBoard."""

from __future__ import annotations

import json
import secrets
import tempfile
import time
from pathlib import Path
from typing import Any

from upath import UPath

from preprocessing.object_store import is_local, read_text
from preprocessing.storage import make_folder, replacing, write_text

_STEP = "samples_seen"  # a training's progress, the x axis in TensorBoard
Record = dict[str, Any]
_UPLOAD_S = 60.0  # least time between two uploads of an event file, for each MiB of it: it is uploaded as a whole


class History:
    """Written by one process; going on from a checkpoint forgets what came after it.

    Args:
        folder: where `history.jsonl` and `tensorboard/` live, a path or URI; None (any rank but 0) writes nothing.
        position: samples seen at the checkpoint that the training goes on from; later records are dropped.
    """

    def __init__(self, folder: UPath | None, position: int = 0) -> None:
        self.records: list[Record] = []
        self._folder = folder
        if folder is None:
            return
        from tensorboardX import SummaryWriter  # slow to import, and only rank 0 needs it

        make_folder(folder)
        self.records = [record for record in read_history(folder) if record[_STEP] <= position]
        self._write()
        # event files grow by appending, which an object store cannot do: there they are written here and copied
        self._scratch = None if is_local(folder) else tempfile.TemporaryDirectory()
        self._next_upload = 0.0
        logdir = self._scratch.name if self._scratch else str(folder / "tensorboard")
        # their names go by the second, and two of one name would be one object
        suffix = f".{secrets.token_hex(4)}" if self._scratch else ""
        self._board = SummaryWriter(logdir, purge_step=position + 1 if position else None, filename_suffix=suffix)

    def append(self, record: Record) -> None:
        """Add an epoch's record; numbers go to TensorBoard as well."""
        self.records.append(record)
        if self._folder is None:
            return
        self._write()
        for name, value in record.items():
            if isinstance(value, (int, float)) and name != _STEP:
                self._board.add_scalar(name, value, record[_STEP])
        self._board.flush()
        if time.monotonic() >= self._next_upload:
            self._upload()

    def close(self) -> None:
        """Close the event file. Without it TensorBoard lacks the last minutes of a training on an object store."""
        if self._folder is not None:
            self._board.close()
            self._upload()

    def _upload(self) -> None:
        if self._scratch is None or self._folder is None:
            return
        for file in Path(self._scratch.name).iterdir():
            events = file.read_bytes()
            with replacing(self._folder / "tensorboard" / file.name) as temporary:
                temporary.write_bytes(events)
            self._next_upload = time.monotonic() + _UPLOAD_S * max(1.0, len(events) / 2**20)

    def _write(self) -> None:
        """The whole file anew (it is small), so that a kill leaves the old one or the new one, never half a line."""
        assert self._folder is not None
        write_text(self._folder / "history.jsonl", "".join(json.dumps(record) + "\n" for record in self.records))


def read_history(folder: UPath) -> list[Record]:
    """The records of a stage's folder; empty where it has none."""
    try:
        return [json.loads(line) for line in read_text(folder / "history.jsonl").splitlines()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def throughput(folder: UPath) -> Record:
    """Samples seen, samples a second and the share of time that waited for data, over the whole history."""
    records = read_history(folder)
    seconds = sum(r["seconds"] for r in records)
    return {
        "samples_seen": records[-1]["samples_seen"],
        "samples_per_second": sum(r["samples_per_second"] * r["seconds"] for r in records) / seconds,
        "data_wait_fraction": sum(r["data_wait_fraction"] * r["seconds"] for r in records) / seconds,
    }
