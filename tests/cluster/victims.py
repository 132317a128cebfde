"""Finding and ending one process of a run, by the title that Ray gives it, among the processes of one cluster only."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.cluster.plan import Kill
from tests.cluster.small_run import Driver
from tests.cluster.spot import SpotCluster

TITLES = {
    "data worker": ("ray::Map",),
    "trial worker": ("ray::ImplicitFunc",),
    "train worker": ("ray::RayTrainWorker",),
    "controller": ("ray::TrainController",),
}
WORKERS = {
    "preprocess": "data worker",
    "search": "trial worker",
    "pretrain": "train worker",
    "finetune": "train worker",
}


@dataclass(frozen=True)
class Victim:
    """What is killed: one process, a node with all of its own, or (none named) the driver.

    Attributes:
        processes: of the cluster; raylet: number of the node's own one.
        trial: the search's trial that was hit.
    """

    processes: Sequence[psutil.Process]
    raylet: int = 0
    trial: str = ""


def find(kill: Kill, cluster: SpotCluster, run: Path) -> Victim | None:
    """The victim of a kill, None as long as there is none: a node counts only where it works for the stage."""
    if kill.victim == "driver":
        return Victim([])
    wanted = TITLES[WORKERS[kill.stage] if kill.victim == "node" else kill.victim]
    found = [process for process in cluster.family() if _title(process).startswith(wanted)]
    if not found:
        return None
    chosen = found[int(kill.which * len(found))]
    trial = _trial(chosen, run) if kill.stage == "search" else ""
    if kill.victim != "node":
        return Victim([chosen], trial=trial)
    with suppress(psutil.NoSuchProcess):
        above = {process.pid for process in chosen.parents()}
        for raylet in cluster.raylets:
            if raylet.pid in above:
                return Victim([raylet, *raylet.children(recursive=True)], raylet.pid, trial)
    return None


def strike(victim: Victim, driver: Driver) -> None:
    """Kill, and wait until the dead are gone."""
    if not victim.processes:
        driver.kill()
    for process in victim.processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs([process for process in victim.processes if process.pid != victim.raylet], timeout=10)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def _trial(process: psutil.Process, run: Path) -> str:
    """A trial's process works in a folder of the trial's name; "" before it has begun."""
    try:
        name = Path(process.cwd()).name
    except psutil.NoSuchProcess:
        return ""
    return name if (run / "search" / "trials" / name).is_dir() else ""
