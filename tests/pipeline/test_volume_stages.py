"""Volumes the whole way, from phantoms in HECKTOR's and BraTS's layouts to masks that lie on their scans."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from pipeline import runs
from pipeline.config import Config
from pipeline.configuration.overrides import with_fields
from pipeline.scans import find_scans
from tests.tiny import FIELDS

PETCT = {
    "data.layout": "hecktor",
    "cache.size": (64, 64),
    "cache.patch": (4, 4),
    "cache.spacing": (6, 2.5, 2.5),
    "cache.foreground": "ct",
    "cache.extent": "common",
    "cache.intensity": {
        "CT": {"kind": "window", "low": -160, "high": 240},
        "PT": {"kind": "log", "low": 0, "high": 20},
    },
    "cache.most_samples": 10,
    "selection.polarity": ("bright",),
    "selection.features": ("PT.surrounded", "PT.scatter3"),
    "selection.weights": {"PT.surrounded": 1.0, "PT.scatter3": 0.3},
    "selection.smoothing": 0,
    "finetune.classes": {"GTV": (1, 2)},
}
MRI = {
    "data.layout": "brats",
    "data.dims": 3,
    "cache.size": (8, 24, 24),
    "cache.patch": (2, 4, 4),
    "cache.spacing": (4, 4, 4),
    "cache.foreground": "mri",
    "cache.most_samples": 4,
    "selection.polarity": ("bright",),
    "selection.features": ("flair.level3", "t2.level3"),
    "selection.weights": {"flair.level3": 1.0, "t2.level3": 0.5},
    "finetune.classes": {"WT": (), "ET": (3, 4)},
}


@pytest.mark.parametrize(
    "fields", [pytest.param(PETCT, id="slices"), pytest.param(MRI, id="crops", marks=pytest.mark.slow)]
)
def test_volumes_go_the_whole_way(ray_session, tmp_path, fields):
    places = {"data.root": str(tmp_path / "scans"), "data.phantoms": 10, "run.dir": str(tmp_path / "run")}
    less = {"search.enabled": False, "pretrain.epochs": 2, "finetune.epochs": 2}
    config = with_fields(Config(), FIELDS | less | fields | places)
    runs.run(config)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["data"]["rejected"] == 0
    rates = metrics["selection"]
    assert rates["lesion_hit_rate"]["0.25"] > rates["random"]["0.25"] + 0.2
    assert rates["no_clusters_rule"].startswith("brightness of ")
    test = metrics["segmentation"]["test"]
    assert {"dsc", "ppv", "sen", "hd95", "lesion_sen"} <= test.keys()
    assert (test.get("regions") or {"": test}).keys() == (config.finetune.classes.keys() if fields is MRI else {""})
    runs.predict(with_fields(config, {"predict.input": config.data.root, "predict.output": str(tmp_path / "masks")}))
    table = pd.read_csv(tmp_path / "masks" / "predictions.csv")
    scans = find_scans(config.data.root, config.data, 2)[0]
    assert set(table["case"]) == {case.id for case in scans}
    for case in scans:
        source = nib.load(next(iter(case.images.values())))
        mask = nib.load(tmp_path / "masks" / "masks" / f"{case.id}.nii.gz")
        assert mask.shape == source.shape
        assert np.array_equal(mask.affine, source.affine)
