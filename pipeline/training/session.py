"""What a training loop needs to know of its surroundings, so that one loop serves Ray Train, Ray Tune and a test.

The loops (pretraining, fine-tuning) see this protocol only. The adapters are thin: a rank, a device, a way to
hand in metrics with a checkpoint, and the checkpoint to go on from.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

_LOOK_STEPS, _LOOK_S = 10, 5.0  # between questions to the other workers; between looks for a notice


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

    def checkpoint_due(self) -> bool:
        """Whether a checkpoint should be reported now beside those of the epochs; all workers ask after each step
        and get the same answer."""
        ...

    def check_owner(self) -> None:
        """To be called before anything is written beside what `report` writes.

        Raises:
            RunError: the run belongs to another driver by now.
        """
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

    def __init__(self, folder: Path) -> None:
        self.folder, self.device = folder, torch.device("cpu")
        self.history: list[dict[str, Any]] = []

    def latest(self) -> Path | None:
        found = sorted(self.folder.glob("checkpoint_*"))
        return found[-1] if found else None

    def checkpoint_due(self) -> bool:
        return False

    def check_owner(self) -> None:
        """Nobody else knows of the folder."""

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
        for old in sorted(self.folder.glob("checkpoint_*"))[:-2]:
            shutil.rmtree(old)


class TrainSession:
    """A worker of a Ray Train group.

    Args:
        may_write: raises when this run belongs to another driver by now; called before each report.
        every_s: seconds between checkpoints beside those of the epochs; 0: none by time.
        labels: of the training among Ray's metrics.
        start: path or URI of a checkpoint to go on from as long as the group itself has none.
    """

    def __init__(
        self, may_write: Callable[[], None], every_s: float, labels: Mapping[str, str], start: str = ""
    ) -> None:
        import ray.train
        from ray.train.torch import get_device

        from pipeline.training.gauges import Gauges

        context = ray.train.get_context()
        self.rank, self.workers = context.get_world_rank(), context.get_world_size()
        self.device: torch.device = get_device()
        self._may_write, self._every_s, self._start = may_write, every_s, start
        self._steps, self._saved, self._looked = 0, time.monotonic(), time.monotonic()
        self._going: frozenset[str] = frozenset()
        self._urgent = False
        self._gauges = Gauges(labels) if self.rank == 0 else None

    def latest(self) -> Path | None:
        import ray.train

        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None and self._start:
            checkpoint = ray.train.Checkpoint(self._start)
        return _download(checkpoint)

    def checkpoint_due(self) -> bool:
        self._steps += 1
        if self._steps % _LOOK_STEPS:
            return False  # asking the others makes all of them wait for their devices
        now = time.monotonic()
        clock = [0 < self._every_s <= now - self._saved, now - self._looked >= _LOOK_S]
        mine = torch.tensor(clock, dtype=torch.float32, device=self.device) * (self.rank == 0)  # its clock counts
        late, look = (bool(value) for value in sum_over_workers(self, mine))
        if look:
            self._looked = now
            self._urgent = self._notice()
        return late or self._urgent

    def check_owner(self) -> None:
        self._may_write()

    def report(self, metrics: dict[str, Any], write: Callable[[Path], None] | None = None) -> None:
        import ray.train

        self._may_write()
        if self._gauges is not None:
            self._gauges.show(metrics)
        checkpoint, mode = None, ray.train.CheckpointUploadMode
        if write is not None:
            self._saved = time.monotonic()
            if self.rank == 0:
                folder = Path(tempfile.mkdtemp(prefix="checkpoint-"))
                write(folder)
                checkpoint = ray.train.Checkpoint.from_directory(folder)
        # uploaded while the training goes on, unless this machine is about to go
        ray.train.report(
            metrics,
            checkpoint=checkpoint,
            checkpoint_upload_mode=mode.SYNC if self._urgent else mode.ASYNC,
            delete_local_checkpoint_after_upload=checkpoint is not None,
        )
        self._urgent = False

    def _notice(self) -> bool:
        """Whether the machine of a worker is to be taken away that was not known of before."""
        import ray.train

        info = ray.train.get_preemption_info()
        going = frozenset(info.preempted_node_ids) if info is not None else frozenset()
        new = bool(going - self._going)
        self._going = going
        return new


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

    def checkpoint_due(self) -> bool:
        return False  # trials are short

    def check_owner(self) -> None:
        """A trial's folder is its own: no other driver goes on with it while this one's Ray lives."""

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
