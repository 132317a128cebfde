"""Whether all machines see a run's folders."""

import ray

from pipeline.training.sharing import check_shared


def test_a_machine_that_has_just_gone_does_not_stop_a_run(ray_session, tmp_path, monkeypatch):
    gone = {"Alive": True, "NodeID": "a" * 56, "NodeName": "gone"}
    monkeypatch.setattr(ray, "nodes", lambda: [gone])
    check_shared({"run.dir": str(tmp_path)})
    assert not list(tmp_path.iterdir())
