"""Runs, caches, checkpoints and scans in an object store: a real S3 API on this machine (moto's server)."""

from __future__ import annotations

import errno
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
import torch
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from PIL import Image
from s3fs import S3FileSystem
from upath import UPath
from werkzeug.serving import make_server

from pipeline.checkpoint import load_weights, save_weights
from pipeline.predict import PredictSettings, find_scans, predict
from pipeline.report.data import collect
from pipeline.report.page import write_report
from pipeline.report.status import status
from pipeline.runfolder import RunFolder
from pipeline.training.history import History, read_history
from pipeline.training.loader import LoaderSettings, PatchLoader
from pipeline.training.watch import watching_trials
from preprocessing.cache import PatchCache
from preprocessing.cache_settings import CacheSettings
from preprocessing.case import BadFile, Case
from preprocessing.errors import ConfigError, RunError
from preprocessing.fingerprint import digest_files
from preprocessing.layouts import DataSettings, load_cases
from preprocessing.lock import OwnedLock, check_owner, is_owner
from preprocessing.object_store import StoreError, create, credentials_in, fresh, pyarrow_filesystem
from preprocessing.phantoms.ultrasound import write_busi_phantoms
from preprocessing.readers.images import read_image, read_mask
from preprocessing.readers.volumes import read_volume
from preprocessing.shards import Shard, standing, write_shard
from preprocessing.storage import replacing, write_table, write_text
from tests.pipeline.report.test_page import _write_run
from tests.pipeline.segmentation.test_inference import predictor, scan
from tests.pipeline.training.test_history import _board, _record
from tests.preprocessing.readers.dicom_files import STORED, series
from tests.preprocessing.readers.test_volumes import nifti
from tests.preprocessing.tiny_cache import blobs, write_cache

ELSEWHERE = {"host": "elsewhere", "pid": 1, "started": 0, "token": "t", "what": "the run", "beat": 0}


class Request(NamedTuple):
    method: str
    path: str
    range: str | None


@pytest.fixture(scope="module")
def requests() -> Iterator[list[Request]]:
    """An S3 server, known to all by the standard environment variables; gives the requests that it was sent.

    It answers one request after the other, so that a put with a condition is as atomic as it is on S3.
    """
    seen: list[Request] = []

    class Handler(MotoRequestHandler):
        def log_request(self, code: Any = "-", size: Any = "-") -> None:
            seen.append(Request(self.command, self.path, self.headers.get("Range")))

    application = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, application, threaded=False, request_handler=Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    S3FileSystem.clear_instance_cache()
    with pytest.MonkeyPatch.context() as environment:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_REGION"):
            environment.delenv(name, raising=False)
        known = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "NO_PROXY": "127.0.0.1",
        }
        for name, value in known.items():
            environment.setenv(name, value)
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        yield seen
    S3FileSystem.clear_instance_cache()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def bucket(requests: list[Request], request: pytest.FixtureRequest) -> str:
    """URI of a bucket of the test's own."""
    name = re.sub("[^a-z0-9]+", "-", request.node.name)[:60].strip("-")
    S3FileSystem().mkdir(name)
    requests.clear()
    return f"s3://{name}"


def elsewhere(uri: str) -> tuple[S3FileSystem, str]:
    """The store as another process has it, which knows of nothing that this one has listed, and path in it."""
    return S3FileSystem(use_listings_cache=False), uri.removeprefix("s3://")


def put_elsewhere(uri: str, content: str) -> None:
    store, path = elsewhere(uri)
    store.pipe_file(path, content.encode())


def upload(folder: Path, uri: str) -> str:
    store, path = elsewhere(uri)
    for file in folder.rglob("*"):
        if file.is_file():
            store.put_file(str(file), f"{path}/{file.relative_to(folder)}")
    return uri


def names(uri: str) -> list[str]:
    store, path = elsewhere(uri)
    return sorted(name.removeprefix(path).lstrip("/") for name in store.find(path))


def test_files_are_whole_or_not_there(bucket: str) -> None:
    root = UPath(bucket) / "run"
    write_text(root / "a.json", "first")
    write_text(root / "a.json", "the second one")
    table = pa.table({"x": list(range(100))})
    write_table(root / "t.parquet", table)
    assert (root / "a.json").read_text() == "the second one"
    with (root / "t.parquet").open("rb") as stream:
        assert pq.read_table(stream).equals(table)

    def fill_the_disk() -> None:
        with replacing(root / "half") as part, part.open("wb") as stream:
            stream.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fill_the_disk()
    assert names(bucket) == ["run/a.json", "run/t.parquet"]


@pytest.mark.parametrize("content", [b"", b"content"], ids=["empty", "some"])
def test_only_the_first_creates(bucket: str, content: bytes) -> None:
    file = UPath(bucket) / "claim"
    assert create(file, content)
    assert not create(file, b"another")
    assert file.read_bytes() == content


@pytest.mark.parametrize("stale", [False, True])
def test_of_owners_that_come_at_once_exactly_one_gets_the_lock(bucket: str, stale: bool) -> None:
    file = f"{bucket}/run/owner.json"
    if stale:
        put_elsewhere(file, json.dumps(ELSEWHERE))
    start, ended, won, lost = threading.Barrier(6), threading.Event(), [], []

    def attempt() -> None:
        start.wait()
        try:
            with OwnedLock(file, "the run") as lock:
                won.append(lock.token)
                ended.wait(20)
                check_owner(file, lock.token)
        except RunError as error:
            lost.append(str(error))

    threads = [threading.Thread(target=attempt) for _ in range(6)]
    for thread in threads:
        thread.start()
    while len(won) + len(lost) < 6:
        time.sleep(0.02)
    ended.set()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 5)
    assert "the run is in use by process" in lost[0]
    assert names(bucket) == []


def test_another_owner_may_come_between_a_look_and_the_put(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file, other = f"{bucket}/owner.json", json.dumps({**ELSEWHERE, "beat": time.time()})

    def late(path: UPath, content: bytes) -> bool:
        put_elsewhere(file, other)
        return create(path, content)

    monkeypatch.setattr("preprocessing.lock.create", late)
    with pytest.raises(RunError, match="in use by process 1 on elsewhere"), OwnedLock(file, "the run"):
        pass
    assert is_owner(file, "t")


def test_only_one_removes_the_lock_of_a_dead_owner(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("preprocessing.lock.CLAIM_S", 0.1)
    file, dead = f"{bucket}/owner.json", json.dumps(ELSEWHERE)
    put_elsewhere(file, dead)
    put_elsewhere(f"{file}-{sha256(dead.encode()).hexdigest()[:16]}", "claimed")  # by one that is about to
    OwnedLock(file, "the run")._remove_stale(dead)
    assert is_owner(file, "t")
    OwnedLock(file, "the run")._remove_stale(dead)  # whose claim is too old by now
    assert names(bucket) == []


def test_a_lock_is_kept_although_its_folder_was_listed_and_lost_to_another_token(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("preprocessing.lock.HEARTBEAT_S", 0.05)
    file = f"{bucket}/run/owner.json"
    with OwnedLock(file, "the run") as lock:
        list((UPath(bucket) / "run").iterdir())
        put_elsewhere(file, json.dumps({**ELSEWHERE, "token": lock.token, "beat": 0.123456789}))
        check_owner(file, lock.token)
        time.sleep(0.5)
        assert json.loads(fresh(UPath(file)).read_text())["beat"] > 1  # the heart beats
        put_elsewhere(file, json.dumps(ELSEWHERE))
        time.sleep(0.2)
        with pytest.raises(RunError, match="no longer held"):
            check_owner(file, lock.token)
    assert is_owner(file, "t")


def test_a_changed_stage_begins_empty_and_metrics_are_merged(bucket: str) -> None:
    said: list[str] = []
    folder = RunFolder(f"{bucket}/runs/one", said.append)
    with folder.locked():
        with folder.stage("pretrain", {"lr": 1}) as stage:
            list(UPath(f"{bucket}/runs/one/pretrain").iterdir())
            put_elsewhere(f"{stage.folder}/train/checkpoint[1]/old.bin", "of a worker")
            arrow = pyarrow.fs.FileSystem.from_uri(f"{bucket}/runs")[0]
            arrow.create_dir(f"{stage.folder.path}/train")  # it puts an empty object in each folder's place
        assert folder.is_done("pretrain", {"lr": 1})
        with folder.stage("pretrain", {"lr": 2}) as stage:
            assert names(f"{bucket}/runs/one/pretrain") == ["stage.json"]
    assert "lr changed: 1 -> 2" in said[2]
    folder.merge_metrics({"data": {"cases": 3}})
    list(UPath(f"{bucket}/runs/one").iterdir())
    put_elsewhere(f"{bucket}/runs/one/metrics.json", json.dumps({"data": {"cases": 3, "other": "longer than before"}}))
    folder.merge_metrics({"data": {"rejected": 1}})
    assert folder.read_metrics() == {"data": {"cases": 3, "other": "longer than before", "rejected": 1}}


def test_checkpoints(bucket: str) -> None:
    folder, weights = f"{bucket}/encoder", {"a.weight": torch.randn(300, 7), "b": torch.arange(3)}
    with pytest.raises(RunError, match="no checkpoint"):
        load_weights(folder)
    save_weights(folder, {"a.weight": torch.zeros(1)}, {"kind": "encoder"})
    list(UPath(folder).iterdir())
    store, path = elsewhere(folder)
    save_weights(UPath(f"{folder}2"), weights, {"kind": "encoder", "width": 7})
    for name in ("model.safetensors", "meta.json"):
        store.copy(f"{path}2/{name}", f"{path}/{name}")
    tensors, meta = load_weights(folder, "encoder")
    assert meta["width"] == 7
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {n: t.tolist() for n, t in weights.items()}


def test_a_history_goes_on_over_restarts_and_uploads_its_events_seldom(
    bucket: str, requests: list[Request], tmp_path: Path
) -> None:
    folder = UPath(bucket) / "pretrain"
    for position, epochs in ((0, range(1, 21)), (100, range(11, 31))):
        history = History(folder, position)
        for epoch in epochs:
            history.append(_record(epoch))
        history.close()
    assert [record["epoch"] for record in read_history(folder)] == [*range(1, 11), *range(11, 31)]
    assert sum(r.method == "PUT" and "tensorboard" in r.path for r in requests) == 4  # at once, and when closed
    store, path = elsewhere(str(folder / "tensorboard"))
    store.get(path, str(tmp_path / "events"), recursive=True)
    steps = [step for tag, step in _board(tmp_path / "events") if tag == "loss"]
    assert sorted(steps) == sorted([*range(10, 210, 10), *range(110, 310, 10)])


def test_a_driver_sees_what_other_processes_write(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.training.watch._STORE_POLL_S", 0.05)
    shown: list[int] = []
    monkeypatch.setattr("pipeline.training.watch.StageProgress.update", lambda _self, done, note="": shown.append(done))
    trials = UPath(bucket) / "trials"

    def write(trial: str, epochs: int) -> None:
        lines = [json.dumps({"epoch": epoch, "dsc": 0.5}) for epoch in range(1, epochs + 1)]
        put_elsewhere(str(trials / trial / "history.jsonl"), "\n".join(lines))

    def await_(done: int) -> None:
        until = time.monotonic() + 5
        while (not shown or shown[-1] != done) and time.monotonic() < until:
            time.sleep(0.02)
        assert shown[-1] == done

    write("a", 1)
    for folder in (trials, trials / "a"):
        list(folder.iterdir())  # as another part of the program may
    assert len(read_history(trials / "a")) == 1
    write("a", 3)
    assert len(read_history(trials / "a")) == 3
    with watching_trials("search", trials, 10, 2, "dsc"):
        await_(3)
        write("b", 2)
        await_(5)
    store, path = elsewhere(str(trials / "a" / "history.jsonl"))
    store.rm_file(path)
    assert read_history(trials / "a") == []


def test_the_report_finds_in_a_run_what_it_finds_on_a_disk(bucket: str, tmp_path: Path) -> None:
    _write_run(tmp_path / "busi")
    uri = upload(tmp_path / "busi", f"{bucket}/busi")
    list(UPath(uri).iterdir())
    put_elsewhere(f"{uri}/metrics.json", (tmp_path / "busi" / "metrics.json").read_text() + " ")  # of another size
    local, remote = vars(collect(str(tmp_path / "busi"))), vars(collect(uri))
    assert (len(remote["cases"]), len(remote["pretrain"]), len(remote["pictures"]["evaluate"])) == (12, 3, 1)
    for name in local.keys() - {"root"}:
        same = local[name].equals if isinstance(local[name], pd.DataFrame) else local[name].__eq__
        assert same(remote[name]), name
    put_elsewhere(f"{bucket}/short/config.yaml", "run: {seed: 0}")
    assert "short" in UPath(write_report(f"{bucket}/short")).read_text()
    status(f"{bucket}/short")
    with pytest.raises(ConfigError, match="holds no run"):
        status(f"{bucket}/none")


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
        cases = find_scans(uri, DataSettings(), 1, output)
        assert [case.id for case in cases] == ["deep/tall", "wide"]
        predict(oracle, cases, PredictSettings(), output)
    predict(oracle, find_scans(str(tmp_path), DataSettings(), 1), PredictSettings(), UPath(tmp_path / "out"))
    for name in ("masks/deep/tall.png", "overlays/wide.png"):
        with (output / name).open("rb") as stream:
            assert np.array_equal(np.asarray(Image.open(stream)), np.asarray(Image.open(tmp_path / "out" / name)))
    assert "deep/tall" in (output / "predictions.csv").read_text()


def test_arrow_heeds_the_endpoint(bucket: str) -> None:
    store, path = pyarrow_filesystem(f"{bucket}/run")
    with store.open_output_stream(f"{path}/a.txt") as stream:
        stream.write(b"of Arrow")
    assert isinstance(store, pyarrow.fs.S3FileSystem)
    assert (UPath(bucket) / "run" / "a.txt").read_bytes() == b"of Arrow"
    store, path = pyarrow_filesystem("memory://arrow/run")
    with store.open_output_stream(f"{path}/a.txt") as stream:
        stream.write(b"of fsspec")
    assert UPath("memory://arrow/run/a.txt").read_bytes() == b"of fsspec"


def test_a_missing_bucket_is_said_and_not_made(requests: list[Request]) -> None:
    with pytest.raises(StoreError, match="there is no such bucket"), RunFolder("s3://mistyped/run").locked():
        pass
    with pytest.raises(ConfigError, match="there is no folder s3://mistyped/data"):
        load_cases(DataSettings(root="s3://mistyped/data"))
    with pytest.raises(StoreError, match="there is no such bucket"):
        save_weights("s3://mistyped/encoder", {}, {"kind": "encoder"})
    assert "mistyped" not in S3FileSystem(use_listings_cache=False).ls("")


def test_a_store_that_cannot_be_reached_is_no_fault_of_the_files(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = write_cache(tmp_path, *blobs(0, 4, (16, 16)), (8, 8))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    S3FileSystem.clear_instance_cache()
    actions: list[Callable[[], object]] = [
        lambda: read_image(f"{bucket}/a.png"),
        lambda: read_volume(f"{bucket}/a.nii"),
        lambda: read_volume(f"{bucket}/ct"),
        lambda: load_cases(DataSettings(root=f"{bucket}/data")),
        lambda: find_scans(f"{bucket}/data", DataSettings(), 1),
        lambda: PatchCache.open(f"{bucket}/cache"),
        lambda: PatchCache(f"{bucket}/cache", cache.manifest).read_block(0),
        lambda: digest_files([Case("a", "a", "", {"image": f"{bucket}/a.png"}, ())]),
        lambda: OwnedLock(f"{bucket}/owner.json", "the run").__enter__(),
        lambda: write_text(UPath(f"{bucket}/a"), ""),
        lambda: load_weights(f"{bucket}/encoder"),
        lambda: read_history(UPath(f"{bucket}/pretrain")),
    ]
    for action in actions:
        with pytest.raises(StoreError, match="cannot be reached"):
            action()
    S3FileSystem.clear_instance_cache()


def test_credentials_in_uris_are_refused_unseen() -> None:
    key, secret = "AKIAEXAMPLE", "wJal/rXUtn+EMI"
    for uri in (
        f"s3://{key}:{secret}@bucket/run",
        f"s3://{key}@bucket/run",
        f"simplecache::s3://{key}:{secret}@bucket",
        "sftp://user:password@host/data",
        f"https://bucket.s3.amazonaws.com/a.nii?X-Amz-Credential={key}&X-Amz-Signature=ab12",
        "https://account.blob.core.windows.net/c/a.nii?sv=2024&sig=abc",
    ):
        assert credentials_in(uri), uri
    for uri in (
        "", "runs/a@b:c", "/data/user:x@y", "s3://bucket/a:b@c/d", "s3://arn:aws:s3:eu-west-1:1:accesspoint/p/a@b",
        "abfs://container@account.dfs.core.windows.net/a", "sftp://user@host/a", "http://host:8080/a@b?size=3",
    ):  # fmt: skip
        assert not credentials_in(uri), uri
    with pytest.raises(ConfigError, match=r"run\.dir: the URI holds credentials") as told:
        RunFolder(f"s3://{key}:{secret}@bucket/run")
    assert key not in str(told.value)
    assert secret not in str(told.value)
