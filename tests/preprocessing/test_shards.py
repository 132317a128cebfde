from __future__ import annotations

import errno

import pytest

from preprocessing.cache_settings import CacheSettings
from preprocessing.errors import RunError
from preprocessing.layouts import DataSettings, load_cases
from preprocessing.lock import OwnedLock
from preprocessing.phantoms.ultrasound import write_busi_phantoms
from preprocessing.shards import Shard, standing, write_shard


@pytest.fixture
def shard(tmp_path):
    write_busi_phantoms(str(tmp_path / "data"), 3, 0)
    cases, _ = load_cases(DataSettings(root=str(tmp_path / "data")))
    (tmp_path / "cache").mkdir()
    settings = CacheSettings(size=(32, 32), patch=(8, 8))
    lock = str(tmp_path / "cache" / "owner.json")
    return Shard(str(tmp_path / "cache"), "patches-00000.parquet", tuple(cases), settings, 2, "f", lock, "")


def test_a_shard_tells_what_is_in_it_and_is_found_again(shard, tmp_path):
    with OwnedLock(shard.lock, "the cache") as lock:
        owned = Shard(**{**vars(shard), "token": lock.token})
        report = write_shard(owned)
    assert report.row_groups == [3]
    assert standing(shard) == report
    assert standing(Shard(**{**vars(shard), "fingerprint": "other"})) is None


def test_who_lost_the_lock_puts_nothing_in_place(shard, tmp_path):
    with OwnedLock(shard.lock, "the cache"), pytest.raises(RunError, match="no longer held"):
        write_shard(shard)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_failed_write_leaves_nothing_behind(shard, tmp_path, monkeypatch):
    def fail(*_args, **_fields):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("preprocessing.shards.pq.ParquetWriter.write_table", fail)
    with pytest.raises(OSError, match="No space"):
        write_shard(shard)
    assert list((tmp_path / "cache").iterdir()) == []
