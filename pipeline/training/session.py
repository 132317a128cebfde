"""What a training loop needs to know of its surroundings, so that one loop serves Ray Train, Ray Tune and a test.

The loops (pretraining, fine-tuning) see this protocol only. The adapters are thin: a rank, a device, a way to
hand in metrics with a checkpoint, and the checkpoint to go on from.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Session(Protocol):
    """One worker's view of the group that trains."""

    @property
    def rank(self) -> int:
        """This worker's number, 0 for the one that writes."""
        ...

    @property
    def workers(self) -> int:
        """Workers that train together."""
        ...

    @property
    def device(self) -> torch.device:
        """Where this worker computes."""
        ...

    def latest(self) -> Path | None:
        """Local folder of the newest checkpoint to go on from, None at the very beginning."""
        ...

    def report(self, metrics: dict[str, Any], write: Callable[[Path], None] | None = None) -> None:
        """Hand in metrics; all workers call it together.

        Args:
            metrics: plain numbers.
            write: writes a checkpoint into the given empty folder; called on rank 0 only.
        """
        ...


class LocalSession:
    """This process alone, its checkpoints in a folder; for tests and small tools."""

    rank, workers = 0, 1

    def __init__(self, folder: Path, device: str = "cpu", keep: int = 2) -> None:
        self.folder, self.device, self._keep = folder, torch.device(device), keep
        self.history: list[dict[str, Any]] = []

    def latest(self) -> Path | None:
        found = sorted(self.folder.glob("checkpoint_*"))
        return found[-1] if found else None

    def report(self, metrics: dict[str, Any], write: Callable[[Path], None] | None = None) -> None:
        self.history.append(metrics)
        if write is None:
            return
        latest = self.latest()
        number = 0 if latest is None else int(latest.name.removeprefix("checkpoint_")) + 1
        part = self.folder / "part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        write(part)
        part.rename(self.folder / f"checkpoint_{number:06d}")
        for old in sorted(self.folder.glob("checkpoint_*"))[: -self._keep]:
            shutil.rmtree(old)


class TrainSession:
    """A worker of a Ray Train group.

    Args:
        may_write: called before each report; raises when this run belongs to another driver by now.
    """

    def __init__(self, may_write: Callable[[], None]) -> None:
        import ray.train
        from ray.train.torch import get_device

        context = ray.train.get_context()
        self.rank, self.workers = context.get_world_rank(), context.get_world_size()
        self.device: torch.device = get_device()
        self._may_write = may_write

    def latest(self) -> Path | None:
        import ray.train

        return _download(ray.train.get_checkpoint())

    def report(self, metrics: dict[str, Any], write: Callable[[Path], None] | None = None) -> None:
        import ray.train

        self._may_write()
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if write is not None and self.rank == 0:
                write(Path(folder))
                checkpoint = ray.train.Checkpoint.from_directory(folder)
            ray.train.report(metrics, checkpoint=checkpoint)


class TuneSession:
    """A Ray Tune trial that trains in its own process.

    Args:
        metric: the search's objective; records without it are kept back, since schedulers judge every report.
    """

    rank, workers = 0, 1

    def __init__(self, metric: str) -> None:
        import ray

        self._metric = metric

        gpu = bool(ray.get_gpu_ids()) and torch.cuda.is_available()
        self.device = torch.device("cuda" if gpu else "cpu")

    def latest(self) -> Path | None:
        import ray.tune

        return _download(ray.tune.get_checkpoint())

    def report(self, metrics: dict[str, Any], write: Callable[[Path], None] | None = None) -> None:
        import ray.tune

        if self._metric not in metrics:
            return
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if write is not None:
                write(Path(folder))
                checkpoint = ray.tune.Checkpoint.from_directory(folder)
            ray.tune.report(metrics, checkpoint=checkpoint)


def together(session: Session, model: nn.Module) -> nn.Module:
    """The model as the group trains it: gradients are averaged over the workers where there are several."""
    if session.workers == 1:
        return model
    devices = [session.device] if session.device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=devices)


def sum_over_workers(session: Session, values: Tensor) -> Tensor:
    """Element-wise sum over all workers."""
    if session.workers > 1:
        dist.all_reduce(values)
    return values


def _download(checkpoint: Any) -> Path | None:
    return None if checkpoint is None else Path(checkpoint.to_directory())
