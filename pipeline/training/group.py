"""A Ray Train worker group around a training loop: resources, failures, resumption, and errors that stay readable."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray.train
import torch
from ray.exceptions import RayActorError
from ray.train.torch import TorchTrainer
from upath import UPath

from pipeline.training.memory import MemoryShortage
from pipeline.training.newest import newest_unlisted
from pipeline.training.offers import demand
from pipeline.training.precision import ResourceSettings
from pipeline.training.session import Session, TrainSession
from preprocessing.errors import RunError
from preprocessing.lock import check_owner, is_owner
from preprocessing.object_store import StoreError, fresh

Task = TypeVar("Task")
_NAME = "train"  # folder of a group's checkpoints


@dataclass(frozen=True)
class GroupTask(Generic[Task]):
    """What every worker of a group receives."""

    loop: Callable[[Task, Session], None]
    task: Task
    threads: int
    checkpoint_s: float
    lock: str
    token: str
    failure: str
    shortage: str
    start: str  # checkpoint to go on from where Ray knows none


def train_group(
    loop: Callable[[Task, Session], None],
    task: Task,
    folder: UPath,
    resources: ResourceSettings,
    keep_checkpoints: int,
    lock: str,
    token: str,
) -> None:
    """Run `loop(task, session)` on the configured workers, from the newest checkpoint in `folder` on.

    Args:
        loop: importable on the workers.
        task: its argument; plain data.
        folder: storage of the group's checkpoints, shared by all nodes.
        resources: workers, devices, tolerated failures.
        keep_checkpoints: newest checkpoints kept.
        lock, token: lock file of the run and its owner; a worker whose driver lost the run must not write.

    Raises:
        RunError: the loop ended with one, the group failed more often than allowed, its controller died, or the lock
            was lost.
    """
    failure, shortage = folder / "failure.txt", folder / "shortage.txt"
    for file in (failure, shortage):
        file.unlink(missing_ok=True)
    cpus, gpu = demand(resources)
    checkpoint_s = 60 * resources.checkpoint_minutes
    start = newest_unlisted(folder / _NAME)
    few, most = resources.workers, resources.most_workers
    workers = few if few == most else (few, most)
    trainer = TorchTrainer(
        _work,
        train_loop_config={
            "group": GroupTask(loop, task, cpus, checkpoint_s, lock, token, str(failure), str(shortage), start)
        },
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,  # type: ignore[arg-type]  # the old API knows no range
            use_gpu=gpu,
            resources_per_worker={"CPU": cpus} | ({"GPU": 1} if gpu else {}),
        ),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg]  # the checker sees the old API's class
            name=_NAME,
            storage_path=str(folder),
            failure_config=ray.train.FailureConfig(  # type: ignore[call-arg]
                max_failures=resources.max_failures, controller_failure_limit=3
            ),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=keep_checkpoints),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        if fresh(failure).exists():
            raise RunError(failure.read_text()) from error
        why = shortage.read_text() if fresh(shortage).exists() else _innermost(error)
        raise RunError(f"training in {folder} failed for good: {why}") from error
    except RayActorError as error:
        # the controller is not restarted, and a second one would wait for cores that the dead one's group still holds
        raise RunError(
            f"training in {folder} stopped: the process that led its workers died. Run the same command again to go on "
            f"from the newest checkpoint ({type(error).__name__})"
        ) from error
    if fresh(failure).exists():
        raise RunError(failure.read_text())
    check_owner(lock, token)


def _work(config: dict[str, Any]) -> None:
    group: GroupTask[Any] = config["group"]
    torch.set_num_threads(group.threads)
    # a job's log would get every report in full, from a logger of Ray's that is no child of "ray.train"
    logging.getLogger().setLevel(logging.WARNING)
    if not fresh(UPath(group.lock)).exists():
        raise RunError(
            f"{group.lock} is not there on the machine {socket.gethostname()}: run.dir must be a folder that all "
            "machines mount, or an object store (s3://, gs://)"
        )
    if fresh(UPath(group.failure)).exists() or not is_owner(group.lock, group.token):
        return  # a worker of this group met a mistake, or another driver has the run: trying again would not help
    labels = {"run": UPath(group.lock).parent.name, "stage": UPath(group.failure).parent.name}
    session = TrainSession(lambda: check_owner(group.lock, group.token), group.checkpoint_s, labels, group.start)
    try:
        group.loop(group.task, session)
    except (StoreError, MemoryShortage) as error:  # one worker's trouble, perhaps gone at the next try
        if isinstance(error, MemoryShortage):
            UPath(group.shortage).write_text(str(error))
        raise
    except RunError as error:
        if is_owner(group.lock, group.token):  # else the run, and so this file, is another driver's
            UPath(group.failure).write_text(str(error))
        if session.workers > 1:  # the others may not meet the same, and would wait for this one
            raise


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"
