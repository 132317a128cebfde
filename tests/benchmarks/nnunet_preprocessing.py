"""Preprocessing speed beside nnU-Net v2's own, on the same volumes: `python -m tests.benchmarks.nnunet_preprocessing`.

nnU-Net lives in an environment of its own (`pip install nnunetv2`), whose Python is given. It demands all modalities on
one grid, so PET is put on the CT's grid beforehand, for both. Then both resample the same files to the same spacing by
linear interpolation, with as many processes, and write their caches; the runs take turns. Start-up of the processes
counts on both sides; that of the Ray cluster, which serves the whole run and not only this stage, is told apart.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import SimpleITK as sitk

from preprocessing.build import build_cache
from preprocessing.cache_settings import CacheSettings
from preprocessing.layouts import DataSettings, hecktor, load_cases

NUMBER, NAME = 900, "Dataset900_PETCT"


def write_dataset(root: str, copies: int, folder: Path) -> int:
    """nnU-Net's raw data set, and a manifest of the same files; returns the number of cases."""
    shutil.rmtree(folder, ignore_errors=True)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    rows = []
    cases = [case for case in hecktor.find(root)[0] if case.labels]
    for case in cases:
        ct = sitk.ReadImage(case.images["CT"])
        pet = sitk.Resample(sitk.ReadImage(case.images["PT"]), ct, sitk.Transform(), sitk.sitkLinear, 0.0)
        label = nib.load(case.labels[0])
        mask = nib.Nifti1Image((np.asarray(label.dataobj) > 0).astype(np.uint8), label.affine)
        for copy in range(copies):
            name = f"{case.id.replace('-', '')}_{copy:02d}"
            images = [f"imagesTr/{name}_{channel:04d}.nii.gz" for channel in (0, 1)]
            sitk.WriteImage(ct, str(folder / images[0]))
            sitk.WriteImage(pet, str(folder / images[1]))
            nib.save(mask, folder / "labelsTr" / f"{name}.nii.gz")
            rows.append({"case": name, "CT": images[0], "PT": images[1], "label": f"labelsTr/{name}.nii.gz"})
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    description = {
        "channel_names": {"0": "CT", "1": "PET"},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": len(rows),
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    return len(rows)


class NnUnet:
    """nnU-Net's command line in its own environment.

    Args:
        python: the environment's interpreter.
        work: folder for its data; spacing: of the plans, in mm (z, y, x).
    """

    def __init__(self, python: str, work: Path, spacing: tuple[float, ...], processes: int) -> None:
        self._bin, self._processes = Path(python).parent, processes
        self.output = work / "preprocessed" / NAME
        places = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}
        self._environment = os.environ | {name: str(work / place) for name, place in places.items()}
        self._environment |= {"OMP_NUM_THREADS": "1"}
        wanted = " ".join(map(str, spacing)).split()
        self._run("nnUNetv2_extract_fingerprint", "-d", str(NUMBER), "-np", str(processes))
        self._run("nnUNetv2_plan_experiment", "-d", str(NUMBER), "-overwrite_target_spacing", *wanted)
        plans = json.loads((self.output / "nnUNetPlans.json").read_text())
        for name, configuration in plans["configurations"].items():
            if "resampling_fn_data_kwargs" in configuration:
                configuration["resampling_fn_data_kwargs"] |= {"order": 1, "order_z": 1}
            if name == "3d_fullres":
                configuration["spacing"] = list(spacing)
        (self.output / "nnUNetPlans.json").write_text(json.dumps(plans))

    def preprocess(self) -> float:
        """Seconds."""
        shutil.rmtree(self.output / "nnUNetPlans_3d_fullres", ignore_errors=True)
        began = time.perf_counter()
        self._run("nnUNetv2_preprocess", "-d", str(NUMBER), "-c", "3d_fullres", "-np", str(self._processes))
        return time.perf_counter() - began

    def _run(self, *words: str) -> None:
        done = subprocess.run(
            [str(self._bin / words[0]), *words[1:]], env=self._environment, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(words)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")


def ours(raw: Path, cache: Path, spacing: tuple[float, ...]) -> float:
    """Seconds for our cache; Ray is up."""
    shutil.rmtree(cache, ignore_errors=True)
    window = {"kind": "window", "low": -160, "high": 240}
    settings = CacheSettings(
        size=(24, 64, 64), patch=(3, 8, 8), spacing=spacing, overlap=0, least_foreground=0,
        intensity={"CT": window, "PT": {"kind": "log", "low": 0, "high": 20}},
    )  # fmt: skip
    data = DataSettings(root=str(raw), layout="manifest", modalities=("CT", "PT"), dims=3)
    began = time.perf_counter()
    cases, rejected = load_cases(data)
    build_cache(cases, rejected, data, settings, str(cache), log=lambda line: None)
    return time.perf_counter() - began


def size_of(folder: Path) -> float:
    """MiB."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nnunet", required=True, help="python of the environment with nnunetv2")
    parser.add_argument("--root", required=True, help="folder in HECKTOR's layout")
    parser.add_argument("--work", required=True, help="scratch folder")
    parser.add_argument("--copies", type=int, default=3, help="of each case, so that starting up matters less")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--spacing", type=float, nargs=3, default=(3.0, 1.0, 1.0), help="mm")
    asked = parser.parse_args()
    work, spacing = Path(asked.work), tuple(asked.spacing)
    count = write_dataset(asked.root, asked.copies, work / "raw" / NAME)
    other = NnUnet(asked.nnunet, work, spacing, asked.processes)
    import ray

    began = time.perf_counter()
    ray.init(num_cpus=asked.processes, include_dashboard=False, log_to_driver=False)
    up = time.perf_counter() - began
    print(f"{count} cases, {asked.processes} processes, spacing {spacing}; Ray is up in {up:.1f} s")
    seconds: dict[str, list[float]] = {"nnU-Net v2": [], "ours": []}
    for number in range(asked.rounds):
        seconds["nnU-Net v2"].append(other.preprocess())
        seconds["ours"].append(ours(work / "raw" / NAME, work / "cache", spacing))
        last = ", ".join(f"{name} {took[-1]:.1f} s" for name, took in seconds.items())
        print(f"round {number + 1}: {last}", flush=True)
    ray.shutdown()
    sizes = {"nnU-Net v2": size_of(other.output / "nnUNetPlans_3d_fullres"), "ours": size_of(work / "cache")}
    for name, took in seconds.items():
        median = statistics.median(took)
        print(f"{name}: {count / median * 60:.0f} cases a minute (median of {took}), {sizes[name]:.0f} MiB")
    ratio = statistics.median(seconds["nnU-Net v2"]) / statistics.median(seconds["ours"])
    print(f"ours is {ratio:.2f} times as fast")


if __name__ == "__main__":
    main()
