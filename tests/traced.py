"""A pretraining that writes down what every global step saw (position, sample, mask, ratio), and can lose a worker."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
from upath import UPath

from pipeline.pretrain import Pretraining, PretrainTask
from pipeline.training.session import Session

KILL = "kill-at"  # file in the task's folder: the global position at which the last worker dies, once


def traced_loop(task: PretrainTask, session: Session) -> None:
    """As `pretrain_loop`, with a trace a worker process in the task's folder."""
    training = Pretraining(task, session)
    folder = Path(UPath(task.folder).path)
    folder.mkdir(parents=True, exist_ok=True)
    add = training.meter.add

    with (folder / f"trace-{session.workers}-{session.rank}-{os.getpid()}.jsonl").open("w") as stream:

        def tracing(batch, loss, masked):
            add(batch, loss, masked)
            ratio = training.ratio((training.position - training.settings.batch) / training.total)
            for position, sample, mask in zip(
                batch.position.tolist(), batch.sample.tolist(), masked.cpu().numpy(), strict=True
            ):
                seen = {"sample": sample, "mask": np.packbits(mask).tobytes().hex(), "ratio": ratio}
                stream.write(json.dumps({"position": position, **seen}) + "\n")
            stream.flush()
            die_if_asked(folder, session, training.position)

        training.meter.add = tracing
        training.run()


def die_if_asked(folder: Path, session: Session, position: int) -> None:
    asked = folder / KILL
    if session.rank == session.workers - 1 and asked.exists() and position >= int(asked.read_text()):
        asked.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def steps(folder: Path) -> dict[int, dict]:
    """What was seen at every global position; a position seen again after a restart must have seen the same."""
    seen: dict[int, dict] = {}
    for file in sorted(folder.glob("trace-*.jsonl")):
        for line in file.read_text().splitlines():
            if not line.endswith("}"):
                continue  # cut by the kill
            record = json.loads(line)
            position = record.pop("position")
            assert seen.setdefault(position, record) == record
    return seen
