from __future__ import annotations

import json
import subprocess
import sys
import threading
import time

import pytest

from preprocessing.errors import RunError
from preprocessing.lock import OwnedLock, check_owner, holder, is_owner
from preprocessing.object_store import StoreError
from preprocessing.storage import write_text

HOLD = """
import sys, time
from preprocessing.lock import OwnedLock
with OwnedLock(sys.argv[1], "the run"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_owner_is_refused_and_told_who_holds_it(tmp_path):
    file = str(tmp_path / "new folder" / "owner.json")
    with OwnedLock(file, "the run") as lock:
        check_owner(file, lock.token)
        with pytest.raises(RunError, match="the run is in use by process"), OwnedLock(file, "the run"):
            pass
    assert not is_owner(file, lock.token)
    with OwnedLock(file, "the run"):
        pass


def test_a_killed_owner_is_replaced_and_its_token_is_worth_nothing(tmp_path):
    file = tmp_path / "owner.json"
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(file)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    old = json.loads(file.read_text())["token"]
    with pytest.raises(RunError, match="in use"), OwnedLock(str(file), "the run"):
        pass
    assert holder(str(file))["pid"] == process.pid
    process.kill()
    process.wait()
    assert file.exists()
    assert holder(str(file)) is None
    with OwnedLock(str(file), "the run"), pytest.raises(RunError, match="no longer held"):
        check_owner(str(file), old)
    assert sorted(path.name for path in tmp_path.iterdir()) == []


def test_another_hosts_lock_counts_while_its_heart_beats(tmp_path):
    file = tmp_path / "owner.json"
    owner = {"host": "elsewhere", "pid": 1, "started": 0, "token": "t", "what": "the run", "beat": time.time()}
    file.write_text(json.dumps(owner))
    with pytest.raises(RunError, match="on elsewhere"), OwnedLock(str(file), "the run"):
        pass
    file.write_text(json.dumps({**owner, "beat": time.time() - 1000}))
    with OwnedLock(str(file), "the run") as lock:
        assert is_owner(str(file), lock.token)


def test_half_a_lock_file_does_not_block(tmp_path):
    (tmp_path / "owner.json").write_text('{"host": "here"')
    with OwnedLock(str(tmp_path / "owner.json"), "the run"):
        pass


def test_of_many_that_come_at_once_over_a_dead_owner_one_wins(tmp_path):
    file = tmp_path / "owner.json"
    owner = {"host": "elsewhere", "pid": 1, "started": 0, "token": "t", "what": "the run", "beat": 0}
    file.write_text(json.dumps(owner))
    start, ended, won, lost = threading.Barrier(8), threading.Event(), [], []

    def attempt():
        start.wait()
        try:
            with OwnedLock(str(file), "the run") as lock:
                won.append(lock.token)
                ended.wait(20)
        except RunError:
            lost.append(1)

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    while len(won) + len(lost) < 8:
        time.sleep(0.02)
    ended.set()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 7)


def test_the_lock_file_is_never_seen_half_written(tmp_path):
    file, seen, ended = tmp_path / "owner.json", [], threading.Event()

    def watch():
        while not ended.is_set():
            try:
                seen.append(file.read_text())
            except FileNotFoundError:
                continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(200):
        with OwnedLock(str(file), "the run"):
            pass
    ended.set()
    watcher.join()
    assert all(json.loads(text)["what"] == "the run" for text in seen)
    assert [path.name for path in tmp_path.iterdir()] == []


def test_one_who_comes_late_to_a_dead_owners_lock_leaves_the_new_one_alone(tmp_path):
    file = str(tmp_path / "owner.json")
    dead = {"host": "elsewhere", "pid": 1, "started": 0, "token": "t", "what": "the run", "beat": 0}
    with OwnedLock(file, "the run") as lock:
        OwnedLock(file, "the run")._remove_stale(json.dumps(dead))
        assert is_owner(file, lock.token)


def test_the_heart_beats(tmp_path, monkeypatch):
    monkeypatch.setattr("preprocessing.lock.HEARTBEAT_S", 0.05)
    file = tmp_path / "owner.json"
    with OwnedLock(str(file), "the run"):
        first = json.loads(file.read_text())["beat"]
        time.sleep(0.5)
        assert json.loads(file.read_text())["beat"] > first


@pytest.mark.parametrize("error", [OSError("no space left on device"), StoreError("no answer")])
def test_the_heart_beats_on_after_a_beat_that_could_not_be_written(tmp_path, monkeypatch, error):
    monkeypatch.setattr("preprocessing.lock.HEARTBEAT_S", 0.05)
    file, failures = tmp_path / "owner.json", [error, error]

    def write(path, text):
        if failures:
            raise failures.pop()
        write_text(path, text)

    with OwnedLock(str(file), "the run"):
        first = json.loads(file.read_text())["beat"]
        monkeypatch.setattr("preprocessing.lock.write_text", write)
        time.sleep(0.7)
        assert not failures
        assert json.loads(file.read_text())["beat"] > first
