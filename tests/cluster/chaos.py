"""Kills at random moments of whole runs, and whether each run ends like an undisturbed one.

python -m tests.cluster.chaos [--seed 0] [--kills 30] FOLDER

FOLDER/kills.jsonl and FOLDER/runs.jsonl grow as things happen; the same command again goes on with the run that was
cut short. At the end FOLDER/kills.csv and FOLDER/kills.md hold the table. Status 0: every kill landed and nothing
was spoilt.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.cluster.disturb import Disturbance, Stuck
from tests.cluster.judge import Verdict, judge
from tests.cluster.plan import A_RUN, Kill, elastic, plan
from tests.cluster.small_run import SMALL, Driver, write_scans
from tests.cluster.spot import SpotCluster
from tests.cluster.table import write_table
from tests.cluster.watch import STAGES, marks

UNDISTURBED = "undisturbed"


def main(folder: Path, seed: int, kills: int) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    _same_plan(folder / "plan.json", {"seed": seed, "kills": kills, "run": json.loads(json.dumps(SMALL))})
    write_scans(folder / "scans")
    trial = Trial(folder, plan(seed, kills))
    while trial.next():
        with SpotCluster(folder) as cluster:
            whole = True
            while whole and (todo := trial.next()):  # a cluster that a run got stuck on is not used again
                whole = todo(cluster)
    summary = write_table(folder)
    print(summary.text)
    return 0 if summary.landed == kills and not summary.spoilt else 1


def _same_plan(file: Path, wanted: dict[str, Any]) -> None:
    if file.exists() and json.loads(file.read_text()) != wanted:
        sys.exit(f"{file.parent} holds trials of another plan, see {file.name}; give another folder or remove it")
    file.write_text(json.dumps(wanted, indent=1))


class Trial:
    """The planned kills in a folder, of which some may be done."""

    def __init__(self, folder: Path, planned: list[Kill]) -> None:
        self.folder, self.planned = folder, planned

    def next(self) -> Callable[[SpotCluster], bool] | None:
        """What is to be done next, on a cluster; None when all is done. It returns whether the cluster is still good.

        A kill that came after its stage was over is tried again in a run of its own, but not for ever.
        """
        runs = self._read("runs.jsonl")
        if not runs:
            return lambda cluster: self._run(cluster, UNDISTURBED, -1, [])
        ended = {(run["run"], run["began"]) for run in runs}
        landed = {kill["number"] for kill in self._read("kills.jsonl") if (kill["run"], kill["began"]) in ended}
        pending = [kill for kill in self.planned if kill.number not in landed]
        if not pending or len(runs) > 1.5 * len(self.planned) / A_RUN + 1:
            return None
        planned = min({kill.run for kill in pending} - {run["planned"] for run in runs}, default=-1)
        kills = [kill for kill in pending if kill.run == planned] or pending[:1]
        return lambda cluster: self._run(cluster, f"run-{len(runs) - 1:02d}", planned, kills)

    def _run(self, cluster: SpotCluster, name: str, planned: int, kills: list[Kill]) -> bool:
        runs = self._read("runs.jsonl")
        cut = [int(place.name.rpartition("-")[2]) for place in self.folder.glob(f"{name}-*")] if runs else []
        began = max(cut, default=int(time.time()))  # a run that was cut short goes on, like any other
        told = {kill["number"] for kill in self._read("kills.jsonl") if (kill["run"], kill["began"]) == (name, began)}
        place = self.folder / f"{name}-{began}"
        run = place / "run"
        driver = Driver(self.folder / "scans", run, cluster.address, elastic(planned))
        disturbance, stuck = Disturbance(cluster, driver, run, runs[0]["marks"] if runs else {}), ""
        try:
            for facts in disturbance.kills([kill for kill in kills if kill.number not in told]):
                self._tell("kills.jsonl", {"run": name, "began": began, **facts})
            disturbance.finish()
        except Stuck as error:
            stuck = str(error)
        finally:
            driver.kill()
        if stuck and not runs:
            sys.exit(f"the undisturbed run fails: {stuck}; see {driver.log}")
        facts = {"run": name, "planned": planned, "began": began}
        facts |= {"seconds": None if cut else round(time.time() - began)}
        facts |= {"commands": driver.commands, "folder": place.name}
        facts |= {"marks": {stage: marks(run, stage) for stage in STAGES}}
        undisturbed = self.folder / runs[0]["folder"] / "run" if runs else run
        verdict = Verdict([stuck]) if stuck else judge(run, undisturbed)
        self._tell("runs.jsonl", facts | asdict(verdict))
        if runs and not verdict.differences:
            shutil.rmtree(place)  # what differs is kept to be looked at
        return not stuck

    def _read(self, name: str) -> list[dict[str, Any]]:
        file = self.folder / name
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def _tell(self, name: str, facts: dict[str, Any]) -> None:
        line = json.dumps(facts)
        with (self.folder / name).open("a") as stream:
            stream.write(line + "\n")
        print(line, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=30)
    words = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that driver and cluster are taken down
    sys.exit(main(words.folder.absolute(), words.seed, words.kills))
