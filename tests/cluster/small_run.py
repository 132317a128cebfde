"""The run that is disturbed: `jobs.run` from PET/CT phantoms, two of them broken, to the report in a minute or so."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from preprocessing.phantoms.volumes import write_hecktor_phantoms
from tests.cluster.spot import ROOT, environment
from tests.pipeline.test_volume_stages import PETCT
from tests.tiny import FIELDS

CASES = 48
SMALL: dict[str, Any] = {
    "cache.patch": (8, 8),
    "cache.most_samples": 3,
    "resources.workers": 2,
    "resources.precision": "fp32",
    "resources.checkpoint_minutes": 0.03,  # many within an epoch as well
    "pretrain.epochs": 40,
    "pretrain.batch": 16,
    "pretrain.checkpoint_every": 5,
    "pretrain.probe_every": 20,
    "pretrain.noise_every": 10,
    "finetune.epochs": 24,
    "finetune.batch": 8,
    "finetune.validate_every": 2,
    "search.trials": 3,
    "search.repeats": 0,
    "search.epochs": 8,
    "search.probe_every": 2,
    "search.grace": 8,  # no trial is stopped early: the choice is a function of the seed
}


def write_scans(folder: Path) -> None:
    """The phantoms; of one the file is cut short, of another the label is not one of the layout's."""
    if folder.exists():
        return
    part = folder.with_name("scans.part")
    write_hecktor_phantoms(str(part), CASES, 0)
    cut = sorted((part / "imagesTr").glob("*__CT.nii.gz"))[5]
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    wrong = sorted((part / "labelsTr").glob("*.nii.gz"))[9]
    label = nib.nifti1.load(wrong)
    nib.nifti1.save(nib.nifti1.Nifti1Image(np.asarray(label.dataobj) * 7, label.affine), wrong)
    part.rename(folder)


class Driver:
    """One user who gives the same command again until the run ends well.

    Attributes:
        commands: how often the command was given.
        statuses: how each but the last one ended.
        log: what all of them wrote.
    """

    MOST = 10  # commands, before the user gives up

    def __init__(self, scans: Path, run: Path, address: str, elastic: bool = False) -> None:
        fields = FIELDS | PETCT | SMALL | {"data.root": str(scans), "run.dir": str(run), "run.address": address}
        fields |= {"resources.workers": 1, "resources.max_workers": 2} if elastic else {}
        config = run.with_suffix(".yaml")
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text("data: {layout: hecktor}\n")
        self.log = run.with_suffix(".log")
        self._words = [sys.executable, "-m", "jobs.run", str(config)]
        self._words += [f"{name}={json.dumps(value)}" for name, value in fields.items()]
        self.statuses: list[int] = []
        self._start()

    @property
    def commands(self) -> int:
        return len(self.statuses) + 1

    @property
    def pid(self) -> int:
        return self._process.pid

    def ended_well(self) -> bool:
        """Whether the run is done; a command that ended otherwise is given again."""
        status = self._process.poll()
        if status in (None, 0):
            return status == 0
        self.statuses.append(status)
        self._start()
        return False

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _start(self) -> None:
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                self._words, stdout=log, stderr=log, env=environment(), cwd=ROOT, start_new_session=True
            )
