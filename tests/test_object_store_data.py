"""Scans, patch caches and predictions in an object store: a real S3 API on this machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from upath import UPath

from pipeline.predict import PredictSettings, predict
from pipeline.scans import find_scans
from pipeline.training.loader import LoaderSettings, PatchLoader
from preprocessing.cache import PatchCache
from preprocessing.cache_settings import CacheSettings
from preprocessing.case import BadFile, Case
from preprocessing.errors import ConfigError, RunError
from preprocessing.fingerprint import digest_files
from preprocessing.layouts import DataSettings, load_cases
from preprocessing.lock import OwnedLock
from preprocessing.phantoms.ultrasound import write_busi_phantoms
from preprocessing.readers.images import read_image, read_mask
from preprocessing.readers.volumes import read_volume
from preprocessing.shards import Shard, standing, write_shard
from tests.pipeline.segmentation.test_inference import predictor, scan
from tests.preprocessing.readers.dicom_files import STORED, series
from tests.preprocessing.readers.test_volumes import nifti
from tests.preprocessing.tiny_cache import blobs, write_cache
from tests.s3_server import Request, elsewhere, names, put_elsewhere, upload


def _moved(cases: list[Case], root: Path | str, uri: str) -> list[Case]:
    return [Case.from_json(case.to_json().replace(str(root), uri)) for case in cases]


def test_layouts(bucket: str, tmp_path: Path) -> None:
    write_busi_phantoms(str(tmp_path / "busi"), 6, 0)
    uri = upload(tmp_path / "busi", f"{bucket}/busi")
    for folder in ("", "benign/"):
        put_elsewhere(f"{uri}/{folder}", "")  # what the console of S3 calls a folder
    local = load_cases(DataSettings(root=str(tmp_path / "busi")))
    assert load_cases(DataSettings(root=uri))[0] == _moved(local[0], tmp_path / "busi", uri)
    put_elsewhere(f"{uri}/benign/late.png", "")
    assert [rejection.case for rejection in load_cases(DataSettings(root=uri))[1]] == ["late"]
    with pytest.raises(ConfigError, match=rf"there is no folder {bucket}/bus; did you mean {uri}"):
        load_cases(DataSettings(root=f"{bucket}/bus"))


def test_a_manifest(bucket: str, tmp_path: Path, requests: list[Request]) -> None:
    series(tmp_path / "dicom" / "ct")
    (tmp_path / "us").mkdir()
    for index in range(4):
        scan(tmp_path / "us", f"scan{index}", (20, 20), np.s_[5:9, 5:9])
    rows = [{"case": f"c{i}", "image": f"us/scan{i}.png", "label": f"us/scan{i}_mask.png"} for i in range(4)]
    rows.append({"case": "series", "image": "dicom/ct#CT", "label": ""})
    pd.DataFrame(rows).to_csv(tmp_path / "manifest.csv", index=False)
    uri = upload(tmp_path, f"{bucket}/data")
    requests.clear()
    cases, _ = load_cases(DataSettings(root=uri, layout="manifest"))
    assert cases == _moved(load_cases(DataSettings(root=str(tmp_path), layout="manifest"))[0], tmp_path, uri)
    assert len(requests) < 10  # not one for each file
    pd.DataFrame([*rows, {"case": "x", "image": "none.png"}]).to_csv(tmp_path / "manifest.csv", index=False)
    upload(tmp_path, uri)
    with pytest.raises(ConfigError, match=r"row 7 \(case x\): column image: there is no file or folder none.png"):
        load_cases(DataSettings(root=uri, layout="manifest"))


def test_phantoms_that_were_not_all_written_are_written_again(bucket: str, tmp_path: Path) -> None:
    uri = f"{bucket}/demo/scans"
    assert len(load_cases(DataSettings(root=uri, phantoms=3))[0]) == 3
    complete = names(uri)
    assert ".unfinished" not in complete
    store, path = elsewhere(uri)
    store.rm_file(f"{path}/{complete[0]}")
    put_elsewhere(f"{uri}/.unfinished", "")
    assert len(load_cases(DataSettings(root=uri, phantoms=3))[0]) == 3
    assert names(uri) == complete
    volumes = DataSettings(root=f"{bucket}/brats", layout="brats", phantoms=1, dims=3)
    assert read_volume(load_cases(volumes)[0][0].images["flair"]).values.ndim == 3


def test_readers(bucket: str, tmp_path: Path) -> None:
    scan(tmp_path, "a", (20, 30), np.s_[5:9, 5:9])
    nifti(tmp_path / "v.nii.gz", np.random.default_rng(0).random((5, 6, 7)).astype(np.float32))
    series(tmp_path / "ct")
    uri = upload(tmp_path, f"{bucket}/scans")
    put_elsewhere(f"{uri}/ct/", "")
    assert np.array_equal(read_image(f"{uri}/a.png"), read_image(f"{tmp_path}/a.png"))
    assert np.array_equal(read_mask(f"{uri}/a_mask.png"), read_mask(f"{tmp_path}/a_mask.png"))
    assert np.array_equal(read_volume(f"{uri}/v.nii.gz").values, read_volume(f"{tmp_path}/v.nii.gz").values)
    for path in (f"{uri}/ct", f"{uri}/ct#CT"):
        assert np.array_equal(read_volume(path).values, STORED)
    for missing in ("none.png", "none.nii.gz", "none", "ct.nii"):
        with pytest.raises(BadFile, match="the file does not exist"):
            (read_image if missing.endswith("png") else read_volume)(f"{uri}/{missing}")


def test_a_cache_is_read_block_by_block(bucket: str, tmp_path: Path, requests: list[Request]) -> None:
    images, labels = blobs(0, 64, (64, 64))
    local = write_cache(tmp_path / "cache", images, labels, (8, 8), rows=4)
    cache = PatchCache.open(upload(tmp_path / "cache", f"{bucket}/cache"))
    assert cache.samples.equals(local.samples)
    cache.read_block(0)
    requests.clear()
    block, expected = cache.read_block(7), local.read_block(7)
    for name, values in vars(expected).items():
        assert np.array_equal(getattr(block, name), values), name
    first, last = (int(number) for number in requests[-1].range.removeprefix("bytes=").split("-"))
    assert len(requests) == 2
    assert last - first < 2 * (tmp_path / "cache" / "patches-00000.parquet").stat().st_size / 16

    def batches(of: PatchCache) -> list[np.ndarray]:
        loader = PatchLoader(of, np.arange(64), LoaderSettings(), 0, 8, 0, 1, torch.device("cpu"))
        return [batch.patches.numpy() for batch in loader.batches(0, 64)]

    assert np.array_equal(batches(cache), batches(local))
    write_cache(tmp_path / "other", images, labels, (8, 8), rows=4, fingerprint="other")
    list(UPath(cache.root).iterdir())
    upload(tmp_path / "other", cache.root)
    assert PatchCache.open(cache.root).read_block(3).patches.shape == block.patches.shape
    with pytest.raises(RunError, match="was rewritten"):
        PatchCache(cache.root, local.manifest).read_block(3)
    with pytest.raises(RunError, match="no complete patch cache"):
        PatchCache.open(f"{bucket}/none")


def test_a_shard(bucket: str, tmp_path: Path) -> None:
    write_busi_phantoms(str(tmp_path), 3, 0)
    uri = upload(tmp_path, f"{bucket}/data")
    cases, _ = load_cases(DataSettings(root=uri))
    lock_file, settings = f"{bucket}/cache/owner.json", CacheSettings(size=(32, 32), patch=(8, 8))
    with OwnedLock(lock_file, "the cache") as lock:
        shard = Shard(f"{bucket}/cache", "p.parquet", tuple(cases), settings, 2, "f", lock_file, lock.token)
        assert standing(shard) is None
        report = write_shard(shard)
        assert (report.row_groups, report.rejected) == ([3], [])
        assert standing(shard) == report
        with pytest.raises(RunError, match="no longer held"):
            write_shard(Shard(**{**vars(shard), "fingerprint": "g", "token": "lost"}))
        assert standing(shard) == report
    assert names(f"{bucket}/cache") == ["p.parquet"]


def test_the_stores_own_checksums_stand_for_the_content(bucket: str, tmp_path: Path, requests: list[Request]) -> None:
    for index in range(3):
        scan(tmp_path, f"scan{index}", (20, 20), np.s_[5 + index : 9, 5:9])
    series(tmp_path / "ct")
    uri, other = upload(tmp_path, f"{bucket}/data"), upload(tmp_path, f"{bucket}/data2")

    def digests(root: str) -> dict[str, str]:
        files = {name: f"{root}/{name}" for name in ("scan0.png", "scan1.png", "ct#CT", "none.png")}
        found = digest_files([Case(name, name, "", {"image": file}, ()) for name, file in files.items()])
        return {name: found[file] for name, file in files.items()}

    requests.clear()
    before = digests(uri)
    assert before["none.png"] == "missing"
    assert len(set(before.values())) == 4
    assert all(r.method == "GET" and "list-type=2" in r.path for r in requests)  # nothing is downloaded
    list(UPath(uri).iterdir())
    assert digests(uri) == before == digests(other)
    store, path = elsewhere(uri)
    image = store.cat_file(f"{path}/scan0.png")
    store.pipe_file(f"{path}/scan0.png", image[:-1] + b"?")
    slices = sorted(store.ls(f"{path}/ct", detail=False))
    store.copy(slices[0], slices[1])
    assert [name for name, digest in digests(uri).items() if digest != before[name]] == ["scan0.png", "ct#CT"]


def test_predictions(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    scan(tmp_path, "wide", (50, 80), np.s_[10:30, 20:60])
    scan(tmp_path / "deep", "tall", (70, 41), np.s_[10:30, 10:30])
    uri, output = upload(tmp_path, f"{bucket}/scans"), UPath(f"{bucket}/scans/out")
    oracle = predictor(tmp_path / "model")
    for _ in range(2):  # the second time the results of the first are there
        cases = find_scans(uri, DataSettings(), 1, output)[0]
        assert [case.id for case in cases] == ["deep/tall", "wide"]
        predict(oracle, cases, PredictSettings(), output)
    predict(oracle, find_scans(str(tmp_path), DataSettings(), 1)[0], PredictSettings(), UPath(tmp_path / "out"))
    for name in ("masks/deep/tall.png", "overlays/wide.png"):
        with (output / name).open("rb") as stream:
            assert np.array_equal(np.asarray(Image.open(stream)), np.asarray(Image.open(tmp_path / "out" / name)))
    assert "deep/tall" in (output / "predictions.csv").read_text()
