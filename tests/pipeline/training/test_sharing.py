"""Whether all machines see a run's folders."""

from types import SimpleNamespace

import pytest
import ray

from pipeline.training import sharing
from pipeline.training.sharing import check_shared
from preprocessing.errors import RunError


def test_a_machine_that_has_just_gone_does_not_stop_a_run(ray_session, tmp_path, monkeypatch):
    gone = {"Alive": True, "NodeID": "a" * 56, "NodeName": "gone"}
    monkeypatch.setattr(ray, "nodes", lambda: [gone])
    check_shared({"run.dir": str(tmp_path)})
    assert not list(tmp_path.iterdir())


def test_a_folder_that_another_machine_does_not_see_is_refused(tmp_path, monkeypatch):
    """Another machine has a folder of its own where this one has `mine`."""

    def on_the_other(function):
        def remote(files):
            return function({field: file.replace("mine", "theirs") for field, file in files.items()})

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=remote))

    nodes = [{"Alive": alive, "NodeID": name * 56, "NodeName": name} for name, alive in (("a", 1), ("b", 1), ("c", 0))]
    fake = SimpleNamespace(
        get_runtime_context=lambda: SimpleNamespace(get_node_id=lambda: "a" * 56),
        nodes=lambda: nodes,
        remote=lambda **_: on_the_other,
        get=lambda found, **_: found,
    )
    monkeypatch.setattr(sharing, "ray", fake)
    folders = {"run.dir": str(tmp_path / "mine"), "cache.dir": str(tmp_path / "shared"), "data.root": "s3://b/scans"}
    with pytest.raises(RunError, match=r"run\.dir = .*mine: not seen by the machine\(s\) b; give a folder"):
        check_shared(folders)
    check_shared({"cache.dir": str(tmp_path / "shared")})
    (tmp_path / "mine-scans").mkdir()
    scans = {"data.root": str(tmp_path / "mine-scans")}
    with pytest.raises(RunError, match=r"data\.root = .*mine-scans: not seen by the machine\(s\) b"):
        check_shared({"cache.dir": str(tmp_path / "shared")}, scans)
    check_shared({"cache.dir": str(tmp_path / "shared")}, {"data.root": str(tmp_path)})
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]
