"""Runs, locks and checkpoints in an object store: a real S3 API on this machine."""

from __future__ import annotations

import errno
import json
import threading
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
import torch
from fsspec.registry import known_implementations
from s3fs import S3FileSystem
from upath import UPath

from pipeline.checkpoint import load_weights, save_weights
from pipeline.report.data import collect
from pipeline.report.page import write_report
from pipeline.report.status import status
from pipeline.runfolder import RunFolder
from pipeline.scans import find_scans
from pipeline.training.history import History, read_history
from pipeline.training.watch import watching_trials
from preprocessing.cache import PatchCache
from preprocessing.case import Case
from preprocessing.errors import ConfigError, RunError
from preprocessing.fingerprint import digest_files
from preprocessing.layouts import DataSettings, load_cases
from preprocessing.lock import OwnedLock, check_owner, is_owner
from preprocessing.object_store import StoreError, create, credentials_in, read_text, uri_mistake
from preprocessing.readers.images import read_image
from preprocessing.readers.volumes import read_volume
from preprocessing.storage import replacing, write_table, write_text
from tests.pipeline.report.test_page import _write_run
from tests.pipeline.training.test_history import _board, _record
from tests.preprocessing.tiny_cache import blobs, write_cache
from tests.s3_server import Request, elsewhere, names, put_elsewhere, upload

ELSEWHERE = {"host": "elsewhere", "pid": 1, "started": 0, "token": "t", "what": "the run", "beat": 0}


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
        until = time.monotonic() + 10
        while json.loads(read_text(UPath(file)))["beat"] < 1:  # until the heart beats
            assert time.monotonic() < until
        monkeypatch.setattr("preprocessing.lock.HEARTBEAT_S", 60)
        time.sleep(0.3)  # for a beat on its way
        put_elsewhere(file, json.dumps(ELSEWHERE))
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
    bucket: str, requests: list[Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr("tensorboardX.event_file_writer.time.time", lambda: now)  # event files go by the second
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
        until = time.monotonic() + 10
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
    put_elsewhere(f"{uri}/splits.csv", (tmp_path / "busi" / "splits.csv").read_text() + "\n")  # of another size
    local, remote = vars(collect(str(tmp_path / "busi"))), vars(collect(uri))
    assert (len(remote["cases"]), len(remote["pretrain"]), len(remote["pictures"]["evaluate"])) == (12, 3, 1)
    for search, trials in local.pop("trials").items():
        assert len(trials) > 1
        assert trials.equals(remote["trials"][search])
    for name in local.keys() - {"root"}:
        same = local[name].equals if isinstance(local[name], pd.DataFrame) else local[name].__eq__
        assert same(remote[name]), name
    put_elsewhere(f"{bucket}/short/config.yaml", "run: {seed: 0}")
    assert "short" in UPath(write_report(f"{bucket}/short")).read_text()
    status(f"{bucket}/short")
    with pytest.raises(ConfigError, match="holds no run"):
        status(f"{bucket}/none")


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
        lambda: find_scans(f"{bucket}/data", DataSettings(), 1)[0],
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


def test_uris_that_cannot_be_used_and_credentials_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.setitem(known_implementations, "absent", {"class": "absent_driver.Files", "err": "Install absent"})
    assert "not installed (Install absent)" in uri_mistake("data.root", "absent://bucket/data")
    assert "no kind of storage called s4://" in uri_mistake("data.root", "s4://bucket/data")
    assert [uri_mistake("data.root", uri) for uri in ("", "runs/a", "/runs/a", "s3://bucket/data")] == [""] * 4
    assert key not in str(told.value)
    assert secret not in str(told.value)
