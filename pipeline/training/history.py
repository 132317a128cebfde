"""A training's record: one JSON object an epoch in `history.jsonl`, and the same numbers for TensorBoard."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from upath import UPath

from preprocessing.storage import write_text

Record = dict[str, Any]


class History:
    """Written by one process; going on from a checkpoint forgets what came after it.

    Args:
        folder: where `history.jsonl` and `tensorboard/` live, a path or URI; None (any rank but 0) writes nothing.
        position: what `step` was at the checkpoint that the training goes on from; later records are dropped.
        step: the field that counts the training's progress, the x axis in TensorBoard.
    """

    def __init__(self, folder: UPath | None, position: int = 0, step: str = "samples_seen") -> None:
        self._step = step
        self.records: list[Record] = []
        self._folder = folder
        if folder is None:
            return
        from tensorboardX import SummaryWriter  # slow to import, and only rank 0 needs it

        folder.mkdir(parents=True, exist_ok=True)
        self.records = [record for record in read_history(folder) if record[step] <= position]
        self._write()
        # event files grow by appending, which an object store cannot do: there they are written here and copied
        self._scratch = None if _is_local(folder) else tempfile.TemporaryDirectory()
        logdir = self._scratch.name if self._scratch else str(folder / "tensorboard")
        self._board = SummaryWriter(logdir, purge_step=position + 1 if position else None)

    def append(self, record: Record) -> None:
        """Add an epoch's record; numbers go to TensorBoard as well."""
        self.records.append(record)
        if self._folder is None:
            return
        self._write()
        for name, value in record.items():
            if isinstance(value, (int, float)) and name != self._step:
                self._board.add_scalar(name, value, record[self._step])
        self._board.flush()
        if self._scratch is not None:
            for file in Path(self._scratch.name).iterdir():
                (self._folder / "tensorboard" / file.name).write_bytes(file.read_bytes())

    def close(self) -> None:
        """Close the event file; nothing is lost without it, since every record is flushed."""
        if self._folder is not None:
            self._board.close()

    def _write(self) -> None:
        """The whole file anew (it is small), so that a kill leaves the old one or the new one, never half a line."""
        assert self._folder is not None
        write_text(self._folder / "history.jsonl", "".join(json.dumps(record) + "\n" for record in self.records))


def read_history(folder: UPath) -> list[Record]:
    """The records of a stage's folder; empty where it has none."""
    path = folder / "history.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _is_local(path: UPath) -> bool:
    return path.protocol in ("", "file", "local")
