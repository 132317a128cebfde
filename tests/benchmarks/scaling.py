"""What more cores and workers bring, and what Ray costs: `python -m tests.benchmarks.scaling --work SCRATCH`.

Every measurement is a process of its own, so that none warms another up. Training: the same pretraining in one process
without Ray (1 and 2 threads), in two that know nothing of each other, and in Ray Train groups (1 worker with 1 and 2
cores, 2 workers with a core each), as samples a second over all epochs but the first. Start: seconds from the
process's start to the end of the first step, with what they went into. Preprocessing: cases a minute of PET/CT
phantoms with 1 and 2 cores, Ray and its workers already up.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FIELDS = {  # the model of configs/busi.yaml, profile small
    "cache.size": (128, 128),
    "cache.patch": (16, 16),
    "model.width": 192,
    "model.depth": 6,
    "model.heads": 3,
    "decoder.width": 64,
    "decoder.depth": 1,
    "decoder.heads": 2,
    "pretrain.epochs": 7,
    "pretrain.probe_every": 0,
    "pretrain.noise_every": 0,
    "pretrain.pictures": 0,
    "pretrain.checkpoint_every": 7,
}
BATCH = 32
PHANTOMS, VOLUMES = 120, 96
WAYS = {  # name -> (Ray, workers, cores of each)
    "one process without Ray, 1 thread": (False, 1, 1),
    "one process without Ray, 2 threads": (False, 1, 2),
    "Ray Train, 1 worker with 1 core": (True, 1, 1),
    "Ray Train, 1 worker with 2 cores": (True, 1, 2),
    "Ray Train, 2 workers with 1 core each": (True, 2, 1),
}


def timed_loop(task: Any, session: Any) -> None:
    """The pretraining, with the moments of its process's start, of its own and of its first step's end left in the
    task's folder."""
    import psutil

    from pipeline.pretrain import Pretraining

    moments = {"worker": psutil.Process().create_time(), "loop": time.time()}
    training = Pretraining(task, session)
    step = training._step

    def first(batch: Any, position: int) -> None:
        step(batch, position)
        moments["step"] = time.time()
        if session.rank == 0:
            Path(task.folder, "moments.json").write_text(json.dumps(moments))
        training._step = step  # type: ignore[method-assign]

    training._step = first  # type: ignore[method-assign]
    training.run()


def train(work: Path, batch: int, ray: bool, workers: int, cores: int) -> dict[str, float]:
    """One way to train; moments are seconds since the process began."""
    import psutil

    began = psutil.Process().create_time()
    import torch
    from upath import UPath

    from pipeline.training.cluster import joined
    from pipeline.training.group import train_group
    from pipeline.training.history import read_history
    from pipeline.training.session import LocalSession
    from preprocessing.lock import OwnedLock
    from tests.tiny import make_tiny

    def trained(make: Callable[[Any], None]) -> dict[str, float]:
        shutil.rmtree(work / "run", ignore_errors=True)
        (work / "run").mkdir()
        moments = {"imports": time.time()}
        tiny = make_tiny(work / "tiny", PHANTOMS, fields=FIELDS)  # made before: it checks its files
        moments["cache"] = time.time()
        fields = {"resources__workers": workers, "resources__cpus_per_worker": cores, "pretrain__batch": batch}
        task = tiny.task(work / "run", **fields)
        make(task)
        moments |= json.loads((work / "run" / "moments.json").read_text())
        speeds = [record["samples_per_second"] for record in read_history(UPath(work / "run"))[1:]]
        return {name: value - began for name, value in moments.items()} | {"speed": statistics.median(speeds)}

    def alone(task: Any) -> None:
        torch.set_num_threads(cores)
        timed_loop(task, LocalSession(work / "run" / "checkpoints"))

    def grouped(task: Any) -> None:
        with OwnedLock(str(work / "run" / "owner.json"), "the benchmark") as lock:
            train_group(timed_loop, task, UPath(task.folder), task.config.resources, 2, lock.file, lock.token)

    if not ray:
        return trained(alone)
    with joined("local"):
        up = time.time() - began
        return trained(grouped) | {"ray": up}


def preprocess(work: Path, cores: int) -> dict[str, float]:
    """PET/CT phantoms to the cache with that many cores."""
    from pipeline.training.cluster import joined
    from preprocessing.build import build_cache
    from preprocessing.cache_settings import CacheSettings
    from preprocessing.layouts import DataSettings, load_cases

    data = DataSettings(root=str(work / "volumes"), layout="hecktor", phantoms=VOLUMES)
    settings = CacheSettings(size=(128, 128), patch=(8, 8), spacing=(3, 1, 1), foreground="ct", extent="common")
    cases, rejected = load_cases(data)
    with joined("local", cores):
        build_cache(cases, [], data, settings, str(work / "warm"), log=lambda line: None)  # starts all workers
        shutil.rmtree(work / "warm")
        began = time.time()
        build_cache(cases, rejected, data, settings, str(work / "volume_cache"), log=lambda line: None)
        seconds = time.time() - began
        shutil.rmtree(work / "volume_cache")
    return {"seconds": seconds, "cases": len(cases)}


def measure(work: Path, *words: str) -> dict[str, float]:
    """One measurement in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.scaling", "--work", str(work), "--only", *words]
    # a training's threads; preprocessing has a thread for each of Ray's tasks, whatever the cores
    threads = words[-1] if words[0] == "train" else "1"
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=_threads(threads))
    return json.loads(done.stdout.splitlines()[-1])


def _threads(number: str) -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": number}


def together(work: Path, batch: int) -> float:
    """Samples a second of two processes of one thread that know nothing of each other: what the machine has to give."""
    places = [work, work / "beside"]
    if not places[1].exists():
        measure(places[1], "train", "1", "1", "2")  # makes its phantoms and cache
    command = [sys.executable, "-m", "tests.benchmarks.scaling", "--batch", str(batch)]
    command += ["--only", "train", "0", "1", "1", "--work"]
    running = [
        subprocess.Popen([*command, str(place)], stdout=subprocess.PIPE, text=True, env=_threads("1"))
        for place in places
    ]
    return sum(json.loads(process.communicate()[0].splitlines()[-1])["speed"] for process in running)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="scratch folder; removed scans are made again")
    parser.add_argument("--rounds", type=int, default=3, help="times that each way is measured, in turns")
    parser.add_argument("--batch", type=int, default=BATCH, help="samples of a step")
    parser.add_argument("--only", nargs="+", help="one measurement, for the benchmark's own use")
    asked = parser.parse_args()
    work = asked.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    if asked.only:
        kind, *numbers = asked.only
        if kind == "train":
            ray, workers, cores = map(int, numbers)
            found = train(work, asked.batch, bool(ray), workers, cores)
        else:
            found = preprocess(work, int(numbers[0]))
        print(json.dumps(found))
        return
    measure(work, "train", "1", "1", "2")  # makes phantoms and cache
    rounds = [
        {name: measure(work, "train", str(int(ray)), str(n), str(c)) for name, (ray, n, c) in WAYS.items()}
        for _ in range(asked.rounds)
    ]
    print(
        "| way | samples/s (rounds) | first step after | imports | Ray up | cache checked | worker starts | it begins |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name in WAYS:
        found = [r[name] for r in rounds]
        speeds = ", ".join(f"{f['speed']:.0f}" for f in found)
        moments = [
            f"{statistics.median(f[key] for f in found):.1f} s" if key in found[0] else ""
            for key in ("step", "imports", "ray", "cache", "worker", "loop")
        ]
        print(f"| {name} | {speeds} | {' | '.join(moments)} |", flush=True)
    for batch in (BATCH, BATCH // 2):  # half the batch is what each of two workers has of a step
        beside = ", ".join(f"{together(work, batch):.0f}" for _ in range(asked.rounds))
        print(f"| two processes without Ray beside each other, batches of {batch} | {beside} | | | | | | |", flush=True)
    print("\n| cores | cases a minute (rounds) |\n|---|---|")
    for cores in (1, 2):
        made = [measure(work, "preprocess", str(cores)) for _ in range(asked.rounds)]
        print(f"| {cores} | {', '.join(f'''{60 * m['cases'] / m['seconds']:.0f}''' for m in made)} |", flush=True)


if __name__ == "__main__":
    main()
